"""Distribution ``groups``: each parameter belongs to one direction, with a random sign.

Directions with disjoint supports are exactly orthogonal, for any d <= n, and cost O(n) whatever d is: no transform,
no product. (A count sketch, Charikar et al. 2002; as a fixed projection, Uni-LoRA, 2025.)

Write a parameter as j = r d + q with 0 <= q < d: row r, place q. A random shift a_r in 0 ... d - 1 of each row, and a
random sign s_j of each parameter, both from the seed, make it

    direction i(j) = (q + a_r) mod d,        entry phi_i[j] = s_j / sqrt(n_i)

with n_i the number of parameters of direction i: the rows, with or without the last one. So

    project   c_i = (1 / sqrt(n_i)) sum_r s_j v_j,      j = r d + (i - a_r) mod d
    expand    u_j = s_j c_{i(j)} / sqrt(n_{i(j)})

a gather and a sum over rows, and a gather: nothing is scattered.
"""

import math
from typing import Any, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.directions.source import STRUCTURED, Source, Structure, imported
from rbd_ipu.directions.stream import DISTRIBUTIONS, schedule, shift_right, word_at
from rbd_ipu.seeds import fold_in

NATIVE = "rbd_ipu.directions.native.groups"  # imported where Numba is asked for


class Groups(Source):
    """G bases of d directions with disjoint supports in R^n."""

    jit = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        self.groups, self.size, self.dim = groups, size, dim
        self.rows = -(-size // dim)
        self.rest = size - (self.rows - 1) * dim  # parameters of the last row
        self.normalize = normalize

    def project(self, vectors: Any, seeds: Any) -> Any:
        signs, shifts = self._draw(seeds)
        padded = tf.pad(vectors * signs, [[0, 0], [0, self.rows * self.dim - self.size]])
        rows = tf.reshape(padded, [self.groups, self.rows, self.dim])
        place = self._wrapped(tf.range(self.dim) - shifts[:, :, tf.newaxis])  # [G, R, d]
        return tf.reduce_sum(tf.gather(rows, place, axis=2, batch_dims=2), axis=1) * self._scales(shifts)

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        signs, shifts = self._draw(seeds)
        scaled = coordinates * self._scales(shifts)
        return tf.gather(scaled, self._members(shifts), axis=1, batch_dims=1) * signs

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        signs, shifts = self._draw(seeds)
        member = self._members(shifts)[:, tf.newaxis]  # [G, 1, n]
        wanted = tf.range(start, start + count)[:, tf.newaxis]
        own = tf.where(tf.equal(member, wanted), signs[:, tf.newaxis], 0.0)
        return own * self._scales(shifts)[:, start : start + count, tf.newaxis]

    def _draw(self, seeds: Any) -> Tuple[Any, Any]:
        """Signs [G, n], from the counter stream of direction 0, and shifts int32 [G, R], from that of direction 1."""
        pairs = schedule(fold_in(seeds[:, tf.newaxis], tf.range(2)))  # [G, 2, 2]
        words = word_at(pairs[:, 1], tf.range(self.rows))
        return DISTRIBUTIONS.get("rademacher").draw(pairs[:, 0], self.size), tf.math.floormod(
            shift_right(words, 1), self.dim
        )

    def _wrapped(self, places: Any) -> Any:
        """Places in -d ... 2 d - 1, modulo d."""
        places = tf.where(places < 0, places + self.dim, places)
        return tf.where(places >= self.dim, places - self.dim, places)

    def _members(self, shifts: Any) -> Any:
        """The direction of every parameter: int32 [G, n]."""
        rows = self._wrapped(tf.range(self.dim) + shifts[:, :, tf.newaxis])
        return tf.reshape(rows, [self.groups, self.rows * self.dim])[:, : self.size]

    def _scales(self, shifts: Any) -> Any:
        """What the entries +-1 of each direction are multiplied by: [G, d]."""
        if self.normalize == "none":
            return tf.fill([self.groups, self.dim], tf.constant(math.sqrt(self.dim)))
        if self.normalize == "expected":
            return tf.fill([self.groups, self.dim], tf.constant(math.sqrt(self.dim / self.size)))
        place = self._wrapped(tf.range(self.dim) - shifts[:, -1:])
        more, fewer = 1.0 / math.sqrt(self.rows), 1.0 / math.sqrt(max(1, self.rows - 1))
        return tf.where(place < self.rest, tf.constant(more), tf.constant(fewer))


def make(source: str, groups: int, size: int, dim: int, normalize: str, rows: int, parameter: Any) -> Source:
    """The source for G bases; ``rows`` has no effect, as there are no blocks.

    "native" is machine code; every other source stands for TensorFlow operations.

    Raises:
      ValueError: there are fewer than ``dim`` parameters.
    """
    if dim > size:
        raise ValueError(
            f"distribution 'groups' gives each of {size} parameters to one direction, so dim must be at most {size}, "
            f"got {dim}; other distributions take any dim"
        )
    if source == "native":
        return imported(NATIVE).NativeGroups(groups, size, dim, normalize)
    return Groups(groups, size, dim, normalize)


STRUCTURED.register("groups")(
    Structure("groups", make, None, "each parameter belongs to one direction, with a random sign: O(D), any d <= D")
)
