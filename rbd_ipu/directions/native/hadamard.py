"""The Hadamard basis by machine code: source ``native``.

One basis after the other, start to end on one thread: signs, transform, rows, transform, signs.
"""

import hashlib
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
from numba import njit

from rbd_ipu._compat import inside_xla
from rbd_ipu.directions.hadamard import ROUNDS, Hadamard, grid, in_ranks
from rbd_ipu.directions.native.dense import BUFFERS, Rooms, compile_loop, digest, empty, plain
from rbd_ipu.directions.native.hadamard_rows import (
    chosen,
    chosen_bits,
    exchange,
    keep,
    place_bits,
    place_tables,
    round_tables,
    worth,
)
from rbd_ipu.directions.native.hadamard_transform import PANEL, across, along, along_back, copy, tile, twos
from rbd_ipu.directions.native.loops import fill_words, loop, signed
from rbd_ipu.directions.native.op import call_from_graph
from rbd_ipu.directions.native.stream import fold_in, schedule, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import PLANE


@loop
def _signed(words, shift, scale, x, y):
    """y <- scale * s * x for a plane."""
    for j in range(y.shape[0]):
        y[j] = signed(x[j], words[j], shift) * scale


@njit(error_model="numpy")
def _apply_signs(words, scale, x, y):
    n = y.shape[0]
    for start in range(0, n, PLANE):
        plane, stop = start // PLANE, min(n, start + PLANE)
        first = (plane // 32) * PLANE
        _signed(words[first : first + PLANE], u32(31 - plane % 32), scale, x[start:stop], y[start:stop])


def _digest_here() -> str:
    text = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((digest() + text).encode("utf-8")).hexdigest()


def _build(digest: str) -> Any:
    """The kernel; ``digest`` of all its code becomes a part of the key of Numba's cache."""

    def sketch(keys, first, last, shape, dim, scale, where, vectors, coordinates, out, work, words, gather, scatter):
        """Bases first ... last - 1: coordinates of the vectors (gather), update from coordinates (scatter).

        The key of a basis is a seed, and the rank of its first direction. Where both results are wanted and there is
        no room for coordinates, they are not written down, and less memory is gone through.
        """
        digest  # noqa: B018
        a, b, parts, base, rows, A, B = shape
        n = vectors.shape[1] if gather else out.shape[1]
        N, part, group = a * b, a // parts * b, rows * b
        through = coordinates.shape[1] == 0
        # As little memory as can be: after the network has used the caches, it is what a transform waits for.
        x, panels = work[:N], np.empty((2, PANEL), np.float32)
        groups = np.empty((2, group), np.float32)
        z = work[N:] if gather and scatter and not through else x
        mask = np.empty(N if through else 0, np.uint8)
        tables = np.empty((ROUNDS, max(A, B)), np.uint64)
        for g in range(first, last):
            k0, k1, rank = u32(keys[g, 0]), u32(keys[g, 1]), np.int64(keys[g, 2])
            offset, step = fold_in(k0, k1, u32(0))
            offset, step = schedule(offset, step)
            fill_words(offset, step, words)
            round_tables(k0, k1, A, B, tables)
            if gather:
                _apply_signs(words, np.float32(1), vectors[g], x[:n])
                x[n:] = 0
                across(x, parts, part, panels)
            if through:
                if worth(A, B, dim):
                    place_bits(chosen_bits(tables, A, B, rank, dim), group, b // base, mask)
                else:
                    chosen(tables, A, B, b, rank, dim, where, mask)
            # There, and back; both at once where nothing is to be written down. (A loop: each part is compiled once.)
            for way in range(2):
                there, back = gather and way == 0, scatter and (through == (way == 0))
                if way == 1 and not through:
                    if scatter:
                        z[:] = 0
                    exchange(tables, A, B, b, scale, rank, gather, scatter, where, coordinates[g], x, z)
                for p in range(0, N if there or back else 0, part):
                    if there:
                        twos(x[p : p + part], a // parts, b)
                    for q in range(p, p + part, group):
                        k = 0
                        if there:
                            k = along(x[q : q + group], rows, b, base, groups, panels)
                        else:
                            copy(z[q : q + group], groups[0])
                        if through:
                            keep(mask[q : q + group], scale, groups[k])
                        if back:
                            along_back(groups, k, rows, b, base, x[q : q + group], panels)
                        else:
                            copy(groups[k], x[q : q + group])
                    if back:
                        twos(x[p : p + part], a // parts, b)
            if scatter:
                across(x, parts, part, panels)
                _apply_signs(words, scale, x[:n], out[g])

    return compile_loop(sketch)


def work_length(N: int, both: bool) -> int:
    """Floats of the working memory: a vector, and where its coordinates are wanted and used as well, another."""
    return (1 + both) * N


sketch = _build(_digest_here())


class NativeHadamard(Source):
    """Each basis on one thread, bases of a group side by side; inside XLA, the operations of :class:`Hadamard`.

    At 10^5 parameters a basis takes 0.1 to 0.3 ms, so little that to share one among threads would not pay.
    """

    jit = False
    one_draw = True
    takes_later = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = Hadamard(groups, size, dim, normalize)
        self.groups, self.size, self.dim = groups, size, dim
        a, b = self._ops.a, self._ops.b
        parts, base, rows = tile(a, b)
        self._shape = (a, b, parts, base, rows, *grid(a, b))
        self._where = place_tables(a, b, base, rows)
        self._scale, self._rooms = np.float32(self._ops.scale), Rooms()
        self._words = -(-size // (32 * PLANE)) * PLANE
        self._shapes: Dict[str, Any] = {"coordinates": [groups, dim], "vectors": [groups, size]}

    def worker_keys(self, seeds: Any, worker: Any) -> Any:
        if not isinstance(seeds, np.ndarray):
            return self._ops.worker_keys(seeds, worker)
        first = np.multiply(worker, self.dim, dtype=np.int32) % self._ops.padded
        return np.concatenate([seeds, np.full([self.groups, 1], first, np.int32)], axis=1)

    def join(self, messages: Any, seeds: Any) -> Any:
        return self.expand(in_ranks(messages, self._ops.padded), seeds)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._ops.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.project(vectors, seeds)
        return call_from_graph(self._gather, [vectors, seeds], [self._shapes["coordinates"]])[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.expand(coordinates, seeds)
        return call_from_graph(self._scatter, [coordinates, seeds], [self._shapes["vectors"]])[0]

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.sketch(vectors, seeds)
        return tuple(call_from_graph(self._both, [vectors, seeds], list(self._shapes.values())))

    def filter(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.filter(vectors, seeds)
        return call_from_graph(self._through, [vectors, seeds], [self._shapes["vectors"]])[0]

    def _room(self, columns: int) -> np.ndarray:
        return self._rooms.take(self.groups * columns).reshape(self.groups, columns)

    def _through(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = self._room(self.size)
        self._run(seeds, plain(vectors), empty(self.groups, 0), out, True, True)
        return out

    def _gather(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        coordinates = self._room(self.dim)
        self._run(seeds, plain(vectors), coordinates, empty(self.groups, 0), True, False)
        return coordinates

    def _scatter(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = self._room(self.size)
        self._run(seeds, out, plain(coordinates), out, False, True)
        return out

    def _both(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, out = self._room(self.dim), self._room(self.size)
        self._run(seeds, plain(vectors), coordinates, out, True, True)
        return coordinates, out

    def _run(self, seeds: np.ndarray, *arguments: Any) -> None:
        keys = np.zeros((self.groups, 3), np.int32)
        keys[:, : seeds.shape[1]] = seeds
        if self.groups == 1:  # the usual case, in which a millisecond counts: no tasks, no threads to ask for
            self._work(keys, 0, 1, *arguments)
            return
        threads = thread_count()
        tasks = min(threads, self.groups)
        ends = [t * self.groups // tasks for t in range(tasks + 1)]
        run_tasks(tasks, threads, lambda t: self._work(keys, ends[t], ends[t + 1], *arguments))

    def _work(
        self,
        keys: np.ndarray,
        first: int,
        last: int,
        vectors: Any,
        coordinates: Any,
        out: Any,
        gather: bool,
        scatter: bool,
    ) -> None:
        """The bases first ... last - 1, on this thread."""
        both = gather and scatter and coordinates.shape[1] > 0
        work = BUFFERS.take(work_length(self._ops.padded, both))
        words = np.empty(self._words, np.uint32)
        sketch(
            keys,
            first,
            last,
            self._shape,
            self.dim,
            self._scale,
            self._where,
            vectors,
            coordinates,
            out,
            work,
            words,
            gather,
            scatter,
        )
        BUFFERS.give(work)
