"""Blocks by machine code: butterflies in the first-level cache, and a selection by threshold.

A task is a run of pieces of one vector. Of each piece: signs, butterflies, norms; then the k largest are found by a
histogram over the upper bits of |c| and, within its last column, by bisection. Nothing of the size of the vector is
written where coordinates are chosen, and nothing but the result is where they come back.

All is written as it is computed, without fused or reordered additions: the bits are those of the TensorFlow
operations in ``directions/blocks.py``.
"""

import functools
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.directions.blocks import BLOCK
from rbd_ipu.directions.native.dense import compile_loop, digest, empty, plain
from rbd_ipu.directions.native.loops import fill_words, inlined, signed
from rbd_ipu.directions.native.stream import bits_of, f32, fold_in, schedule, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.stream import PLANE

#: Pieces that share their words of signs, and so the length of a task: 8 x 4096 = 32 x 1024.
RUN = 32 * PLANE
#: Entries of the vectors that come back by one call.
PART = 1 << 20


@inlined
def _signs(words, start, x):
    """x <- s * x, for x from entry ``start`` of the run that the words belong to."""
    n = x.shape[0]
    for first in range(0, n, PLANE):
        shift = u32(31 - (start + first) // PLANE)
        begin, stop = (start + first) % PLANE, min(n, first + PLANE)
        piece = x[first:stop]
        tile = words[begin : begin + stop - first]
        for j in range(piece.shape[0]):
            piece[j] = signed(piece[j], tile[j], shift)


@inlined
def _butterfly(low, high):
    for j in range(low.shape[0]):
        a, b = low[j], high[j]
        low[j] = a + b
        high[j] = a - b


@inlined
def _butterflies(x):
    """H x of one piece, in place; the lowest bits first."""
    n = x.shape[0]
    if n >= 8:
        for i in range(0, n, 8):
            a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
            e, f, g, h = x[i + 4], x[i + 5], x[i + 6], x[i + 7]
            a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
            a, b, c, d, e, f, g, h = a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h
            x[i], x[i + 1], x[i + 2], x[i + 3] = a + e, b + f, c + g, d + h
            x[i + 4], x[i + 5], x[i + 6], x[i + 7] = a - e, b - f, c - g, d - h
        half = 8
    else:
        half = 1
    while half < n:
        for i in range(0, n, 2 * half):
            _butterfly(x[i : i + half], x[i + half : i + 2 * half])
        half *= 2


@inlined
def _scaled(x, scale):
    for j in range(x.shape[0]):
        x[j] = x[j] * scale


@inlined
def _order(x):
    """|x| as an integer of the same order."""
    return u32(bits_of(x) & u32(0x7FFFFFFF))


@inlined
def _largest(c, k, index, values, counts, candidates):
    """The k largest of |c|, by rising index; of equal ones the first."""
    n = c.shape[0]
    if k == n:
        for j in range(n):
            index[j], values[j] = j, c[j]
        return
    counts[:] = 0
    for j in range(n):
        counts[_order(c[j]) >> u32(20)] += 1  # 8 bits of exponent, 3 of mantissa
    column, above = 2047, 0
    while above + counts[column] < k:
        above += counts[column]
        column -= 1
    found = 0
    for j in range(n):
        bits = _order(c[j])
        if (bits >> u32(20)) == column:
            candidates[found] = bits
            found += 1
    # The least bits that fewer than the wanted number of candidates exceed.
    wanted = k - above
    low, high = u32(u32(column) << u32(20)), u32((u32(column) << u32(20)) | u32(0xFFFFF))
    while low < high:
        middle = u32(low + u32((high - low) >> u32(1)))
        more = 0
        for j in range(found):
            more += candidates[j] > middle
        if more < wanted:
            high = middle
        else:
            low = u32(middle + u32(1))
    more = 0
    for j in range(found):
        more += candidates[j] > low
    equal = wanted - more  # how many of those with just these bits are taken
    place = 0
    for j in range(n):
        bits = _order(c[j])
        if bits > low:
            index[place], values[place] = j, c[j]
            place += 1
        elif bits == low and equal > 0:
            index[place], values[place] = j, c[j]
            place += 1
            equal -= 1


def _build(digest: str) -> Any:
    def choose(vector, run, signed, key, index, values, first, rest_index, rest_values, last, work, words):
        """The largest coordinates of the blocks in one run of a vector.

        Those of its whole blocks go to rows ``first`` and on of [B, k], those of what is left to row ``last``.
        """
        digest  # noqa: B018
        n = vector.shape[0]
        counts = np.empty(2048, np.int32)
        candidates = np.empty(4096, np.uint32)
        start, stop = run * 32768, min(n, (run + 1) * 32768)
        _words(signed, key, run, words)
        while stop - start >= 4096:
            c, row = work[:4096], first + start // 4096
            c[:] = vector[start : start + 4096]
            if signed:
                _signs(words, start % 32768, c)
            _butterflies(c)
            _scaled(c, f32(1.0 / 64.0))
            _largest(c, values.shape[1], index[row], values[row], counts, candidates)
            start += 4096
        if start < stop:
            c = work[: stop - start]
            c[:] = vector[start:stop]
            if signed:
                _signs(words, start % 32768, c)
            at, size, norm = 0, 1024, f32(1.0 / 32.0)
            while at < c.shape[0]:
                while c.shape[0] - at >= size:
                    _butterflies(c[at : at + size])
                    _scaled(c[at : at + size], norm)
                    at += size
                size, norm = size // 4, f32(norm * f32(2.0))
            _largest(c, rest_values.shape[1], rest_index[last], rest_values[last], counts, candidates)

    def expand(run, signed, key, index, values, first, rest_index, rest_values, last, out, words):
        """P of the sum of K workers' coordinates: index, values [K, B, k] -> one run of the vector."""
        digest  # noqa: B018
        n = out.shape[0]
        start, stop = run * 32768, min(n, (run + 1) * 32768)
        _words(signed, key, run, words)
        while stop - start >= 4096:
            x, row = out[start : start + 4096], first + start // 4096
            _place(index[:, row], values[:, row], x)
            _scaled(x, f32(1.0 / 64.0))
            _butterflies(x)
            if signed:
                _signs(words, start % 32768, x)
            start += 4096
        if start < stop:
            x = out[start:stop]
            _place(rest_index[:, last], rest_values[:, last], x)
            at, size, norm = 0, 1024, f32(1.0 / 32.0)
            while at < x.shape[0]:
                while x.shape[0] - at >= size:
                    _scaled(x[at : at + size], norm)
                    _butterflies(x[at : at + size])
                    at += size
                size, norm = size // 4, f32(norm * f32(2.0))
            if signed:
                _signs(words, start % 32768, x)

    return compile_loop(choose), compile_loop(expand)


@inlined
def _place(index, values, x):
    """x <- the coordinates of all workers in their places, added up in order; all of them where there are as many."""
    x[:] = 0
    for w in range(values.shape[0]):
        if values.shape[1] == x.shape[0]:
            for j in range(x.shape[0]):
                x[j] += values[w, j]
        else:
            for j in range(values.shape[1]):
                x[index[w, j]] += values[w, j]


@inlined
def _words(signed, key, run, words):
    """The words whose bits are the signs of a run."""
    if signed:
        a, b = fold_in(u32(key[0]), u32(key[1]), u32(0))
        offset, step = schedule(a, b)
        fill_words(u32(offset + u32(u32(run * 1024) * step)), step, words)


choose_run, expand_run = _build(digest())


class _Vector(NamedTuple):
    """Where the blocks of a vector are: the first row of whole ones, the shape and the row of the one left."""

    size: int
    first: int
    rest: int
    last: int


class BlockKernels:
    """The kernels for the vectors of a model, one call from the graph for all of them.

    Args:
      layout: a :class:`rbd_ipu.compression.Layout`.
      signed: whether the bases have random signs.
    """

    def __init__(self, layout: Any, signed: bool):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._shapes, self._signed = layout.shapes, signed
        self._whole = layout.at(BLOCK) if BLOCK in layout.lengths else -1
        self._vectors = []
        for size, (first, last) in zip(layout.sizes, layout.rows):
            rest = size % BLOCK
            self._vectors.append(_Vector(size, first, layout.at(rest) if rest else -1, last))
        self._parts, begin, size = [], 0, 0
        for v, one in enumerate(self._vectors):
            size += one.size
            if size >= PART or v + 1 == len(self._vectors):
                self._parts.append((begin, v + 1))
                begin, size = v + 1, 0
        self._tasks = [(v, run) for v, one in enumerate(self._vectors) for run in range(-(-one.size // RUN))]

    def choose(self, vectors: Sequence[Any], keys: Any) -> List[Any]:
        """See :meth:`rbd_ipu.compression.BlockSketch.choose`."""
        kinds = [tf.int32] * len(self._shapes) + [tf.float32] * len(self._shapes)
        results = tf.numpy_function(self._choose, [keys, *vectors], kinds)
        count = len(self._shapes)
        chosen = []
        for shape, index, values in zip(self._shapes, results[:count], results[count:]):
            index.set_shape([shape.blocks, shape.k])
            values.set_shape([shape.blocks, shape.k])
            chosen.append((None if shape.k == shape.n else index, values))
        return chosen

    def expand(self, sent: Sequence[Sequence[Any]], keys: Any) -> List[Any]:
        """See :meth:`rbd_ipu.compression.BlockSketch.expand`."""
        arguments = [keys]
        for s, shape in enumerate(self._shapes):
            arguments.append(tf.stack([own[s][1] for own in sent]))
            if shape.k < shape.n:
                arguments.append(tf.stack([own[s][0] for own in sent]))
        found: List[Any] = []
        # Some vectors at a time, one call after the other: what is made of one update is gone before the next comes.
        for first, last in self._parts:
            kinds = [tf.float32] * (last - first)
            with tf.control_dependencies(found[-1:]):
                results = tf.numpy_function(functools.partial(self._expand, first, last), arguments, kinds)
            found += results if isinstance(results, (list, tuple)) else [results]
        for vector, result in zip(self._vectors, found):
            result.set_shape([vector.size])
        return found

    def _choose(self, keys: np.ndarray, *vectors: np.ndarray) -> Tuple[np.ndarray, ...]:
        keys, vectors = plain(keys), tuple(plain(vector) for vector in vectors)
        index = [np.empty((shape.blocks, shape.k), np.int32) for shape in self._shapes]
        values = [empty(shape.blocks, shape.k) for shape in self._shapes]
        index.append(np.empty((0, 0), np.int32))  # of a vector that has no such block
        values.append(np.empty((0, 0), np.float32))

        def task(number: int) -> None:
            v, run = self._tasks[number]
            _, first, rest, last = self._vectors[v]
            whole = (index[self._whole], values[self._whole], first)
            left = (index[rest], values[rest], last)
            work, words = np.empty(BLOCK, np.float32), np.empty(PLANE, np.uint32)
            choose_run(vectors[v], run, self._signed, keys[v], *whole, *left, work, words)

        run_tasks(len(self._tasks), thread_count(), task)
        return (*index[:-1], *values[:-1])

    def _expand(self, first: int, last: int, keys: np.ndarray, *arrays: np.ndarray) -> List[np.ndarray]:
        keys, found = plain(keys), [plain(array) for array in arrays]
        workers = len(found[0])
        none = np.empty((workers, 0, 0), np.int32)
        index, values = [], []
        for shape in self._shapes:
            values.append(found.pop(0))
            index.append(found.pop(0) if shape.k < shape.n else np.empty((workers, shape.blocks, 0), np.int32))
        index.append(none)
        values.append(none.astype(np.float32))
        out = [empty(1, one.size)[0] for one in self._vectors[first:last]]
        tasks = [(v, run) for v, run in self._tasks if first <= v < last]

        def task(number: int) -> None:
            v, run = tasks[number]
            one = self._vectors[v]
            whole = (index[self._whole], values[self._whole], one.first)
            left = (index[one.rest], values[one.rest], one.last)
            expand_run(run, self._signed, keys[v], *whole, *left, out[v - first], np.empty(PLANE, np.uint32))

        run_tasks(len(tasks), thread_count(), task)
        return out
