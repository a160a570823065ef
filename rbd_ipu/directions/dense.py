"""Directions in TensorFlow operations, drawn entry by entry in blocks: source ``counter``.

A block of directions is drawn, used and forgotten.

Memory is O(G * rows * size) for blocks of ``rows`` directions, whatever d is. With raw entries x_i, norms
s_i = 1 / |x_i| (or one constant scale) and phi_i = s_i x_i, a block gives

    c_i = s_i <v, x_i>            (project)
    u  += sum_i (s_i c_i) x_i     (expand)

so that no normalised copy of the block is ever made.

Direction i has the key ``fold_in(seed, i)``, and its entries are those of the stream in ``stream.py``: nothing
depends on the block size, on the device, or on what was drawn before. On an IPU a codelet hashes, see
``devices/ipu/program.py``.

Many compartments of different sizes are one program.

Compartments of one size share their operations; were each size to bring its own, XLA would compile for minutes. Here
all work is cut into tiles of one shape, R directions by W entries, whose places are numbers in tables: the program
is the same for 10 compartments and for 1000. Entries and directions past the end of a compartment count as zero.

    project    for each R directions:  sums <x_i, v> and |x_i|^2 over the tiles of their entries
    expand     for each W entries:     sums a_i x_i over the tiles of their directions

so that nothing but sums goes from tile to tile. To have both, directions are drawn twice.
"""

import math
from typing import Any, Callable, List, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import inside_xla, only_cpus, program, tf
from rbd_ipu.directions.source import Compiled, Source
from rbd_ipu.directions.stream import DISTRIBUTIONS, Distribution, schedule, word_at
from rbd_ipu.placement import here
from rbd_ipu.seeds import fold_in

CHUNK = 256


class BlockSource(Source):
    """Everything but the drawing, for sources that draw a block ``[G, count, size]`` at a time.

    Args:
      groups: G, how many bases are worked on together.
      size: n, the dimension of the full space.
      dim: d, how many directions each basis has.
      distribution: the row that the entries follow.
      normalize: "unit", "expected" or "none".
      rows: how many directions of each basis make a block.
    """

    def __init__(self, groups: int, size: int, dim: int, distribution: Distribution, normalize: str, rows: int):
        self.groups = groups
        self.size = size
        self.dim = dim
        self.distribution = distribution
        self.normalize = normalize
        self.rows = rows

    def keys(self, seeds: Any) -> Any:
        """What the directions are drawn from, made once before the loop over blocks: [G, ...]."""
        return seeds

    def draw(self, keys: Any, start: Any, count: int) -> Any:
        """Raw entries of directions start ... start + count - 1: float32 [G, count, size]."""
        raise NotImplementedError

    def scale(self, block: Any) -> Any:
        """What the raw entries of a block are multiplied by: [G, count], or a float."""
        if self.normalize == "none":
            return 1.0
        if self.normalize == "expected":
            return 1.0 / math.sqrt(self.size * self.distribution.second_moment)
        return tf.math.rsqrt(_squares(block))

    def dots(self, block: Any, vectors: Any) -> Any:
        """<v, x_i> for every group: a block of ``count`` directions and [G, n] -> [G, count]."""
        return row_sums(block * vectors[:, tf.newaxis, :])

    def combine(self, coefficients: Any, block: Any) -> Any:
        """sum_i a_i x_i for every group: [G, count] and a block of that many directions -> [G, n]."""
        return tf.linalg.matvec(block, coefficients, transpose_a=True)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        block = self.draw(self.keys(seeds), start, count)
        scale = self.scale(block)
        return block * (scale if isinstance(scale, float) else scale[..., tf.newaxis])

    def project(self, vectors: Any, seeds: Any) -> Any:
        keys = self.keys(seeds)

        def step(start: Any, count: int, _: Any) -> Tuple[Any, Any]:
            block = self.draw(keys, start, count)
            return self.scale(block) * self.dots(block, vectors), ()

        coordinates, _ = self._loop(step, ())
        return coordinates

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        keys = self.keys(seeds)

        def step(start: Any, count: int, total: Any) -> Tuple[Any, Any]:
            block = self.draw(keys, start, count)
            c = tf.slice(coordinates, [0, start], [self.groups, count])
            return None, total + self.combine(self.scale(block) * c, block)

        _, total = self._loop(step, self._zeros())
        return total

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        keys = self.keys(seeds)

        def step(start: Any, count: int, total: Any) -> Tuple[Any, Any]:
            block = self.draw(keys, start, count)
            scale = self.scale(block)
            c = scale * self.dots(block, vectors)
            return c, total + self.combine(scale * c, block)

        return self._loop(step, self._zeros())

    def _zeros(self) -> Any:
        return tf.zeros([self.groups, self.size])

    def _loop(self, step: Callable, carry: Any) -> Tuple[Any, Any]:
        """Runs ``step(start, count, carry) -> (coordinates of the block or None, carry)`` over all blocks.

        The trip count is a Python int and the condition a bare comparison: on an IPU such a loop becomes a
        Poplar Repeat. A last, shorter block has a shape of its own, the same one every time it is drawn.
        """
        full, rest = divmod(self.dim, self.rows)
        # A traced zero, so that index arithmetic stays in the graph (and one trace serves both kinds of block).
        pieces = []
        if full == 1:
            c, carry = step(tf.constant(0), self.rows, carry)
            pieces.append(c)
        elif full > 1:
            blocks = tf.TensorArray(tf.float32, full, element_shape=[self.groups, self.rows])

            def body(b: Any, blocks: Any, carry: Any) -> Tuple[Any, Any, Any]:
                c, carry = step(b * self.rows, self.rows, carry)
                return b + 1, blocks if c is None else blocks.write(b, c), carry

            _, blocks, carry = tf.while_loop(
                lambda b, *_: b < full, body, (tf.constant(0), blocks, carry), parallel_iterations=1
            )
            # [full, G, rows] -> [G, full * rows]
            stacked = tf.transpose(blocks.stack(), [1, 0, 2])
            pieces.append(tf.reshape(stacked, [self.groups, full * self.rows]))
        if rest:
            c, carry = step(tf.constant(full * self.rows), rest, carry)
            pieces.append(c)
        coordinates = None if pieces[-1] is None else tf.concat(pieces, axis=1)
        return coordinates, carry


def _squares(block: Any) -> Any:
    """|x_i|^2 for every group: [G, count, n] -> [G, count]."""
    return row_sums(tf.square(block))


def row_sums(x: Any) -> Any:
    """Sum over the last axis, in two levels: ten times less rounding error at n = 1e5 than in one."""
    lead, n = x.shape[:-1].as_list(), x.shape[-1]
    whole = n - n % CHUNK
    chunks = tf.reshape(x[..., :whole], [*lead, n // CHUNK, CHUNK])
    total = tf.reduce_sum(tf.reduce_sum(chunks, axis=-1), axis=-1) if whole else 0.0
    return total + tf.reduce_sum(x[..., whole:], axis=-1)


# Floats of one block of directions. Under XLA:CPU a block is materialised between its dot products and its use
# in the update, so it should stay in the cache.
BLOCK_FLOATS = 1 << 19
# Samples a step that are worth a program of their own, and the most programs that are worth having.
PART_SAMPLES = 2_000_000
MOST_PARTS = 8


class Counter(BlockSource):
    """Draws blocks of hashed directions."""

    jit = True

    def keys(self, seeds: Any) -> Any:
        device = here().hashing
        if device is not None:
            return device.keys(seeds, tf.range(self.dim))
        return schedule(fold_in(seeds[:, tf.newaxis, :], tf.range(self.dim)))  # [G, d, 2]

    def draw(self, keys: Any, start: Any, count: int) -> Any:
        pairs = tf.slice(keys, [0, start, 0], [self.groups, count, 2])
        device = here().hashing
        return self.distribution.draw(pairs, self.size, words=word_at if device is None else device.words)


class Keyed(Counter):
    """Takes the keys of its directions where others take seeds."""

    def keys(self, seeds: Any) -> Any:
        return seeds


class Parts(Source):
    """The directions in parts, each a compiled program of its own, which the graph around them runs side by side.

    One program of XLA:CPU keeps one core busy. How many parts there are follows from the work alone, so that no
    result depends on the number of cores. Inside another XLA program it is the whole basis in one.
    """

    def __init__(self, whole: Counter, parts: int):
        self._whole = whole
        count = -(-whole.dim // parts)
        self._cuts = [min(count, whole.dim - start) for start in range(0, whole.dim, count)]
        self._keys = program(whole.keys, jit=True)
        self._sources = {dim: Compiled(self._part(dim), beside_others=True) for dim in set(self._cuts)}
        self._side_by_side = program(self._run)

    def _part(self, dim: int) -> Counter:
        w = self._whole
        return Keyed(w.groups, w.size, dim, w.distribution, w.normalize, min(w.rows, dim))

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._whole.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._whole.project(vectors, seeds)
        return tf.concat(self._side_by_side("project", vectors, seeds), axis=1)

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._whole.expand(coordinates, seeds)
        return tf.add_n(self._side_by_side("expand", coordinates, seeds))

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._whole.sketch(vectors, seeds)
        coordinates, updates = zip(*self._side_by_side("sketch", vectors, seeds))
        return tf.concat(coordinates, axis=1), tf.add_n(updates)

    def _run(self, method: str, operand: Any, seeds: Any) -> Any:
        keys = tf.split(self._keys(seeds), self._cuts, axis=1)
        operands = tf.split(operand, self._cuts, axis=1) if method == "expand" else [operand] * len(keys)
        return [getattr(self._sources[dim], method)(x, k) for dim, x, k in zip(self._cuts, operands, keys)]


def make(groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int = 0) -> Source:
    """The source for G bases of ``dim`` directions in R^size."""
    rows = rows or max(1, min(dim, BLOCK_FLOATS // (groups * size)))
    whole = Counter(groups, size, dim, DISTRIBUTIONS.get(distribution), normalize, rows)
    parts = min(MOST_PARTS, dim, groups * size * dim // PART_SAMPLES)
    return Parts(whole, parts) if parts > 1 and only_cpus() else whole


# Entries and directions of a tile: it stays in a core's cache, or fills a GPU.
CPU_TILE = 2048, 16
GPU_TILE = 1 << 16, 16
# Entries that are put in their places by one constant of as many numbers. XLA compiles for seconds where hundreds of
# slices are joined; the constant of more entries would be a part of every program that is too large.
MOST_PLACES = 1 << 23


class Many:
    """P and its transpose for compartments (start, n, d) of a flat vector, each with a seed of its own.

    Args:
      compartments: the cut.
      distribution, normalize: of all of them.
    """

    def __init__(self, compartments: Sequence[Any], distribution: str, normalize: str):
        self.compartments = compartments
        self.distribution = DISTRIBUTIONS.get(distribution)
        self.normalize = normalize
        width, rows = CPU_TILE if only_cpus() else GPU_TILE
        self.width = min(width, max(piece.size for piece in compartments))
        self.rows = min(rows, max(piece.dim for piece in compartments))
        dims = [piece.dim for piece in compartments]
        self._starts = np.array([piece.start for piece in compartments], np.int32)
        self._sizes = np.array([piece.size for piece in compartments], np.int32)
        self._dims = np.array(dims, np.int32)
        self._firsts = (np.cumsum(dims) - dims).astype(np.int32)  # where the coordinates of each begin
        self._bands = _places(self._dims, self.rows)  # (compartment, first direction) of each R directions
        self._columns = _places(self._sizes, self.width)  # (compartment, first entry) of each W entries

    def project(self, vector: Any, seeds: Any) -> Any:
        """c = P^T v: [D], int32 [K, 2] -> [d]."""
        return self._coordinates(vector, seeds)[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        """u = P c: [d], int32 [K, 2] -> [D]."""
        scales = None
        if self.normalize == "unit":
            scales = self._coordinates(None, seeds)[1]
        return self._sum(coordinates, scales, seeds)

    def sketch(self, vector: Any, seeds: Any) -> Tuple[Any, Any]:
        """Both of P^T v and P P^T v."""
        coordinates, scales = self._coordinates(vector, seeds)
        return coordinates, self._sum(coordinates, scales, seeds)

    def _draw(self, seeds: Any, k: Any, direction: Any, entry: Any) -> Any:
        """A tile of compartment k: float32 [R, W], zero past its end."""
        keys = schedule(fold_in(tf.gather(seeds, k), direction + tf.range(self.rows)))
        inside = entry + tf.range(self.width) < tf.gather(self._sizes, k)
        return tf.where(inside, self.distribution.draw(keys, self.width, entry), 0.0)

    def _scale(self, k: Any, squares: Any) -> Any:
        """What raw entries are multiplied by: [R]."""
        if self.normalize == "none":
            return tf.ones_like(squares)
        if self.normalize == "expected":
            expected = tf.cast(tf.gather(self._sizes, k), tf.float32) * self.distribution.second_moment
            return tf.ones_like(squares) * tf.math.rsqrt(expected)
        return tf.math.rsqrt(squares)

    def _coordinates(self, vector: Any, seeds: Any) -> Tuple[Any, Any]:
        """Coordinates, of zeros where there is no vector, and scales of all directions: [d], [d]."""
        padded = None if vector is None else tf.pad(vector, [[0, self.width]])

        def band(t: Any) -> List[Any]:
            k, first = self._at(self._bands, t)

            def tile(q: Any, dots: Any, squares: Any) -> Tuple[Any, Any, Any]:
                entry = q * self.width
                x = self._draw(seeds, k, first, entry)
                if padded is not None:
                    v = tf.slice(padded, [tf.gather(self._starts, k) + entry], [self.width])
                    dots = dots + row_sums(x * v)
                return q + 1, dots, squares + row_sums(tf.square(x))

            zeros = tf.zeros([self.rows])
            count = (tf.gather(self._sizes, k) + (self.width - 1)) // self.width
            _, dots, squares = _loop(count, tile, zeros, zeros)
            scale = self._scale(k, squares)
            return [scale * dots, scale]

        rows = [(k, first, min(self.rows, self._dims[k] - first)) for k, first in self._bands]
        places = np.concatenate([t * self.rows + np.arange(count) for t, (_, _, count) in enumerate(rows)])
        both = _collect(len(self._bands), band, [[self.rows], [self.rows]])
        return tuple(tf.gather(tf.reshape(values, [-1]), places.astype(np.int32)) for values in both)

    def _sum(self, coordinates: Any, scales: Any, seeds: Any) -> Any:
        """sum_i c_i s_i x_i of all compartments: [D]. Where scales are None, they follow from the sizes."""
        weights = tf.pad(coordinates if scales is None else coordinates * scales, [[0, self.rows]])

        def column(t: Any) -> List[Any]:
            k, entry = self._at(self._columns, t)

            def tile(q: Any, total: Any) -> Tuple[Any, Any]:
                first = q * self.rows
                a = tf.slice(weights, [tf.gather(self._firsts, k) + first], [self.rows])
                a = tf.where(first + tf.range(self.rows) < tf.gather(self._dims, k), a, 0.0)
                if scales is None:
                    a = a * self._scale(k, tf.ones([self.rows]))
                x = self._draw(seeds, k, first, entry)
                return q + 1, total + tf.reduce_sum(a[:, tf.newaxis] * x, axis=0)

            count = (tf.gather(self._dims, k) + (self.rows - 1)) // self.rows
            return [_loop(count, tile, tf.zeros([self.width]))[1]]

        columns = tf.reshape(_collect(len(self._columns), column, [[self.width]])[0], [-1])
        first = self.width * np.cumsum([0, *-(-self._sizes // self.width)])  # where those of each compartment begin
        if sum(self._sizes) <= MOST_PLACES:
            places = np.concatenate([at + np.arange(n) for at, n in zip(first, self._sizes)])
            return tf.gather(columns, places.astype(np.int32))
        return tf.concat([columns[at : at + n] for at, n in zip(first, self._sizes)], axis=0)

    def _at(self, places: np.ndarray, t: Any) -> Tuple[Any, Any]:
        return tf.gather(places[:, 0], t), tf.gather(places[:, 1], t)


def _places(lengths: np.ndarray, step: int) -> np.ndarray:
    """(k, first) of pieces of at most ``step`` of each length: int32 [T, 2]."""
    return np.array([(k, first) for k, n in enumerate(lengths) for first in range(0, n, step)], np.int32)


def _loop(count: Any, body: Callable, *carry: Any) -> Any:
    return tf.while_loop(lambda q, *_: q < count, body, (tf.constant(0), *carry), parallel_iterations=1)


def _collect(count: int, make: Callable[[Any], List[Any]], shapes: List[List[int]]) -> List[Any]:
    """``make(0 ... count - 1)``, stacked."""
    arrays = [tf.TensorArray(tf.float32, count, element_shape=shape) for shape in shapes]

    def body(t: Any, *arrays: Any) -> Any:
        return (t + 1, *(array.write(t, value) for array, value in zip(arrays, make(t))))

    _, *arrays = tf.while_loop(lambda t, *_: t < count, body, (tf.constant(0), *arrays), parallel_iterations=1)
    return [array.stack() for array in arrays]
