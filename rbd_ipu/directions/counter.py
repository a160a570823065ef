"""Source ``counter``: directions hashed from their index, in integer TensorFlow ops, on any device.

Direction i has the key ``fold_in(seed, i)``, and its entries are those of the stream in ``hashing.py``: nothing
depends on the block size, on the device, or on what was drawn before. On an IPU a codelet hashes, see
``devices/ipu/codelet.py``.
"""

from typing import Any

from rbd_ipu._stack import inside_xla, tf
from rbd_ipu.directions.blocks import BlockSource
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.hashing import schedule, word_at
from rbd_ipu.directions.sources import SOURCES, Compiled, Source, only_cpus
from rbd_ipu.place import here
from rbd_ipu.seeds import fold_in

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
        self._keys = tf.function(whole.keys, jit_compile=True)
        self._sources = {dim: Compiled(self._part(dim)) for dim in set(self._cuts)}
        self._side_by_side = tf.function(self._run)

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


@SOURCES.register("counter")
def make(groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int = 0) -> Source:
    """The source for G bases of ``dim`` directions in R^size."""
    rows = rows or max(1, min(dim, BLOCK_FLOATS // (groups * size)))
    whole = Counter(groups, size, dim, DISTRIBUTIONS.get(distribution), normalize, rows)
    parts = min(MOST_PARTS, dim, groups * size * dim // PART_SAMPLES)
    return Parts(whole, parts) if parts > 1 and only_cpus() else whole
