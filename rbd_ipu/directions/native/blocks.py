"""Blocks by machine code: butterflies in the first-level cache, and a selection by threshold.

A task is some runs of pieces of one vector. Of each piece: signs, butterflies, norms; then the k largest are found,
among those that reach the k-th of the maxima of groups, by bisection over the bits of |c|. Nothing of the size of the
vector is written where coordinates are chosen, but for the memory that they are of, and nothing but the results where
they come back.

All is written as it is computed, without fused or reordered additions: the bits are those of the TensorFlow
operations in ``directions/blocks.py``.
"""

import functools
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.directions.blocks import BLOCK
from rbd_ipu.directions.native.dense import Rooms, compile_loop, digest, empty, plain
from rbd_ipu.directions.native.op import numpy_call
from rbd_ipu.directions.native.stream import bits_of, f32, fill_words, fold_in, inlined, schedule, signed, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.stream import PLANE

#: Pieces that share their words of signs: 8 x 4096 = 32 x 1024.
RUN = 32 * PLANE
#: Runs of a task.
RUNS = 4
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
def _two_butterflies(p, q, r, s):
    """Two passes in one: of (p, q) and (r, s), then of what came of them."""
    for j in range(p.shape[0]):
        a, b, c, d = p[j], q[j], r[j], s[j]
        a, b, c, d = a + b, a - b, c + d, c - d
        p[j], q[j], r[j], s[j] = a + c, b + d, a - c, b - d


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
    while 4 * half <= n:
        for i in range(0, n, 4 * half):
            low, high = x[i : i + 2 * half], x[i + 2 * half : i + 4 * half]
            _two_butterflies(low[:half], low[half:], high[:half], high[half:])
        half *= 4
    if half < n:
        _butterfly(x[:half], x[half:])


@inlined
def _scaled(x, scale):
    for j in range(x.shape[0]):
        x[j] = x[j] * scale


@inlined
def _order(x):
    """|x| as an integer of the same order."""
    return u32(bits_of(x) & u32(0x7FFFFFFF))


@inlined
def _kth(bits, count, k, low, high):
    """The k-th largest of ``count`` numbers that lies in low ... high, by bisection."""
    while low < high:
        middle = u32(low + u32((high - low) >> u32(1)))
        more = u32(0)
        for j in range(count):
            more = u32(more + u32(bits[j] > middle))
        if more < k:
            high = middle
        else:
            low = u32(middle + u32(1))
    return low


@inlined
def _sort(x):
    for i in range(1, x.shape[0]):
        value, j = x[i], i
        while j > 0 and x[j - 1] > value:
            x[j] = x[j - 1]
            j -= 1
        x[j] = value


@inlined
def _largest(c, k, index, values, bits, places):
    """The k largest of |c|, by rising index; of equal ones the first.

    The k-th of the maxima of groups is a bound that at least k entries reach, and few more.
    """
    n = c.shape[0]
    if k == n:
        for j in range(n):
            index[j], values[j] = j, c[j]
        return
    groups = n // max(1, min(64, n // (8 * k)))  # entries j, j + groups, j + 2 groups ... share a maximum
    for j in range(groups):
        bits[j] = _order(c[j])
    for first in range(groups, n, groups):
        row = c[first : min(n, first + groups)]
        for j in range(row.shape[0]):
            bits[j] = max(bits[j], _order(row[j]))
    bound = _kth(bits, groups, k, u32(0), u32(0x7FFFFFFF))
    found, many = 0, 2 * k + 64
    for group in range(groups):
        if bits[group] >= bound:
            for j in range(group, n, groups):
                if _order(c[j]) >= bound and found <= many:
                    places[found] = j
                    found += 1
    if found <= many:
        _sort(places[:found])
    else:  # many are equal
        found = 0
        for j in range(n):
            if _order(c[j]) >= bound:
                places[found] = j
                found += 1
    for i in range(found):
        bits[i] = _order(c[places[i]])
    least = _kth(bits, found, k, bound, u32(0x7FFFFFFF))
    more = 0
    for i in range(found):
        more += bits[i] > least
    equal = k - more  # how many of those with just these bits are taken
    at = 0
    for i in range(found):
        if bits[i] > least or (bits[i] == least and equal > 0):
            equal -= bits[i] == least
            index[at], values[at] = places[i], c[places[i]]
            at += 1


def _build(digest: str) -> Any:
    def choose(
        vector, gradient, beta, squares, decay, weight, run, end, signed, key,
        index, values, first, rest_index, rest_values, last, out, newer, words,
    ):  # fmt: skip
        """The largest coordinates of the blocks in runs of a vector; of beta vector + gradient where there is one.

        Those of its whole blocks go to rows ``first`` and on of [B, k], those of what is left to row ``last``. The
        vector that they are of goes to ``out`` where there is a gradient. With ``squares``, the running mean of g^2,
        the gradient is divided by its root first, and the mean goes to ``newer``.
        """
        digest  # noqa: B018
        bits, places, work = np.empty(4096, np.uint32), np.empty(4096, np.int32), np.empty(4096, np.float32)
        unit = np.empty(4096 if squares.shape[0] > 0 else 0, np.float32)
        start, stop = run * 32768, min(vector.shape[0], end * 32768)
        while start < stop:
            _words(signed, key, start, words)
            after = min(stop, start + 4096)
            c, g = work[: after - start], gradient[start:after]
            if squares.shape[0] > 0:
                _rescaled(g, squares[start:after], decay, weight, newer[start:after], unit[: after - start])
                g = unit[: after - start]
            _taken(vector[start:after], g, beta, out[start:after], c)
            if signed:
                _signs(words, start % 32768, c)
            _pieces(c, True)
            if c.shape[0] == 4096:
                row = first + start // 4096
                _largest(c, values.shape[1], index[row], values[row], bits, places)
            else:
                _largest(c, rest_values.shape[1], rest_index[last], rest_values[last], bits, places)
            start += 4096

    def receive(
        run, end, signed, key, index, values, rest_index, rest_values, own_index, own_values, own_rest_index,
        own_rest_values, first, last, sign, out, finite, memory, left, words,
    ):  # fmt: skip
        """P of the sum of K workers' coordinates, index and values [K, B, k] -> runs of ``out``, or their signs.

        With a memory, also what is left of it: memory - P of this worker's own coordinates [1, B, k]. Where own has
        no rows, the sum is this worker's own. Where ``finite`` is not true, all is left.
        """
        digest  # noqa: B018
        start, stop = run * 32768, min(out.shape[0], end * 32768)
        work = np.empty(4096, np.float32)
        while start < stop:
            _words(signed, key, start, words)
            after = min(stop, start + 4096)
            x = out[start:after]
            _back(index, values, rest_index, rest_values, first, last, signed, words, start, x)
            if memory.shape[0] == 0:
                pass
            elif not finite:
                left[start:after] = memory[start:after]
            elif own_values.shape[0] + own_rest_values.shape[0] == 0:
                _difference(memory[start:after], x, left[start:after])
            else:
                y = work[: after - start]
                _back(own_index, own_values, own_rest_index, own_rest_values, first, last, signed, words, start, y)
                _difference(memory[start:after], y, left[start:after])
            if sign:
                _sign(x)
            start += 4096

    return compile_loop(choose), compile_loop(receive)


@inlined
def _rescaled(g, v, decay, weight, newer, unit):
    """newer <- decay v + (1 - decay) g^2, unit <- g over the root of weight times that, as in compression.py.

    Where v is 0 still, newer <- g^2 / weight.
    """
    first = f32(1.0) / weight
    for j in range(g.shape[0]):
        mean = decay[0] * v[j] + decay[1] * g[j] * g[j]
        square = mean if v[j] != f32(0.0) else g[j] * g[j] * first
        newer[j] = square
        unit[j] = g[j] / (np.sqrt(square * weight) + f32(1e-8))


@inlined
def _taken(vector, gradient, beta, out, c):
    """c <- the vector, or out <- c <- beta vector + gradient where there is a gradient."""
    if gradient.shape[0] == 0:
        for j in range(c.shape[0]):
            c[j] = vector[j]
    else:
        for j in range(c.shape[0]):
            c[j] = f32(beta * vector[j]) + gradient[j]
            out[j] = c[j]


@inlined
def _difference(a, b, out):
    for j in range(out.shape[0]):
        out[j] = a[j] - b[j]


@inlined
def _sign(x):
    for j in range(x.shape[0]):
        x[j] = f32(1.0) if x[j] > 0 else (f32(-1.0) if x[j] < 0 else x[j])


@inlined
def _back(index, values, rest_index, rest_values, first, last, signed, words, start, x):
    """P of the sum of K workers' coordinates of the block at entry ``start`` of a vector: [K, B, k] -> x."""
    if x.shape[0] == 4096:
        row = first + start // 4096
        _place(index[:, row], values[:, row], x)
    else:
        _place(rest_index[:, last], rest_values[:, last], x)
    _pieces(x, False)
    if signed:
        _signs(words, start % 32768, x)


@inlined
def _pieces(x, forward):
    """x <- H x of each piece, over the root of its length: the last act forward, the first one back."""
    at, size, norm = 0, 4096, f32(1.0 / 64.0)
    while at < x.shape[0]:
        while x.shape[0] - at >= size:
            piece = x[at : at + size]
            if not forward:
                _scaled(piece, norm)
            _butterflies(piece)
            if forward:
                _scaled(piece, norm)
            at += size
        size, norm = size // 4, f32(norm * f32(2.0))


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
def _words(signed, key, start, words):
    """The words whose bits are the signs of a run, where one begins at this entry."""
    if signed and start % 32768 == 0:
        a, b = fold_in(u32(key[0]), u32(key[1]), u32(0))
        offset, step = schedule(a, b)
        fill_words(u32(offset + u32(u32(start // 32) * step)), step, words)


choose_run, receive_run = _build(digest())


class _Vector(NamedTuple):
    """Where the blocks of a vector are: the first row of whole ones, the shape and the row of the one left."""

    size: int
    first: int
    rest: int
    last: int


class _Part(NamedTuple):
    """Vectors first ... last - 1, which one call works on.

    Attributes:
      rows: those of each shape that are their blocks, in the order of the vectors.
      places: of each vector, where its rows begin among these: of whole blocks, and of the one left.
      tasks: (vector, first run, run that is not its own any more).
    """

    first: int
    last: int
    rows: List[np.ndarray]
    places: List[Tuple[int, int]]
    tasks: List[Tuple[int, int, int]]


class _Scaling(NamedTuple):
    """What gradients are divided by: the running means of their squares, before and after, for each vector.

    Attributes:
      squares: before; empty where gradients stay as they are.
      decay: b and 1 - b.
      weight: 1 / (1 - b^t).
      newer: where those after this step go.
    """

    squares: Sequence[np.ndarray] = ()
    decay: Tuple[Any, Any] = (f32(0.0), f32(0.0))
    weight: Any = f32(1.0)
    newer: Sequence[np.ndarray] = ()


NO_SCALING = _Scaling()


class BlockKernels:
    """The kernels for the vectors of a model, called from the graph for some of them at a time.

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
        self._rooms = Rooms()
        self._all = self._part(0, len(self._vectors))
        # Some vectors at a time, one call after the other: what is made of one is gone before the next comes.
        self._parts, begin, size = [], 0, 0
        for v, one in enumerate(self._vectors):
            size += one.size
            if size >= PART or v + 1 == len(self._vectors):
                self._parts.append(self._part(begin, v + 1))
                begin, size = v + 1, 0

    def _part(self, first: int, last: int) -> _Part:
        rows: List[List[int]] = [[] for _ in range(len(self._shapes) + 1)]
        places = []
        for one in self._vectors[first:last]:
            places.append((len(rows[self._whole]), len(rows[one.rest])))
            rows[self._whole].extend(range(one.first, one.first + one.size // BLOCK))
            if one.rest >= 0:
                rows[one.rest].append(one.last)
        tasks = [
            (v, run, run + RUNS)
            for v in range(first, last)
            for run in range(0, -(-self._vectors[v].size // RUN), RUNS)
        ]
        return _Part(first, last, [np.array(of_shape, np.int32) for of_shape in rows[:-1]], places, tasks)

    def choose(self, vectors: Sequence[Any], keys: Any) -> List[Any]:
        """See :meth:`rbd_ipu.compression.Sketch.choose`."""
        results = numpy_call(functools.partial(self._choose, self._all), [keys, *vectors], self._chosen_kinds())
        return self._chosen([self._all], [results])

    def remember(
        self, memory: Sequence[Any], gradients: Sequence[Any], beta: float, finite: Any, keys: Any,
        squares: Sequence[Any] = (), decay: float = 0.0, weight: Any = 1.0,
    ) -> List[Any]:  # fmt: skip
        """See :meth:`rbd_ipu.compression.Sketch.remember`."""
        results: List[Any] = []
        for part in self._parts:
            with tf.control_dependencies(results[-1][:1] if results else []):
                own = slice(part.first, part.last)
                kept = [*memory[own], *squares[own]]
                old = [tf.convert_to_tensor(m) for m in kept]
                kinds = [tf.float32] * len(old) + self._chosen_kinds()
                function = functools.partial(self._remember, part, beta, decay)
                found = numpy_call(function, [keys, finite, weight, *gradients[own], *old], kinds)
            count = part.last - part.first
            self._assign(memory[own], part, found[:count])
            self._assign(squares[own], part, found[count : len(old)])
            results.append(found[len(old) :])
        return self._chosen(self._parts, results)

    def expand(self, sent: Sequence[Sequence[Any]], keys: Any, sign: bool = False) -> List[Any]:
        """See :meth:`rbd_ipu.compression.Sketch.expand`."""
        return self.receive(sent, sent[0], tf.constant(True), [], keys, sign)

    def receive(
        self, sent: Sequence[Sequence[Any]], own: Sequence[Any], finite: Any, memory: Sequence[Any], keys: Any,
        sign: bool,
    ) -> List[Any]:  # fmt: skip
        """See :meth:`rbd_ipu.compression.Sketch.receive`; without a memory, :meth:`expand`."""
        found: List[Any] = []
        apart = bool(memory) and len(sent) > 1  # what this worker sent is not the sum of all
        coded = [keys, finite, *self._stacked(sent), *(self._stacked([own]) if apart else [])]
        for part in self._parts:
            with tf.control_dependencies(found[-1:]):
                old = [tf.convert_to_tensor(m) for m in memory[part.first : part.last]]
                count = part.last - part.first
                function = functools.partial(self._receive, part, sign, apart)
                results = numpy_call(function, [*coded, *old], [tf.float32] * (count + len(old)))
            self._assign(memory[part.first : part.last], part, results[count:])
            found += results[:count]
        for vector, result in zip(self._vectors, found):
            result.set_shape([vector.size])
        return found

    def _assign(self, memory: Sequence[Any], part: _Part, values: Sequence[Any]) -> None:
        """Takes the vectors of a part over as its memory, without a copy."""
        for m, vector, value in zip(memory, self._vectors[part.first : part.last], values):
            value.set_shape([vector.size])
            m.assign(value)

    def _chosen_kinds(self) -> List[Any]:
        return [tf.int32, tf.float32] * len(self._shapes)

    def _chosen(self, parts: Sequence[_Part], results: Sequence[Sequence[Any]]) -> List[Any]:
        """Indices and values of each shape, from those of the parts, each of which has its own rows and no others."""
        chosen = []
        for s, shape in enumerate(self._shapes):
            index, values = results[0][2 * s : 2 * s + 2]
            if len(parts) > 1:
                index = tf.concat([own[2 * s] for own in results], axis=0)
                values = tf.concat([own[2 * s + 1] for own in results], axis=0)
            order = np.argsort(np.concatenate([part.rows[s] for part in parts]))
            if (np.diff(order) != 1).any():
                index, values = tf.gather(index, order), tf.gather(values, order)
            index.set_shape([shape.blocks, shape.k])
            values.set_shape([shape.blocks, shape.k])
            chosen.append((None if shape.k == shape.n else index, values))
        return chosen

    def _stacked(self, sent: Sequence[Sequence[Any]]) -> List[Any]:
        """Values, and indices where some are chosen, of each shape: [K, B, k]."""
        arguments = []
        for s, shape in enumerate(self._shapes):
            arguments.append(tf.stack([own[s][1] for own in sent]))
            if shape.k < shape.n:
                arguments.append(tf.stack([own[s][0] for own in sent]))
        return arguments

    def _unstacked(self, found: List[np.ndarray]) -> Tuple[List[np.ndarray], List[np.ndarray]]:
        """The arrays of :meth:`_stacked`, taken off the list; the last of each is for vectors without such blocks."""
        workers = len(found[0])
        index, values = [], []
        for shape in self._shapes:
            values.append(found.pop(0))
            index.append(found.pop(0) if shape.k < shape.n else np.empty((workers, shape.blocks, 0), np.int32))
        index.append(np.empty((workers, 0, 0), np.int32))
        values.append(np.empty((workers, 0, 0), np.float32))
        return index, values

    def _of(self, one: _Vector, index: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Tuple[np.ndarray, ...]:
        return index[self._whole], values[self._whole], index[one.rest], values[one.rest]

    def _choose(self, part: _Part, keys: np.ndarray, *vectors: np.ndarray) -> Tuple[np.ndarray, ...]:
        return self._chosen_of(part, keys, vectors)

    def _remember(
        self, part: _Part, beta: float, decay: float, keys: np.ndarray, finite: np.ndarray, weight: np.ndarray,
        *arrays: np.ndarray,
    ) -> Tuple[np.ndarray, ...]:  # fmt: skip
        count = len(part.places)
        gradients, old, squares = arrays[:count], arrays[count : 2 * count], arrays[2 * count :]
        new, newer = self._room_of(part), self._room_of(part) if squares else []
        if finite:
            scaling = _Scaling(squares, (f32(decay), f32(1.0 - decay)), f32(weight), newer) if squares else NO_SCALING
            return (*new, *newer, *self._chosen_of(part, keys, old, gradients, beta, new, scaling))
        for room, kept in zip([*new, *newer], [*old, *squares]):
            room[:] = kept
        return (*new, *newer, *self._choose(part, keys, *new))

    def _chosen_of(
        self, part: _Part, keys: np.ndarray, vectors: Any, gradients: Any = (), beta: float = 1.0, out: Any = (),
        scaling: "_Scaling" = NO_SCALING,
    ) -> Tuple[np.ndarray, ...]:  # fmt: skip
        index = [np.empty((len(own), shape.k), np.int32) for own, shape in zip(part.rows, self._shapes)]
        values = [empty(len(own), shape.k) for own, shape in zip(part.rows, self._shapes)]
        index.append(np.empty((0, 0), np.int32))  # of a vector that has no such block
        values.append(np.empty((0, 0), np.float32))
        keys = plain(keys)
        nothing = [np.empty(0, np.float32)] * len(vectors)
        vectors, gradients = [plain(v) for v in vectors], [plain(g) for g in gradients] or nothing
        out, newer = out or nothing, scaling.newer or nothing
        squares = [plain(v) for v in scaling.squares] or nothing

        def task(number: int) -> None:
            v, *runs = part.tasks[number]
            one, i = self._vectors[v], v - part.first
            row, rest = part.places[i]
            chosen = (index[self._whole], values[self._whole], row, index[one.rest], values[one.rest], rest)
            of_vector = (vectors[i], gradients[i], np.float32(beta), squares[i], scaling.decay, scaling.weight)
            where = (*runs, self._signed, keys[v])
            choose_run(*of_vector, *where, *chosen, out[i], newer[i], np.empty(PLANE, np.uint32))

        run_tasks(len(part.tasks), thread_count(), task)
        return tuple(array for pair in zip(index[:-1], values[:-1]) for array in pair)

    def _room_of(self, part: _Part) -> List[np.ndarray]:
        return [self._rooms.take(one.size) for one in self._vectors[part.first : part.last]]

    def _receive(
        self, part: _Part, sign: bool, apart: bool, keys: np.ndarray, finite: np.ndarray, *arrays: np.ndarray
    ) -> List[np.ndarray]:
        keys, found = plain(keys), [plain(array) for array in arrays]
        sent = self._unstacked(found)
        own = (
            self._unstacked(found) if apart else ([array[:0] for array in sent[0]], [array[:0] for array in sent[1]])
        )
        out, left = self._room_of(part), self._room_of(part) if found else []
        nothing = (np.empty(0, np.float32), np.empty(0, np.float32))

        def task(number: int) -> None:
            v, *runs = part.tasks[number]
            one, i = self._vectors[v], v - part.first
            coded = (*self._of(one, *sent), *self._of(one, *own), one.first, one.last, sign)
            memory = (found[i], left[i]) if found else nothing
            receive_run(
                *runs, self._signed, keys[v], *coded, out[i], bool(finite), *memory, np.empty(PLANE, np.uint32)
            )

        run_tasks(len(part.tasks), thread_count(), task)
        return [*out, *left]
