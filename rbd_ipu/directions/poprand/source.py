"""The source itself: blocks drawn, used and forgotten, in loops of constant length."""

import math
from typing import Any, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.poprand.draws import DRAWS
from rbd_ipu.directions.repeat import repeat
from rbd_ipu.directions.sources import Source
from rbd_ipu.seeds import fold_in


class PopRand(Source):
    """Draws one block of one basis at a time; the loops over bases and blocks have constant lengths.

    Memory is O(rows * n) whatever d and the number of bases are. Each basis is drawn from its own seed alone, so that
    a compartment has the same directions whichever others are of its size.

    Rows are taken by ``tf.gather``: XLA of TensorFlow 2.6 makes a shape of unknown size of ``x[i]`` with a traced i.

    Attributes:
      rows: directions of a block.
      blocks: how many of them make a basis.
    """

    jit = False  # inside an IPU's program it is compiled with everything else; a CPU draws faster without XLA

    def __init__(self, groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int):
        self.groups, self.size, self.dim = groups, size, dim
        self.rows = self.block_rows = rows
        self.blocks = -(-dim // rows)
        self._normalize = normalize
        self._second_moment = DISTRIBUTIONS.get(distribution).second_moment
        self._draw = DRAWS[distribution]

    def block(self, seed: Any) -> Any:
        """Raw entries of the block of a seed: float32 [rows, n]. The one place where anything is drawn."""
        return self._draw([self.rows, self.size], seed)

    def scale(self, block: Any) -> Any:
        """What the entries of a block are multiplied by: [rows], or a float."""
        if self._normalize == "none":
            return 1.0
        if self._normalize == "expected":
            return 1.0 / math.sqrt(self.size * self._second_moment)
        return tf.math.rsqrt(tf.reduce_sum(tf.square(block), axis=-1))

    def directions(self, seeds: Any, start: Any, count: int) -> Any:
        # Whole blocks are drawn, as many as ``count`` directions can touch from any start.
        return self._directions(seeds, start, count, min(-(-(count - 1) // self.rows) + 1, self.blocks))

    def block_at(self, seeds: Any, start: Any, count: int) -> Any:
        # Up to ``rows`` of them; those beyond d come too, and mean nothing.
        return self._directions(seeds, start, count, 1)

    def _directions(self, seeds: Any, start: Any, count: int, blocks: int) -> Any:
        first = tf.minimum(tf.cast(start, tf.int32) // self.rows, self.blocks - blocks)
        keys = self._keys(seeds, first, blocks)
        drawn = repeat(
            self.groups, lambda g: (self._phi(tf.gather(keys, g), blocks),), [[blocks * self.rows, self.size]]
        )[0]
        return tf.slice(drawn, [0, start - first * self.rows, 0], [self.groups, count, self.size])

    def project(self, vectors: Any, seeds: Any) -> Any:
        keys = self._keys(seeds, 0, self.blocks)
        return repeat(
            self.groups, lambda g: (self._project(tf.gather(vectors, g), tf.gather(keys, g)),), [[self.dim]]
        )[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        keys = self._keys(seeds, 0, self.blocks)
        padded = tf.pad(coordinates, [[0, 0], [0, self.blocks * self.rows - self.dim]])
        return repeat(
            self.groups, lambda g: (self._expand(tf.gather(padded, g), tf.gather(keys, g)),), [[self.size]]
        )[0]

    def sketch(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        keys = self._keys(seeds, 0, self.blocks)
        c, u = repeat(
            self.groups, lambda g: self._sketch(tf.gather(vectors, g), tf.gather(keys, g)), [[self.dim], [self.size]]
        )
        return c, u

    def _keys(self, seeds: Any, first: Any, count: int) -> Any:
        """The seeds of blocks first ... first + count - 1: int32 [G, count, 2]."""
        return fold_in(seeds[:, tf.newaxis, :], first + tf.range(count))

    def _phi(self, keys: Any, blocks: int) -> Any:
        """Normalised directions of some blocks: [blocks * rows, n]."""

        def step(b: Any) -> Tuple[Any]:
            block = self.block(tf.gather(keys, b))
            scale = self.scale(block)
            return (block * (scale if isinstance(scale, float) else scale[:, tf.newaxis]),)

        return tf.reshape(repeat(blocks, step, [[self.rows, self.size]])[0], [blocks * self.rows, self.size])

    def _project(self, vector: Any, keys: Any) -> Any:
        def step(b: Any) -> Tuple[Any]:
            block = self.block(tf.gather(keys, b))
            return (self.scale(block) * tf.linalg.matvec(block, vector),)

        return self._cut(repeat(self.blocks, step, [[self.rows]])[0])

    def _expand(self, padded: Any, keys: Any) -> Any:
        def step(b: Any, total: Any) -> Tuple[Any]:
            block = self.block(tf.gather(keys, b))
            c = tf.slice(padded, [b * self.rows], [self.rows])
            return (total + tf.linalg.matvec(block, self.scale(block) * c, transpose_a=True),)

        return repeat(self.blocks, step, [], tf.zeros([self.size]))[0]

    def _sketch(self, vector: Any, keys: Any) -> Tuple[Any, Any]:
        def step(b: Any, total: Any) -> Tuple[Any, Any]:
            block = self.block(tf.gather(keys, b))
            scale = self.scale(block)
            # Coordinates beyond d stand for directions that there are not.
            inside = tf.cast(b * self.rows + tf.range(self.rows) < self.dim, tf.float32)
            c = scale * tf.linalg.matvec(block, vector) * inside
            return c, total + tf.linalg.matvec(block, scale * c, transpose_a=True)

        c, u = repeat(self.blocks, step, [[self.rows]], tf.zeros([self.size]))
        return self._cut(c), u

    def _cut(self, blocks: Any) -> Any:
        """Coordinates of all blocks [blocks, rows] without what lies beyond d: [d]."""
        return tf.reshape(blocks, [-1])[: self.dim]
