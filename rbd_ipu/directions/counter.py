"""Source ``counter``: directions hashed from their index, in integer TensorFlow ops, on any device.

Direction i has the key ``fold_in(seed, i)``, and its entries are those of the stream in ``hashing.py``: nothing
depends on the block size, on the device, or on what was drawn before.
"""

from typing import Any

from rbd_ipu._stack import tf
from rbd_ipu.directions.blocks import BlockSource
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.hashing import schedule
from rbd_ipu.directions.sources import SOURCES, Source
from rbd_ipu.seeds import fold_in

# Floats of one block of directions. Under XLA:CPU a block is materialised between its dot products and its use
# in the update, so it should stay in the cache.
BLOCK_FLOATS = 1 << 19


class Counter(BlockSource):
    """Draws blocks of hashed directions."""

    jit = True

    def keys(self, seeds: Any) -> Any:
        return schedule(fold_in(seeds[:, tf.newaxis, :], tf.range(self.dim)))  # [G, d, 2]

    def draw(self, keys: Any, start: Any, count: int) -> Any:
        pairs = tf.slice(keys, [0, start, 0], [self.groups, count, 2])
        return self.distribution.draw(pairs, self.size)


@SOURCES.register("counter")
def make(groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int = 0) -> Source:
    """The source for G bases of ``dim`` directions in R^size."""
    rows = rows or max(1, min(dim, BLOCK_FLOATS // (groups * size)))
    return Counter(groups, size, dim, DISTRIBUTIONS.get(distribution), normalize, rows)
