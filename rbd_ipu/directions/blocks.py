"""Projection by blocks: draw a block of directions, use it, forget it.

Memory is O(G * rows * size) for blocks of ``rows`` directions, whatever d is. With raw entries x_i, norms
s_i = 1 / |x_i| (or one constant scale) and phi_i = s_i x_i, a block gives

    c_i = s_i <v, x_i>            (project)
    u  += sum_i (s_i c_i) x_i     (expand)

so that no normalised copy of the block is ever made.
"""

import math
from typing import Any, Callable, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.directions.distributions import Distribution
from rbd_ipu.directions.sources import Source

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
