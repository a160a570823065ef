"""The Hadamard basis in TensorFlow ops: elementwise int32 arithmetic and matrix products, for any device."""

import math
from typing import Any, Tuple

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.hadamard.orders import hadamard_matrix, kronecker_factors, split
from rbd_ipu.directions.hadamard.permutation import ROUNDS, Rows, grid
from rbd_ipu.directions.hashing import schedule
from rbd_ipu.directions.sources import Source
from rbd_ipu.seeds import fold_in


class Hadamard(Source):
    """G bases of d distinct rows of H diag(s), cropped to n columns and scaled.

    Takes keys as well as seeds: int32 [G, 3], a seed and the rank of the first direction. Seeds stand for rank 0.

    Attributes:
      padded: N, the order of H.
      scale: what the entries +-1 are multiplied by.
    """

    jit = True
    one_draw = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        self.groups, self.size, self.dim = groups, size, dim
        self.a, self.b = split(size)
        self.padded = self.a * self.b
        self.scale = 1.0 if normalize == "none" else 1.0 / math.sqrt(size)
        self._factors = kronecker_factors(self.a, self.b)
        self._rows = Rows(*grid(self.a, self.b))

    def worker_keys(self, seeds: Any, worker: Any) -> Any:
        first = tf.math.floormod(worker * self.dim, self.padded)
        return tf.concat([seeds, tf.fill([self.groups, 1], first)], axis=1)

    def join(self, messages: Any, seeds: Any) -> Any:
        return self.expand(in_ranks(messages, self.padded), seeds)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        signs, pairs, first = self._draw(seeds)
        rows = self._rows.rows(pairs, self._wrapped(first + start + tf.range(count)))
        outer = tf.gather(hadamard_matrix(self.a), rows // self.b)  # [G, count, a]
        inner = tf.gather(hadamard_matrix(self.b), rows % self.b)  # [G, count, b]
        entries = outer[..., :, tf.newaxis] * inner[..., tf.newaxis, :]
        entries = tf.reshape(entries, [self.groups, count, self.padded])[..., : self.size]
        return entries * signs[:, tf.newaxis] * self.scale

    def project(self, vectors: Any, seeds: Any) -> Any:
        signs, pairs, first = self._draw(seeds)
        return self._select(self._forward(vectors, signs), pairs, first)

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        signs, pairs, first = self._draw(seeds)
        count, places = coordinates.shape[1], self._places(pairs, first)
        placed = tf.gather(coordinates, tf.minimum(places, count - 1), axis=1, batch_dims=1)
        return self._back(tf.where(places < count, placed, 0.0), signs)

    def sketch(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        signs, pairs, first = self._draw(seeds)
        all_rows = self._forward(vectors, signs)
        chosen = self._places(pairs, first) < self.dim
        update = self._back(tf.where(chosen, all_rows * self.scale, 0.0), signs)
        return self._select(all_rows, pairs, first), update

    def _draw(self, seeds: Any) -> Tuple[Any, Any, Any]:
        """Signs of the n columns that are kept, [G, n], keys of the permutation, [G, 6, 2], and first ranks, [G, 1].

        They come from the counter streams of directions 0 (signs) and 1 ... 6 (rounds) of a basis.
        """
        pairs = schedule(fold_in(seeds[:, tf.newaxis, :2], tf.range(1 + ROUNDS)))  # [G, 7, 2]
        first = seeds[:, 2:] if seeds.shape[1] == 3 else tf.zeros([self.groups, 1], tf.int32)
        return DISTRIBUTIONS.get("rademacher").draw(pairs[:, 0], self.size), pairs[:, 1:], first

    def _wrapped(self, ranks: Any) -> Any:
        """Ranks below 2 N, modulo N."""
        return tf.where(ranks >= self.padded, ranks - self.padded, ranks)

    def _places(self, pairs: Any, first: Any) -> Any:
        """Of every row, its place among the N ranks from ``first`` on: [G, N]."""
        ranks = self._rows.ranks(pairs, tf.range(self.padded))
        return tf.where(ranks >= first, ranks - first, ranks - first + self.padded)

    def _forward(self, vectors: Any, signs: Any) -> Any:
        """H diag(s) v for the padded v: [G, n] -> [G, N]."""
        return self._transform(tf.pad(vectors * signs, [[0, 0], [0, self.padded - self.size]]))

    def _back(self, rows: Any, signs: Any) -> Any:
        """scale * diag(s) H z, cropped: [G, N] -> [G, n]."""
        return self._transform(rows)[:, : self.size] * (signs * self.scale)

    def _select(self, all_rows: Any, pairs: Any, first: Any) -> Any:
        """The d coordinates among all N rows: [G, N] -> [G, d]."""
        rows = self._rows.rows(pairs, self._wrapped(first + tf.range(self.dim)))
        return tf.gather(all_rows, rows, axis=1, batch_dims=1) * self.scale

    def _transform(self, x: Any) -> Any:
        """H x by one matrix product for each Kronecker factor, along its own axis: [G, N] -> [G, N]."""
        left, right = self.groups, self.padded
        for H in self._factors:
            right //= len(H)
            x = _multiply(H, x, left, right)
            left *= len(H)
        return tf.reshape(x, [self.groups, self.padded])


def in_ranks(messages: Any, padded: int) -> Any:
    """Coordinates of K workers by rank, those of one rank added up: [G, K, d] -> [G, min(K d, N)].

    Worker k has the d ranks from k d on, modulo N.
    """
    groups, workers, dim = messages.shape
    rounds = -(-workers * dim // padded)
    flat = tf.reshape(messages, [groups, workers * dim])
    if rounds == 1:
        return flat
    whole = tf.pad(flat, [[0, 0], [0, rounds * padded - workers * dim]])
    return tf.reduce_sum(tf.reshape(whole, [groups, rounds, padded]), axis=1)


def _multiply(H: np.ndarray, x: Any, left: int, right: int) -> Any:
    """Multiplies by H along the middle axis of x [left, len(H), right]."""
    order = len(H)
    if right == 1:
        return tf.matmul(tf.reshape(x, [left, order]), H)  # H is symmetric
    if left == 1:
        return tf.matmul(H, tf.reshape(x, [order, right]))
    return tf.matmul(H[np.newaxis], tf.reshape(x, [left, order, right]))
