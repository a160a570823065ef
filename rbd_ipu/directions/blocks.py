"""Distribution ``blocks``: an orthonormal basis of all D directions, at a cost of O(D log B).

The vector is cut into pieces of B = 4096 entries, and what is left into pieces of 1024, 256, 64, 16, 4 and 1: the
digits of its length in base 4, so that nothing is padded. Each piece of w^2 entries has the basis

    P = diag(s) (H_w (x) H_w) / w        s random signs from the seed, H_w the Walsh-Hadamard matrix of order w

a Kronecker product of two small matrices (64 x 64 for a whole piece). P is symmetric up to its signs, exactly
orthonormal, and d = n: c = P^T v holds all of v, and P c = v. Its use is in what is done with c: of a gradient, few
of these coordinates hold most (:mod:`rbd_ipu.compression`).

"blocks:unsigned" leaves the signs out: one basis whatever the seed is.

Butterflies are additions, in the order of the bits from the lowest to the highest, and 1 / w is a power of two: no
rounding depends on how a compiler orders or fuses them. So TensorFlow, XLA and Numba have the same bits.
"""

import math
from typing import Any, List, Optional, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.directions.source import STRUCTURED, Source, Structure
from rbd_ipu.directions.stream import DISTRIBUTIONS, schedule
from rbd_ipu.seeds import fold_in

#: log2 of the entries of a whole piece.
LOG_BLOCK = 12
BLOCK = 1 << LOG_BLOCK
UNSIGNED = "unsigned"


def pieces(n: int) -> List[Tuple[int, int]]:
    """(start, size) of the pieces of n entries; sizes fall from 4096 to 1.

    Example:
      >>> pieces(4096 + 9)
      [(0, 4096), (4096, 4), (4100, 4), (4104, 1)]
    """
    found, start = [], 0
    for q in range(LOG_BLOCK, -1, -2):
        while n - start >= 1 << q:
            found.append((start, 1 << q))
            start += 1 << q
    return found


def norms(n: int) -> Any:
    """1 / sqrt(size) of the piece that each of n entries is in: float32 [n]."""
    whole = n - n % BLOCK
    sizes = [(whole, BLOCK)] if whole else []
    sizes += [(size, size) for _, size in pieces(n) if size < BLOCK]
    return tf.concat([tf.fill([count], tf.constant(1.0 / math.sqrt(size))) for count, size in sizes], axis=0)


def butterflies(x: Any) -> Any:
    """H of every piece times its entries: float32 [G, n] -> [G, n]."""
    groups, n = x.shape
    for q in range(LOG_BLOCK):
        bits = 2 * (q // 2 + 1)
        whole = n >> bits << bits  # pieces come in falling sizes: those that have bit q are in front
        if not whole:
            break
        pairs = tf.reshape(x[:, :whole], [groups, whole >> (q + 1), 2, 1 << q])
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        mixed = tf.reshape(tf.stack([low + high, low - high], axis=2), [groups, whole])
        x = mixed if whole == n else tf.concat([mixed, x[:, whole:]], axis=1)
    return x


def signs(seeds: Any, n: int) -> Any:
    """The random signs of G bases: int32 [G, 2] -> float32 [G, n] of +-1, from the counter stream of direction 0."""
    pairs = schedule(fold_in(seeds[:, tf.newaxis], tf.constant([0])))[:, 0]
    return DISTRIBUTIONS.get("rademacher").draw(pairs, n)


def forward(vectors: Any, seeds: Optional[Any]) -> Any:
    """c = P^T v: [G, n], seeds int32 [G, 2] or None for no signs -> [G, n]."""
    n = vectors.shape[1]
    return butterflies(vectors if seeds is None else vectors * signs(seeds, n)) * norms(n)


def backward(coordinates: Any, seeds: Optional[Any]) -> Any:
    """P c: [G, n] -> [G, n]."""
    n = coordinates.shape[1]
    x = butterflies(coordinates * norms(n))
    return x if seeds is None else x * signs(seeds, n)


class Blocks(Source):
    """G bases of n directions in R^n."""

    jit = True

    def __init__(self, groups: int, size: int, normalize: str, signed: bool = True):
        self.groups, self.size, self.dim = groups, size, size
        self._scale = math.sqrt(size) if normalize == "none" else 1.0
        self._signed = signed

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        rows = tf.range(start, start + count)
        units = tf.cast(tf.equal(rows[:, tf.newaxis], tf.range(self.size)), tf.float32)  # [count, n]
        rows = [self.expand(tf.tile(unit[tf.newaxis], [self.groups, 1]), seeds) for unit in tf.unstack(units)]
        return tf.stack(rows, axis=1)

    def project(self, vectors: Any, seeds: Any) -> Any:
        return self._scaled(forward(vectors, self._key(seeds)))

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        return self._scaled(backward(coordinates, self._key(seeds)))

    def _key(self, seeds: Any) -> Any:
        return seeds if self._signed else None

    def _scaled(self, x: Any) -> Any:
        return x if self._scale == 1.0 else x * self._scale


def parse(text: str) -> bool:
    """Whether there are no signs.

    Raises:
      ValueError: the parameter is not "unsigned".
    """
    if text != UNSIGNED:
        raise ValueError(f"distribution 'blocks' takes the parameter '{UNSIGNED}' only, got 'blocks:{text}'")
    return True


def make(source: str, groups: int, size: int, dim: int, normalize: str, rows: int, parameter: Any) -> Source:
    """The source for G bases; TensorFlow operations, whatever the source is.

    Raises:
      ValueError: ``dim`` is not the number of parameters.
    """
    if dim != size:
        raise ValueError(
            f"distribution 'blocks' is an orthonormal basis of all {size} directions of a compartment of {size} "
            f"parameters, so dim must be {size} there, got {dim}; to use few of its coordinates, select the largest "
            "(SubspaceOptimizer)"
        )
    return Blocks(groups, size, normalize, not parameter)


STRUCTURED.register("blocks")(
    Structure("blocks", make, parse, "an orthonormal basis, d = D: Walsh-Hadamard blocks with random signs")
)
