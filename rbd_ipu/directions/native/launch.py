"""From NumPy arrays to kernels: tasks of equal work, outputs that TensorFlow takes over as they are.

Work is cut into ranges of directions: one for each thread, a few if there is much of it, fewer in all if there is
little. A task adds into the output of a group if it draws the first direction of that group, else into a vector of
its own; these are added up in order. So the last bits of the update depend on how many threads there are, but nothing
depends on their timing.
"""

from typing import Tuple

import numpy as np

from rbd_ipu.directions.native.buffers import KEPT_FLOATS, Buffers
from rbd_ipu.directions.native.kernels import KINDS, join, rows, scratch_length, walk
from rbd_ipu.directions.native.threads import run_tasks, thread_count

# Samples worth a task of their own: 0.05 ms of drawing, a few times what it costs to wake a thread.
TASK_SAMPLES = 200_000
# With much work each thread gets several tasks, so that a busy core delays the others less.
ROUND_SAMPLES, MOST_ROUNDS = 3_000_000, 4

BUFFERS = Buffers(most=32)
NOTHING = np.empty(0, np.float32)


class Launcher:
    """Runs the kernels for bases of one kind: shapes, distribution and scale."""

    def __init__(self, groups: int, size: int, dim: int, distribution: str, unit: bool, scale: float, tasks: int = 0):
        self.groups, self.size, self.dim = groups, size, dim
        self._row = (*KINDS[distribution], unit, float(scale))
        self._tasks = tasks

    def project(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        coordinates = empty(self.groups, self.dim)
        self._walk(seeds, vectors, coordinates, empty(0, self.size), True, False)
        return coordinates

    def expand(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        update = empty(self.groups, self.size)
        self._walk(seeds, update, coordinates, update, False, True)
        return update

    def sketch(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, update = empty(self.groups, self.dim), empty(self.groups, self.size)
        self._walk(seeds, vectors, coordinates, update, True, True)
        return coordinates, update

    def directions(self, seeds: np.ndarray, start: int, count: int) -> np.ndarray:
        out = np.empty((self.groups, count, self.size), np.float32)
        z = BUFFERS.take(scratch_length(self._row[0], self.size, True))
        rows(*self._row, plain(seeds), start, out, z)
        BUFFERS.give(z)
        return out

    def tasks(self, threads: int) -> int:
        """How many tasks the work is cut into."""
        directions, samples = self.groups * self.dim, self.groups * self.dim * self.size
        wanted = min(threads, samples // TASK_SAMPLES)
        if wanted > 1:
            rounds = samples // (threads * ROUND_SAMPLES)
            wanted *= max(1, min(rounds, MOST_ROUNDS, KEPT_FLOATS // (self.size * threads)))
        return max(1, min(wanted, directions))

    def _walk(self, seeds, vectors, coordinates, update, gather, scatter) -> None:  # type: ignore[no-untyped-def]
        seeds, vectors, coordinates = plain(seeds), plain(vectors), plain(coordinates)
        threads = thread_count()
        tasks = self._tasks or self.tasks(threads)
        ends = np.arange(tasks + 1) * (self.groups * self.dim) // tasks
        shared = [t for t in range(1, tasks) if scatter and ends[t] % self.dim]
        heads = {t: BUFFERS.take(self.size) for t in shared}
        length = scratch_length(self._row[0], self.size, scatter)

        def task(t: int) -> None:
            z, head = BUFFERS.take(length), heads.get(t, NOTHING)
            walk(*self._row, seeds, ends[t], ends[t + 1], vectors, coordinates, update, head, z, gather, scatter)
            BUFFERS.give(z)

        run_tasks(tasks, threads, task)
        for t, head in heads.items():
            join(update[ends[t] // self.dim], head)
            BUFFERS.give(head)


def plain(array: np.ndarray) -> np.ndarray:
    """The array as kernels were compiled for: writeable, aligned, in C order; a copy only if it is not."""
    return array if array.flags.carray else np.require(array, requirements=["C", "A", "W"])


def empty(rows: int, columns: int) -> np.ndarray:
    """float32 [rows, columns] at a multiple of 64 bytes: TensorFlow then takes it over without a copy."""
    room = np.empty(rows * columns + 16, np.float32)
    skip = -room.__array_interface__["data"][0] % 64 // 4
    return room[skip : skip + rows * columns].reshape(rows, columns)
