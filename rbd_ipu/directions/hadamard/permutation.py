"""A keyed permutation of the rows 0 ... N - 1: which d of them are directions, without drawing N numbers.

Write a row as r = i B + j, with A B = N. Six rounds of a Feistel network over Z_A x Z_B, with round functions F_k
hashed from the k-th key, take a row to its rank::

    j <- j + F_0(i) mod B,   i <- i + F_1(j) mod A,   ...   j <- j + F_4(i) mod B,   i <- i + F_5(j) mod A

and, undone in reverse, a rank to its row. Row r is one of the d directions if rank(r) < d; direction i is the row
of rank i. Every round is one-to-one whatever F is, so rows are distinct; no table of size N is made, and none is
sorted. All is int32 arithmetic below 2^31, elementwise.
"""

from typing import Any, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.directions.hashing import hash32, shift_right

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
