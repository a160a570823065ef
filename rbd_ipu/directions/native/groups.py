"""Groups by machine code: source ``native``. A task is a range of directions, or of rows.

A row of parameters lies along the directions in two runs, before and after its shift wraps round; runs are added, or
copied, as wholes. A direction adds its parameters up row by row, so that nothing depends on the number of threads.
"""

from typing import Any, Tuple

import numpy as np
from numba import njit

from rbd_ipu._compat import inside_xla
from rbd_ipu.directions.groups import Groups
from rbd_ipu.directions.native.dense import compile_loop, digest, empty, plain
from rbd_ipu.directions.native.loops import fill_words
from rbd_ipu.directions.native.op import call_from_graph
from rbd_ipu.directions.native.stream import SIGN, bits_of, f32, float_of, fold_in, hash32, schedule, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import PLANE

exact = njit(error_model="numpy", forceinline=True)
# Parameters worth a task of their own.
TASK = 1 << 18


@exact
def _add_signed(words, shift, x, total):
    for j in range(x.shape[0]):
        total[j] += float_of(u32(bits_of(x[j]) ^ u32(u32(words[j] << shift) & SIGN)))


@exact
def _copy_signed(words, shift, x, out):
    for j in range(x.shape[0]):
        out[j] = float_of(u32(bits_of(x[j]) ^ u32(u32(words[j] << shift) & SIGN)))


@exact
def _run(words, j, x, out, adds):
    """out (+)= s x for x from parameter j on, in planes of one shift."""
    done, n = 0, x.shape[0]
    while done < n:
        plane = (j + done) // 1024
        stop = min(n, (plane + 1) * 1024 - j)
        first = (plane // 32) * 1024 + (j + done) % 1024
        own, shift = words[first : first + stop - done], u32(31 - plane % 32)
        if adds:
            _add_signed(own, shift, x[done:stop], out[done:stop])
        else:
            _copy_signed(own, shift, x[done:stop], out[done:stop])
        done = stop


def _build(digest: str) -> Any:
    def draw(seed, dim, words, shifts):
        """The words of the signs, and the shifts of the rows."""
        digest  # noqa: B018
        a, b = fold_in(u32(seed[0]), u32(seed[1]), u32(0))
        offset, step = schedule(a, b)
        fill_words(offset, step, words)
        a, b = fold_in(u32(seed[0]), u32(seed[1]), u32(1))
        offset, step = schedule(a, b)
        for r in range(shifts.shape[0]):
            shifts[r] = np.int64(hash32(u32(offset + u32(u32(r) * step))) >> u32(1)) % dim

    def project(words, shifts, v, first, last, c):
        """Directions first ... last - 1: sums, not yet scaled."""
        digest  # noqa: B018
        n, d = v.shape[0], c.shape[0]
        c[first:last] = 0
        for r in range(shifts.shape[0]):
            width = min(d, n - r * d)
            # Place q of the row belongs to direction q + a, or to q + a - d.
            for turn in range(2):
                begin = max(0, first - shifts[r] + turn * d)
                end = min(width, last - shifts[r] + turn * d)
                begin, end = max(begin, turn * (d - shifts[r])), end if turn else min(end, d - shifts[r])
                if begin < end:
                    i = begin + shifts[r] - turn * d
                    _run(words, r * d + begin, v[r * d + begin : r * d + end], c[i : i + end - begin], True)

    def expand(words, shifts, c, first, last, u):
        """Rows first ... last - 1 of the coordinates' signed copies."""
        digest  # noqa: B018
        n, d = u.shape[0], c.shape[0]
        for r in range(first, last):
            width, a = min(d, n - r * d), shifts[r]
            whole = min(width, d - a)
            _run(words, r * d, c[a : a + whole], u[r * d : r * d + whole], False)
            if whole < width:
                _run(words, r * d + whole, c[: width - whole], u[r * d + whole : r * d + width], False)

    return compile_loop(draw), compile_loop(project), compile_loop(expand)


draw, project_range, expand_rows = _build(digest())


class NativeGroups(Source):
    """The operations of :class:`rbd_ipu.directions.groups.Groups`, by kernels; inside XLA by TensorFlow's."""

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = Groups(groups, size, dim, normalize)
        self._groups, self._size, self._dim = groups, size, dim

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._ops.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.project(vectors, seeds)
        return call_from_graph(self._project, [vectors, seeds], [[self._groups, self._dim]])[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.expand(coordinates, seeds)
        return call_from_graph(self._expand, [coordinates, seeds], [[self._groups, self._size]])[0]

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.sketch(vectors, seeds)
        shapes = [[self._groups, self._dim], [self._groups, self._size]]
        return tuple(call_from_graph(self._sketch, [vectors, seeds], shapes))

    def filter(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.filter(vectors, seeds)
        return call_from_graph(lambda v, s: self._sketch(v, s)[1], [vectors, seeds], [[self._groups, self._size]])[0]

    def _project(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return self._both(vectors, None, seeds)[0]

    def _expand(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return self._both(None, coordinates, seeds)[1]

    def _sketch(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        return self._both(vectors, None, seeds, True)

    def _both(self, vectors: Any, coordinates: Any, seeds: np.ndarray, back: bool = False) -> Any:
        seeds, threads = plain(seeds), thread_count()
        tasks = max(1, min(4 * threads, self._size // TASK))
        words = np.empty(-(-self._size // (32 * PLANE)) * PLANE, np.uint32)
        shifts = np.empty(self._ops.rows, np.int64)
        c = empty(self._groups, self._dim) if coordinates is None else plain(coordinates)
        u = empty(self._groups, self._size) if back or vectors is None else None
        for g in range(self._groups):
            draw(seeds[g], self._dim, words, shifts)
            scales = self._scales(int(shifts[-1]))
            if vectors is not None:
                v, ends = plain(vectors)[g], np.arange(tasks + 1) * self._dim // tasks
                run_tasks(
                    tasks,
                    threads,
                    lambda t: project_range(words, shifts, v, ends[t], ends[t + 1], c[g]),  # noqa: B023
                )
                c[g] *= scales
            if u is not None:
                scaled, ends = c[g] * scales, np.arange(tasks + 1) * self._ops.rows // tasks
                run_tasks(
                    tasks,
                    threads,
                    lambda t: expand_rows(words, shifts, scaled, ends[t], ends[t + 1], u[g]),  # noqa: B023
                )
        return c, u

    def _scales(self, last_shift: int) -> np.ndarray:
        ops = self._ops
        if ops.normalize != "unit":
            square = self._dim if ops.normalize == "none" else self._dim / self._size
            return np.full(1, f32(np.sqrt(square)))
        scales = np.full(self._dim, f32(1.0 / np.sqrt(max(1, ops.rows - 1))))
        scales[(np.arange(ops.rest) + last_shift) % self._dim] = f32(1.0 / np.sqrt(ops.rows))
        return scales
