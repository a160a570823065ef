"""Dense directions by machine code: one pass over each, on all cores.

One pass over each direction: drawn into a buffer that fits the cache, measured, used, forgotten.

``sweep`` handles a range of directions, counted through all groups: direction i of group g is number g d + i. With
raw entries x_i, r_i = 1 / |x_i| (or one constant) and phi_i = r_i x_i::

    gather            c_i = r_i <v, x_i>
    scatter           u  += (r_i c_i) x_i
    gather, scatter   both, with the c_i just found

Numba compiles on first use and keeps the machine code on disk, if it finds a folder to write to. Every helper is
inlined into the kernels: the process that compiles would call one that stays a function in a module of its own, where
LLVM has optimised it otherwise than its copy on disk, and a run would differ in last bits from its continuation.

From NumPy arrays to kernels: tasks of equal work, outputs that TensorFlow takes over as they are.

Work is cut into ranges of directions: one for each thread, a few if there is much of it, fewer in all if there is
little. A task adds into the output of a group if it draws the first direction of that group, else into a vector of
its own; these are added up in order. So the last bits of the update depend on how many threads there are, but nothing
depends on their timing.
"""

import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
from numba import njit

from rbd_ipu.directions.native.stream import (
    add,
    f32,
    fill_words,
    fold_in,
    normal_dot,
    normal_fill,
    plane_add,
    plane_dot,
    plane_norm,
    schedule,
    threefry,
    u32,
    uniform_dot,
    uniform_fill,
)
from rbd_ipu.directions.native.threads import KEPT_FLOATS, Buffers, run_tasks, thread_count
from rbd_ipu.directions.stream import PLANE

NORMAL, UNIFORM, SIGNS = 0, 1, 2
# How a distribution is drawn, and what is added to a sign.
KINDS = {
    "normal": (NORMAL, 0.0),
    "uniform": (UNIFORM, 0.0),
    "rademacher": (SIGNS, 0.0),
    "bernoulli-0.5": (SIGNS, -0.5),
}

# Entries that are summed in float32, in the 16 or more lanes of a vector register, before float64 takes over.
TILE = 16384
_BITS = 32 * PLANE  # entries that PLANE words hold


def scratch_length(kind: int, n: int, keep: bool) -> int:
    """Floats of the buffer for a direction, or for a tile of it where the direction is used only once."""
    if kind == SIGNS:
        return -(-n // _BITS) * PLANE
    return n if keep else min(n, TILE)


@njit(forceinline=True)
def _measure(kind, mean, a, w, v, z, gather, n):
    """Draws a direction; returns <v, x> (0 unless gather) and |x|^2 in float64."""
    s, q = 0.0, 0.0
    if kind == SIGNS:
        words = z.view(np.uint32)
        fill_words(a, w, words)
        for start in range(0, n, PLANE):
            tile, shift, stop = _plane(words, start, n)
            if gather:
                ds, dq = plane_dot(tile, shift, f32(mean), v[start:stop])
                s += ds
            else:
                dq = plane_norm(tile, shift, f32(mean), stop - start)
            q += dq
        return s, q
    for start in range(0, n, TILE):
        stop = min(n, start + TILE)
        offset = u32(a + u32(u32(start) * w))
        tile = z[start:stop] if z.shape[0] == n else z[: stop - start]
        if gather:
            if kind == NORMAL:
                ds, dq = normal_dot(offset, w, v[start:stop], tile)
            else:
                ds, dq = uniform_dot(offset, w, v[start:stop], tile)
            s += ds
        elif kind == NORMAL:
            dq = normal_fill(offset, w, tile)
        else:
            dq = uniform_fill(offset, w, tile)
        q += dq
    return s, q


@njit(forceinline=True)
def _plane(words, start, n):
    """The words, shift and end of the plane that begins at entry ``start``."""
    plane = start // PLANE
    first = (plane // 32) * PLANE
    return words[first : first + PLANE], u32(31 - plane % 32), min(n, start + PLANE)


@njit(forceinline=True)
def _add(kind, mean, r, z, out):
    """out += r x, for the direction just drawn."""
    n = out.shape[0]
    if kind == SIGNS:
        words = z.view(np.uint32)
        for start in range(0, n, PLANE):
            tile, shift, stop = _plane(words, start, n)
            plane_add(r, tile, shift, f32(mean), out[start:stop])
    else:
        add(r, z, out)


@njit(forceinline=True)
def _pair(seeds, g, i):
    """Offset and step of direction i of a group."""
    k0, k1 = fold_in(u32(seeds[g, 0]), u32(seeds[g, 1]), u32(i))
    return schedule(k0, k1)


def compile_loop(function: Callable) -> Any:
    """Compiles without the GIL, cached on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache can be written to
        return njit(nogil=True, error_model="numpy")(function)


def digest() -> str:
    """Of all code that ends up in the kernels: Numba's cache looks at one file only."""
    folder = Path(__file__).parent
    files = [folder.parent / "stream.py", folder.parent.parent / "seeds.py"]
    text = b"".join(path.read_bytes() for path in [*sorted(folder.glob("*.py")), *files])
    return hashlib.sha256(text).hexdigest()


def _build(digest: str) -> Any:
    """The kernels. They hold ``digest`` in a closure, which Numba makes a part of the key of its cache."""

    def sweep(kind, mean, unit, scale, seeds, first, last, vectors, coordinates, out, head, z, gather, scatter):
        """Works on directions first ... last - 1 in buffer z; those of a group begun before go to ``head``."""
        digest  # noqa: B018
        d, n = coordinates.shape[1], out.shape[1]
        total = head
        for index in range(first, last):
            g, i = index // d, index % d
            if scatter and (index == first or i == 0):
                total = head if i else out[g]
                total[:] = 0
            a, w = _pair(seeds, g, i)
            s, q = _measure(kind, mean, a, w, vectors[g], z, gather, n)
            r = 1.0 / np.sqrt(q) if unit else scale
            if gather:
                coordinates[g, i] = s * r
            if scatter:
                c = s * r if gather else np.float64(coordinates[g, i])
                _add(kind, mean, f32(c * r), z, total)

    def rows(kind, mean, unit, scale, seeds, start, out, z):
        """out[g, i] <- phi_{start + i} of group g."""
        digest  # noqa: B018
        groups, count, n = out.shape
        for g in range(groups):
            for i in range(count):
                a, w = _pair(seeds, g, start + i)
                _, q = _measure(kind, mean, a, w, z, z, False, n)
                out[g, i] = 0
                _add(kind, mean, f32(1.0 / np.sqrt(q) if unit else scale), z, out[g, i])

    def join(out, head):
        """out += head."""
        digest  # noqa: B018
        add(f32(1), head, out)

    def compartment_seeds(words, step, worker, names, members, out):
        """out[k] <- the seed of compartment members[k], from the run's: see ``subspace.py``.

        ``names`` int32 [3, 2] are the words of "step", "worker" and "compartment".
        """
        digest  # noqa: B018
        k0, k1 = threefry(u32(words[0]), u32(words[1]), u32(names[0, 0]), u32(names[0, 1]))
        k0, k1 = fold_in(k0, k1, u32(step))
        k0, k1 = threefry(k0, k1, u32(names[1, 0]), u32(names[1, 1]))
        k0, k1 = fold_in(k0, k1, u32(worker))
        k0, k1 = threefry(k0, k1, u32(names[2, 0]), u32(names[2, 1]))
        for k in range(members.shape[0]):
            a, b = fold_in(k0, k1, u32(members[k]))
            out[k, 0], out[k, 1] = np.int32(a), np.int32(b)

    return compile_loop(sweep), compile_loop(rows), compile_loop(join), compile_loop(compartment_seeds)


sweep, rows, join, compartment_seeds = _build(digest())


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
        self._sweep(seeds, vectors, coordinates, empty(0, self.size), True, False)
        return coordinates

    def expand(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        update = empty(self.groups, self.size)
        self._sweep(seeds, update, coordinates, update, False, True)
        return update

    def sketch(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, update = empty(self.groups, self.dim), empty(self.groups, self.size)
        self._sweep(seeds, vectors, coordinates, update, True, True)
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

    def _sweep(self, seeds, vectors, coordinates, update, gather, scatter) -> None:  # type: ignore[no-untyped-def]
        seeds, vectors, coordinates = plain(seeds), plain(vectors), plain(coordinates)
        threads = thread_count()
        tasks = self._tasks or self.tasks(threads)
        ends = np.arange(tasks + 1) * (self.groups * self.dim) // tasks
        shared = [t for t in range(1, tasks) if scatter and ends[t] % self.dim]
        heads = {t: BUFFERS.take(self.size) for t in shared}
        length = scratch_length(self._row[0], self.size, scatter)

        def task(t: int) -> None:
            z, head = BUFFERS.take(length), heads.get(t, NOTHING)
            sweep(*self._row, seeds, ends[t], ends[t + 1], vectors, coordinates, update, head, z, gather, scatter)
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


class Rooms:
    """Arrays of which the memory is used again once nothing refers to them.

    Fresh memory costs a page fault for every 4 KB, which can take longer than what is written there.

    Example:
      >>> rooms = Rooms()
      >>> rooms.take(100).shape
      (100,)
    """

    def __init__(self) -> None:
        self._free: Dict[int, List[np.ndarray]] = {}

    def take(self, size: int) -> np.ndarray:
        """float32 [size], not set to anything."""
        free = self._free.setdefault(size, [])
        try:
            room = free.pop()
        except IndexError:
            room = empty(1, size)[0]
        return np.asarray(_Lent(room, free))


class _Lent:
    """What an array of :class:`Rooms` stands on; goes back when the last such array does."""

    def __init__(self, room: np.ndarray, free: List[np.ndarray]):
        self._room, self._free = room, free
        self.__array_interface__ = room.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._room)
