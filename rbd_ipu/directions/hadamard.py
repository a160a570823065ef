"""Distribution ``hadamard``: rows of a randomised Hadamard matrix, orthogonal, at a cost that does not depend on d.

Hadamard matrices of the orders that padding needs: products of 2, 12 and 20.

A Hadamard matrix of order m has entries +-1 and orthogonal rows: H H^T = m I. Kronecker products of such matrices
are such matrices. All of those here are symmetric too, so that H H = m I and one transform serves both ways:

    order 2 m   H_m (x) [[1, 1], [1, -1]]                        Sylvester (1867); with H_1 = [1], Walsh-Hadamard
    order 2 q   [[S + I, S - I], [S - I, -S - I]]                Paley (1933), second kind

with S a symmetric conference matrix of order q (zero diagonal, else +-1, S S = (q - 1) I), from the circulant Q of
the quadratic residues modulo 5, first row (0, 1, -1, -1, 1):

    q = 6       [[0, 1], [1, Q]]
    q = 10      [[Q, J - 2 I], [J - 2 I, -Q]]

A padded size is N = a b, with a and b each 1, 12 or 20 times a power of two, and H_N = H_a (x) H_b. Powers of two
alone would pad by up to 100 % (29 % for the 101,770 parameters of FC-MNIST), and padding takes from the gradient
correlation where d is large; these orders pad the paper's networks by 0.2 to 5.3 %, anything by less than 20 %.

A keyed permutation of the rows 0 ... N - 1: which d of them are directions, without drawing N numbers.

Write a row as r = i B + j, with A B = N. Six rounds of a Feistel network over Z_A x Z_B, with round functions F_k
hashed from the k-th key, take a row to its rank::

    j <- j + F_0(i) mod B,   i <- i + F_1(j) mod A,   ...   j <- j + F_4(i) mod B,   i <- i + F_5(j) mod A

and, undone in reverse, a rank to its row. Row r is one of the d directions if rank(r) < d; direction i is the row
of rank i. Every round is one-to-one whatever F is, so rows are distinct; no table of size N is made, and none is
sorted. All is int32 arithmetic below 2^31, elementwise.

The Hadamard basis in TensorFlow ops: elementwise int32 arithmetic and matrix products, for any device.

With N >= n the least order admitted (below), H the symmetric Hadamard matrix of order N, s random signs in
{-1, +1}^N and R a set of d distinct rows, both from the seed, the raw directions are

    x_i = row R_i of H diag(s), its first n columns            entries +-1

    project   c = scale (H diag(s) pad(v))_R
    expand    u = scale diag(s) H (c placed at R), cropped

for O(N log N) time and O(N) memory, whatever d is (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss
transform", without its sparse matrix; Yu et al. 2016, "Orthogonal random features").

K workers share s and the order of the rows: worker k has the rows of the ranks k d, k d + 1, ... modulo N. So their
directions are orthogonal to each other as long as K d <= N, all rows are used equally often where K d is larger, and
sum_k P_k c_k takes one transform, whatever K is.

What padding does. In R^N the directions are exactly orthogonal. Cropped to n columns

* their norms are exactly sqrt(n), as all entries are +-1: "unit" and "expected" both divide by sqrt(n), "none"
  leaves +-1, of second moment 1;
* two of them have cosines of root mean square sqrt((1 - n / N) / n), less than the sqrt(1 / n) of independent
  directions, and exactly 0 if n = N;
* E[P P^T] = (d / n) I for unit norms, as for every distribution;
* the gradient correlation of a step is sqrt(d / (n + d (1 - n / N))): sqrt(d / n) where little is padded;
* d may be anything up to N. At d = N, P P^T = (N / n) I: the gradient comes back exactly, but for that factor. At
  d = n the same holds if n = N, that is, n is a product of admitted orders (any power of two); else P P^T is only
  close to the identity, as the N - n rows that are left out are missing.
"""

import math
from typing import Any, List, Tuple

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.directions.source import STRUCTURED, Source, Structure, imported
from rbd_ipu.directions.stream import DISTRIBUTIONS, hash32, schedule, shift_right
from rbd_ipu.seeds import fold_in

BASES = (1, 12, 20)


def conference(order: int) -> np.ndarray:
    """The symmetric conference matrix S of order 6 or 10."""
    Q = np.array([np.roll([0, 1, -1, -1, 1], shift) for shift in range(5)])
    if order == 6:
        S = np.ones((6, 6), int)
        S[0, 0], S[1:, 1:] = 0, Q
        return S
    B = np.ones((5, 5), int) - 2 * np.eye(5, dtype=int)
    return np.block([[Q, B], [B, -Q]])


def base_of(order: int) -> int:
    """12 or 20 where ``order`` is that times a power of two, else 1."""
    return {1: 1, 3: 12, 5: 20}[order // (order & -order)]


def hadamard_matrix(order: int) -> np.ndarray:
    """The symmetric Hadamard matrix of an order 1, 12 or 20 times a power of two: entries +-1, float32 [m, m]."""
    base = base_of(order)
    H = np.ones((1, 1), int)
    if base > 1:
        S, identity = conference(base // 2), np.eye(base // 2, dtype=int)
        H = np.block([[S + identity, S - identity], [S - identity, -S - identity]])
    while len(H) < order:
        H = np.kron(H, [[1, 1], [1, -1]])
    return H.astype(np.float32)


def split(size: int) -> Tuple[int, int]:
    """(a, b), a >= b, with the least N = a b >= size; among equal ones the most nearly square.

    Example:
      >>> split(122_570), split(101_770), split(4096), split(17)
      ((384, 320), (320, 320), (64, 64), (20, 1))
    """
    found = []
    for i, p in enumerate(BASES):
        for q in BASES[i:]:
            twos = 1
            while p * q * twos < size:
                twos *= 2
            factor = 1
            while factor <= twos:
                pair = sorted((p * factor, q * (twos // factor)), reverse=True)
                found.append((pair[0] * pair[1], pair[0], pair[1]))
                factor *= 2
    # At equal N the least a is the most nearly square.
    _, a, b = min(found)
    return a, b


def kronecker_factors(a: int, b: int, most: int = 64) -> List[np.ndarray]:
    """Few matrices, of order <= most, whose Kronecker product is H_a (x) H_b: what matrix products multiply by.

    Small factors cost less arithmetic (the sum of their orders for each entry), few factors fewer operations.
    """
    parts: List[np.ndarray] = []
    for order in (a, b):
        base = base_of(order)
        parts += [hadamard_matrix(base)] * (base > 1)
        parts += [hadamard_matrix(2)] * ((order // base).bit_length() - 1)
    factors = [np.ones((1, 1), np.float32)]
    for part in parts:
        if len(factors[-1]) * len(part) <= most:
            factors[-1] = np.kron(factors[-1], part)
        else:
            factors.append(part)
    return factors


# Of 4 rounds, 40,000 draws of two rows at N = 320 * 320 can be told from independent ones; of 6 they cannot.
ROUNDS = 6


def grid(a: int, b: int) -> Tuple[int, int]:
    """(A, B) with A B = a b: (a, b) itself, or more nearly square where b is so small that mixing would be poor."""
    if b >= 4:
        return a, b
    size = a * b
    B = max(divisor for divisor in range(1, 1 + int(size**0.5)) if size % divisor == 0)
    return size // B, B


def below(words: Any, bound: int) -> Any:
    """Hashed words to 0 ... bound - 1, by multiplication: as many top bits as leave the product below 2^31."""
    spare = bound.bit_length()
    return tf.bitwise.right_shift(shift_right(words, 1 + spare) * bound, 31 - spare)


class Rows:
    """The permutation for given sizes; keys are (offset, odd step) pairs, int32 [G, 6, 2]."""

    def __init__(self, A: int, B: int):
        self.A, self.B = A, B

    def _round(self, pairs: Any, k: int, x: Any) -> Any:
        """F_k(x) for x [..., G or 1, m]: below B in even rounds, below A in odd ones."""
        words = hash32(pairs[:, k, 0:1] + x * pairs[:, k, 1:2])
        return below(words, self.B if k % 2 == 0 else self.A)

    def ranks(self, pairs: Any, rows: Any) -> Any:
        """Ranks of rows int32 [m]: [G, m]."""
        i, j = rows // self.B, rows % self.B
        for k in range(0, ROUNDS, 2):
            j = _add(j, self._round(pairs, k, i), self.B)
            i = _add(i, self._round(pairs, k + 1, j), self.A)
        return i * self.B + j

    def rows(self, pairs: Any, ranks: Any) -> Any:
        """Rows of ranks int32 [m]: [G, m]."""
        i, j = ranks // self.B, ranks % self.B
        for k in range(ROUNDS - 2, -1, -2):
            i = _subtract(i, self._round(pairs, k + 1, j), self.A)
            j = _subtract(j, self._round(pairs, k, i), self.B)
        return i * self.B + j


def _add(x: Any, y: Any, modulus: int) -> Any:
    total = x + y
    return tf.where(total >= modulus, total - modulus, total)


def _subtract(x: Any, y: Any, modulus: int) -> Any:
    difference = x - y
    return tf.where(difference < 0, difference + modulus, difference)


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


NATIVE = "rbd_ipu.directions.native.hadamard"  # imported where Numba is asked for


def make(source: str, groups: int, size: int, dim: int, normalize: str, rows: int, parameter: Any) -> Source:
    """The source for G bases; ``rows`` has no effect, as there are no blocks.

    "native" is machine code; every other source stands for TensorFlow operations.

    Raises:
      ValueError: there are fewer than ``dim`` rows.
    """
    a, b = split(size)
    if dim > a * b:
        raise ValueError(
            f"distribution 'hadamard' has {a * b} orthogonal directions for {size} parameters, so dim must be "
            f"at most that, got {dim}; other distributions take any dim"
        )
    if source == "native":
        return imported(NATIVE).NativeHadamard(groups, size, dim, normalize)
    return Hadamard(groups, size, dim, normalize)


STRUCTURED.register("hadamard")(
    Structure("hadamard", make, None, "orthogonal directions at a cost that does not depend on dim")
)


__all__ = ["Hadamard", "make"]
