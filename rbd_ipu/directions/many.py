"""Many compartments of different sizes in one program, for source ``counter``.

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

from rbd_ipu._stack import tf
from rbd_ipu.directions.blocks import row_sums
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.hashing import schedule
from rbd_ipu.directions.sources import only_cpus
from rbd_ipu.seeds import fold_in

# Entries and directions of a tile: it stays in a core's cache, or fills a GPU.
CPU_TILE = 2048, 16
GPU_TILE = 1 << 16, 16


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
        pieces, start = [], 0
        for piece in self.compartments:
            pieces.append(columns[start : start + piece.size])
            start += math.ceil(piece.size / self.width) * self.width
        return tf.concat(pieces, axis=0)

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
