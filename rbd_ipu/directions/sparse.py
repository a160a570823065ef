"""``sparse``: very sparse random projections (Li, Hastie and Church 2006), whose cost falls with the density.

An entry is 0 with probability 1 - 1 / s and +-sqrt(s) otherwise; s = sqrt(n) unless written as "sparse:s". Their
entries are independent, so that the number of non-zeros varies. Here a direction has exactly k = ceil(n / s) of
them, s means n / k, and its norm is exactly sqrt(n): the indices are cut into k runs of equal length (to within
one), the whole cut is turned round by a random shift modulo n, and one index is drawn from each run, with a random
sign. So no index is drawn twice, every index is drawn with probability k / n exactly (to 2^-12 or better in the
integer arithmetic), and E[x x^T] = I.

k numbers for each direction are hashed, gathered (project) and scattered (expand): for n = 122,570, k = 351.
"""

import math
from typing import Any

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.directions.dense import BlockSource
from rbd_ipu.directions.source import STRUCTURED, Source, Structure
from rbd_ipu.directions.stream import Distribution, hash32, schedule, shift_right
from rbd_ipu.seeds import fold_in

# Non-zeros of a block. A block is a few operations in a graph, so few large blocks are better than many small ones.
BLOCK_NONZEROS = 1 << 18
# Longer runs need more bits than a product of 31 bits has to give: there a division, which is slower.
MULTIPLY_MOST = 1 << 9


class Sparse(BlockSource):
    """Blocks of (indices, signs): int32 and float32 [G, count, k], row i standing for one direction.

    Attributes:
      nonzeros: k.
    """

    jit = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str, nonzeros: int, rows: int):
        moments = Distribution("sparse", 1.0, _no_entries, "")
        super().__init__(groups, size, dim, moments, normalize, rows)
        self.nonzeros = nonzeros
        ends = np.arange(nonzeros + 1) * size // nonzeros
        self._starts = ends[:-1].astype(np.int32)
        self._lengths = np.diff(ends).astype(np.int32)

    def keys(self, seeds: Any) -> Any:
        return schedule(fold_in(seeds[:, tf.newaxis, :], tf.range(self.dim)))  # [G, d, 2]

    def draw(self, keys: Any, start: Any, count: int) -> Any:
        pairs = tf.slice(keys, [0, start, 0], [self.groups, count, 2])
        offset, step = pairs[..., 0:1], pairs[..., 1:2]
        # Word 0 is the shift, words 1 ... k the non-zeros.
        shift = tf.math.floormod(shift_right(hash32(offset), 1), self.size)
        words = hash32(offset + tf.range(1, self.nonzeros + 1) * step)
        index = shift + self._starts + self._within(words)
        index = tf.where(index >= self.size, index - self.size, index)
        # The lowest bit is the sign; the index came from the top ones.
        sign = 1.0 - 2.0 * tf.cast(tf.bitwise.bitwise_and(words, 1), tf.float32)
        return index, sign

    def _within(self, words: Any) -> Any:
        """Words to 0 ... length - 1 of each run."""
        longest = int(self._lengths.max())
        if longest <= MULTIPLY_MOST:
            spare = longest.bit_length()
            return tf.bitwise.right_shift(shift_right(words, 1 + spare) * self._lengths, 31 - spare)
        return tf.math.floormod(shift_right(words, 1), self._lengths)

    def scale(self, block: Any) -> float:
        """What a sign is multiplied by: norms are sqrt(n) exactly where entries are sqrt(n / k)."""
        return math.sqrt(self.size / self.nonzeros) if self.normalize == "none" else math.sqrt(1 / self.nonzeros)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        index, sign = self.draw(self.keys(seeds), start, count)
        rows = tf.reshape(tf.range(self.groups * count), [self.groups, count, 1]) * self.size
        dense = tf.math.unsorted_segment_sum(sign, rows + index, self.groups * count * self.size)
        return self.scale(None) * tf.reshape(dense, [self.groups, count, self.size])

    def dots(self, block: Any, vectors: Any) -> Any:
        index, sign = block
        return tf.reduce_sum(tf.gather(vectors, index, axis=1, batch_dims=1) * sign, axis=-1)

    def combine(self, coefficients: Any, block: Any) -> Any:
        index, sign = block
        groups = tf.reshape(tf.range(self.groups) * self.size, [self.groups, 1, 1])
        total = tf.math.unsorted_segment_sum(
            coefficients[..., tf.newaxis] * sign, groups + index, self.groups * self.size
        )
        return tf.reshape(total, [self.groups, self.size])


def _no_entries(pairs: Any, size: int) -> Any:
    raise NotImplementedError("a sparse direction is not drawn entry by entry")


def parse(text: str) -> float:
    """s of "sparse:s".

    Raises:
      ValueError: it is not a finite number >= 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1.0 <= value < math.inf:
        raise ValueError(
            f"distribution 'sparse:s' needs a number s >= 1 (one entry in s is not 0), got 'sparse:{text}'"
        )
    return value


def make(source: str, groups: int, size: int, dim: int, normalize: str, rows: int, parameter: Any) -> Source:
    """The source for G bases.

    Raises:
      ValueError: s is larger than the number of parameters, so that not even one entry would be left.
    """
    s = math.sqrt(size) if parameter is None else parameter
    if s > size:
        raise ValueError(
            f"distribution 'sparse:{s:g}' keeps one entry in {s:g}, but a basis (or a compartment) here has only "
            f"{size} parameters: s must be at most that"
        )
    nonzeros = math.ceil(size / s)
    rows = rows or max(1, min(dim, BLOCK_NONZEROS // (groups * nonzeros)))
    return Sparse(groups, size, dim, normalize, nonzeros, rows)


STRUCTURED.register("sparse")(
    Structure("sparse", make, parse, "one entry in s is +-1, the others 0; sparse:s, or s = sqrt(n)")
)
