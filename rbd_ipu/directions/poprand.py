"""Source ``poprand``: blocks of directions from the random generator of the device, for IPUs.

On an IPU, ``tf.random.stateless_normal`` and ``stateless_uniform`` are Poplar's generator, poprand: the hardware of
every tile draws its own part of a block. What it draws depends on the seed, on the number of elements and on the
tiles, and on nothing else, so that a block comes out the same, bit for bit, whenever the same operation draws it with
the same seed and the same shape. From this follows the contract:

    block seed        fold_in(compartment seed, b)        int32 [2], for each (step, worker, compartment, block)
    block b           draw([rows, n], block seed)         directions b * rows ... (b + 1) * rows - 1

* Every block has the same shape. The last one is drawn in full, and what lies beyond d is not used: two draws of one
  seed and different sizes would share most of their numbers.
* Seeds are hashed, never counted: the generator is linear, and neighbouring seeds would give related streams.
* The height of a block follows from the memory of the device, so directions depend on it: "poprand" stands for the
  20,000,000 entries of a GC200, "poprand:B" for blocks of at most B entries.

``ipu.rand_ops.dropout``, the one generator that Graphcore's ``rand_ops`` holds, is not used: its mask depends on the
tile layout of its input, so two places of a program may draw different masks from one seed, and the compiler may
merge two equal calls into one, and keep what should be drawn again.

The same operations exist on every device, with numbers of their own: a CPU cannot give those of an IPU.
"""

import math
from typing import Any, Callable, Dict, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.directions.source import Source, repeat
from rbd_ipu.directions.stream import DISTRIBUTIONS
from rbd_ipu.placement import BLOCK_ENTRIES, block_rows, here
from rbd_ipu.seeds import fold_in


def _normal(shape: Any, seed: Any) -> Any:
    return tf.random.stateless_normal(shape, seed)


def _uniform(shape: Any, seed: Any) -> Any:
    # On an IPU the interval is closed: -1, 1 and 0 itself can come.
    return tf.random.stateless_uniform(shape, seed, minval=-1.0, maxval=1.0)


def _rademacher(shape: Any, seed: Any) -> Any:
    # Not the sign of a uniform on [-1, 1], which may be 0.
    return tf.where(tf.random.stateless_uniform(shape, seed) < 0.5, -1.0, 1.0)


def _bernoulli(shape: Any, seed: Any) -> Any:
    return _rademacher(shape, seed) - 0.5


#: (shape, seed int32 [2]) -> raw entries float32, for the rows of ``DISTRIBUTIONS``.
DRAWS: Dict[str, Callable[[Any, Any], Any]] = {
    "normal": _normal,
    "uniform": _uniform,
    "rademacher": _rademacher,
    "bernoulli-0.5": _bernoulli,
}


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


def name_here() -> str:
    """The source on the device at hand: "poprand", or "poprand:B" where its blocks are bounded otherwise."""
    entries = here().entries
    return "poprand" if entries == BLOCK_ENTRIES else f"poprand:{entries}"


def parse(text: str) -> int:
    """B of "poprand:B".

    Raises:
      ValueError: it is not an integer >= 1.

    Example:
      >>> parse("7000000")
      7000000
    """
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ValueError(f"source 'poprand:B' needs an integer B >= 1, the entries of a block; got 'poprand:{text}'")
    return int(text)


def make(
    groups: int,
    size: int,
    dim: int,
    distribution: str,
    normalize: str,
    rows: int = 0,
    entries: int = BLOCK_ENTRIES,
) -> Source:
    """The source for G bases of ``dim`` directions in R^size.

    Args:
      rows: directions of a block; 0 for as many as make blocks of nearly equal height within ``entries``.
      entries: B, the largest block.

    Raises:
      ValueError: a single direction is longer than B; the distribution is unknown here.
    """
    if distribution not in DRAWS:
        accepted = ", ".join(repr(name) for name in DRAWS)
        raise ValueError(f"source 'poprand' cannot draw distribution {distribution!r}; accepted: {accepted}")
    return PopRand(groups, size, dim, distribution, normalize, min(rows, dim) or block_rows(size, dim, entries))


__all__ = ["DRAWS", "PopRand", "make", "name_here", "parse"]
