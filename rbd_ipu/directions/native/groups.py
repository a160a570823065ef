"""Groups by machine code: source ``native``. A task is a range of directions, or of rows.

A row of parameters lies along the directions in two runs, before and after its shift wraps round; runs are added, or
copied, as wholes. A direction adds its parameters up row by row, so that nothing depends on the number of threads.
"""

from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import inside_xla
from rbd_ipu.directions.groups import Groups
from rbd_ipu.directions.native.dense import Rooms, compile_loop, digest, plain
from rbd_ipu.directions.native.op import call_from_graph
from rbd_ipu.directions.native.stream import f32, fill_words, fold_in, hash32, inlined, schedule, signed, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import PLANE

# Parameters worth a task of their own.
TASK = 1 << 18


@inlined
def _add_signed(words, shift, x, total):
    for j in range(x.shape[0]):
        total[j] += signed(x[j], words[j], shift)


@inlined
def _copy_signed(words, shift, x, out):
    for j in range(x.shape[0]):
        out[j] = signed(x[j], words[j], shift)


@inlined
def _sum_signed(words, shift, x, base, out):
    for j in range(x.shape[0]):
        out[j] = base[j] + signed(x[j], words[j], shift)


@inlined
def _run(words, j, x, base, out, adds):
    """out <- s x, or base + s x, or out + s x, for x from parameter j on, in planes of one shift."""
    done, n = 0, x.shape[0]
    while done < n:
        plane = (j + done) // 1024
        stop = min(n, (plane + 1) * 1024 - j)
        first = (plane // 32) * 1024 + (j + done) % 1024
        own, shift = words[first : first + stop - done], u32(31 - plane % 32)
        if adds:
            _add_signed(own, shift, x[done:stop], out[done:stop])
        elif base.shape[0] > 0:
            _sum_signed(own, shift, x[done:stop], base[done:stop], out[done:stop])
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

    def project(words, shifts, v, offset, n, first, last, c):
        """Adds what parameters ``offset`` ... give to directions first ... last - 1: sums, not yet scaled."""
        digest  # noqa: B018
        d, stop = c.shape[0], offset + v.shape[0]
        for r in range(offset // d, (stop - 1) // d + 1):
            low, high = max(0, offset - r * d), min(d, n - r * d, stop - r * d)
            # Place q of the row belongs to direction q + a, or to q + a - d.
            for turn in range(2):
                begin = max(low, first - shifts[r] + turn * d, turn * (d - shifts[r]))
                end = min(high, last - shifts[r] + turn * d)
                if turn == 0:
                    end = min(end, d - shifts[r])
                if begin < end:
                    i, j = begin + shifts[r] - turn * d, r * d + begin
                    own = v[j - offset : j - offset + end - begin]
                    _run(words, j, own, own[:0], c[i : i + end - begin], True)

    def expand(words, shifts, c, offset, base, u):
        """Parameters ``offset`` ...: signed copies of their coordinates, added to ``base`` where it has entries."""
        digest  # noqa: B018
        d, stop = c.shape[0], offset + u.shape[0]
        for r in range(offset // d, (stop - 1) // d + 1):
            low, high, a = max(0, offset - r * d), min(d, stop - r * d), shifts[r]
            middle, j = min(max(low, d - a), high), r * d - offset
            if low < middle:
                i, end = j + low, j + middle
                _run(words, r * d + low, c[a + low : a + middle], base[i:end], u[i:end], False)
            if middle < high:
                i, end = j + middle, j + high
                _run(words, r * d + middle, c[a + middle - d : a + high - d], base[i:end], u[i:end], False)

    def scale(c, shifts, rest, few, many, first, last, out):
        """out <- c times few or, for directions that have a parameter of the last row, many: first ... last - 1."""
        digest  # noqa: B018
        d, begin = c.shape[0], shifts[-1]
        wrapped = begin + rest - d  # of the last row, which may wrap round
        for i in range(first, last):
            own = (i >= begin and i < begin + rest) or i < wrapped
            out[i] = c[i] * (many if own else few)

    draw, project, expand, scale = (compile_loop(f) for f in (draw, project, expand, scale))

    def through(seed, words, shifts, rest, few, many, v, c, scaled, u):
        """All of a small basis: draws, projects, expands."""
        digest  # noqa: B018
        d, n = c.shape[0], v.shape[0]
        draw(seed, d, words, shifts)
        c[:] = 0
        project(words, shifts, v, 0, n, 0, d, c)
        scale(c, shifts, rest, few, many, 0, d, c)
        scale(c, shifts, rest, few, many, 0, d, scaled)
        expand(words, shifts, scaled, 0, u[:0], u)

    return draw, project, expand, scale, compile_loop(through)


draw, add_range, expand_piece, scale_range, draw_and_filter = _build(digest())


class NativeGroups(Source):
    """The operations of :class:`rbd_ipu.directions.groups.Groups`, by kernels; inside XLA by TensorFlow's."""

    #: Whether vectors may come in pieces, one after the other, which nobody has to join.
    in_pieces = True
    takes_later = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = Groups(groups, size, dim, normalize)
        self._groups, self._size, self._dim = groups, size, dim
        self._rooms = Rooms()

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

    def project_pieces(self, pieces: Sequence[Any], seeds: Any) -> Any:
        """:meth:`project` of one vector in pieces: [n_1], [n_2] ... -> [d]."""

        def function(seeds: np.ndarray, *pieces: np.ndarray) -> np.ndarray:
            return self._coordinates(pieces, Drawn(self._ops, plain(seeds)[0]))

        return call_from_graph(function, [seeds, *pieces], [[self._dim]])[0]

    def expand_pieces(
        self, coordinates: Any, sizes: Sequence[int], seeds: Any, onto: Sequence[Any] = ()
    ) -> List[Any]:
        """:meth:`expand` to one vector in pieces, added to those of ``onto``, if any: [d] -> [n_1], [n_2] ..."""

        def function(seeds: np.ndarray, c: np.ndarray, *onto: np.ndarray) -> List[np.ndarray]:
            return self._vectors(plain(c), sizes, Drawn(self._ops, plain(seeds)[0]), [plain(v) for v in onto])

        return list(call_from_graph(function, [seeds, coordinates, *onto], [[n] for n in sizes]))

    def filter_pieces(self, pieces: Sequence[Any], seeds: Any) -> List[Any]:
        """:meth:`filter` of one vector in pieces."""
        sizes = [int(piece.shape[0]) for piece in pieces]

        def function(seeds: np.ndarray, *pieces: np.ndarray) -> List[np.ndarray]:
            drawn = Drawn(self._ops, plain(seeds)[0])
            return self._vectors(self._coordinates(pieces, drawn), sizes, drawn)

        return list(call_from_graph(function, [seeds, *pieces], [[n] for n in sizes]))

    def _project(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return self._stacked(
            self._coordinates([v], Drawn(self._ops, s)) for v, s in zip(plain(vectors), plain(seeds))
        )

    def _expand(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        pairs = zip(plain(coordinates), plain(seeds))
        return self._stacked(self._vectors(c, [self._size], Drawn(self._ops, s))[0] for c, s in pairs)

    def _sketch(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        found = []
        for v, seed in zip(plain(vectors), plain(seeds)):
            if self._size < 2 * TASK:  # one call: Python between several would take as long as they do
                found.append(self._drawn_and_filtered(v, seed))
                continue
            drawn = Drawn(self._ops, seed)
            c = self._coordinates([v], drawn)
            found.append((c, self._vectors(c, [self._size], drawn)[0]))
        return self._stacked(c for c, _ in found), self._stacked(u for _, u in found)

    def _drawn_and_filtered(self, v: np.ndarray, seed: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        drawn = Drawn(self._ops)
        c, scaled, u = (self._rooms.take(n) for n in (self._dim, self._dim, self._size))
        draw_and_filter(seed, drawn.words, drawn.shifts, self._ops.rest, *drawn.scales, v, c, scaled, u)
        return c, u

    @staticmethod
    def _stacked(rows: Iterable[np.ndarray]) -> np.ndarray:
        found = list(rows)
        return found[0][np.newaxis] if len(found) == 1 else np.stack(found)

    def _coordinates(self, pieces: Sequence[np.ndarray], drawn: "Drawn") -> np.ndarray:
        c = self._rooms.take(self._dim)
        tasks = max(1, min(self._size // TASK, self._dim))
        threads = thread_count() if tasks > 1 else 1
        tasks = min(tasks, 4 * threads)
        ends = np.arange(tasks + 1) * self._dim // tasks
        places = np.cumsum([0, *(len(piece) for piece in pieces)])
        pieces = [plain(piece) for piece in pieces]

        def task(t: int) -> None:
            c[ends[t] : ends[t + 1]] = 0
            for offset, piece in zip(places, pieces):
                if len(piece):
                    add_range(drawn.words, drawn.shifts, piece, offset, self._size, ends[t], ends[t + 1], c)
            drawn.scale(c, ends[t], ends[t + 1], c)

        run_tasks(tasks, threads, task)
        return c

    def _vectors(
        self, coordinates: np.ndarray, sizes: Sequence[int], drawn: "Drawn", onto: Sequence[np.ndarray] = ()
    ) -> List[np.ndarray]:
        scaled, found = self._rooms.take(self._dim), [self._rooms.take(n) for n in sizes]
        ends = [*range(0, self._dim, TASK), self._dim]
        tasks, offset = [], 0
        for u, base in zip(found, onto or [u[:0] for u in found]):
            for first in range(0, len(u), TASK):
                tasks.append((offset + first, base[first : first + TASK], u[first : first + TASK]))
            offset += len(u)
        threads = thread_count() if self._size > TASK else 1  # many small pieces are not worth to wake a thread

        def task(t: int) -> None:
            expand_piece(drawn.words, drawn.shifts, scaled, *tasks[t])

        run_tasks(len(ends) - 1, threads, lambda t: drawn.scale(coordinates, ends[t], ends[t + 1], scaled))
        run_tasks(len(tasks), threads, task)
        return found


class Drawn:
    """What a seed makes of a basis: words of signs, shifts of rows; and the two scales of directions.

    Args:
      ops: the basis.
      seed: int32 [2]; None: only room for them.
    """

    def __init__(self, ops: Groups, seed: Optional[np.ndarray] = None):
        self.words = np.empty(-(-ops.size // (32 * PLANE)) * PLANE, np.uint32)
        self.shifts = np.empty(ops.rows, np.int64)
        self._rest = ops.rest
        if ops.normalize == "unit":
            # The directions that have a parameter of the last row have one more.
            few, many = 1.0 / np.sqrt(max(1, ops.rows - 1)), 1.0 / np.sqrt(ops.rows)
        else:
            few = many = np.sqrt(ops.dim if ops.normalize == "none" else ops.dim / ops.size)
        self.scales = f32(few), f32(many)
        if seed is not None:
            draw(seed, ops.dim, self.words, self.shifts)

    def scale(self, c: np.ndarray, first: int, last: int, out: np.ndarray) -> None:
        """out <- c times the scales, for directions first ... last - 1."""
        scale_range(c, self.shifts, self._rest, *self.scales, first, last, out)
