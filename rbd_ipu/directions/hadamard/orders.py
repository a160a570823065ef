"""Hadamard matrices of the orders that padding needs: products of 2, 12 and 20.

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
"""

from typing import List, Tuple

import numpy as np

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
