"""The Hadamard basis in float64 NumPy, written from its definition, and the sources that are held to it."""

import importlib.util

import numpy as np
import pytest
from reference import entries, hash32, schedule, threefry

from rbd_ipu.directions.hadamard import grid, hadamard_matrix, split

NUMBA = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="without Numba there is no machine code to test"
)
SOURCES = ["counter", pytest.param("native", marks=NUMBA)]


def reference_padded(size):
    """The least a b >= size with a and b each 1, 12 or 20 times a power of two, by trying everything."""
    orders = [base << k for base in (1, 12, 20) for k in range(21)]
    return min(a * b for a in orders for b in orders if a * b >= size)


def reference_rows(seed, A, B, ranks):
    """Rows of ranks: the rounds undone one by one, in unbounded integers."""
    i, j = np.divmod(np.asarray(ranks, np.int64), B)
    for k in (5, 4, 3, 2, 1, 0):
        offset, step = schedule(*threefry(seed, (0, 1 + k)))
        x, bound = (j, A) if k % 2 else (i, B)
        words = hash32((offset + x.astype(np.uint64) * step) & np.uint64(0xFFFFFFFF)).astype(object)
        spare = bound.bit_length()
        shift = np.array([((int(w) >> (1 + spare)) * bound) >> (31 - spare) for w in words], np.int64)
        if k % 2:
            i = (i - shift) % A
        else:
            j = (j - shift) % B
    return i * B + j


def reference_directions(seed, size, dim, first=0):
    """Raw directions, float64 [dim, size], those of the ranks from ``first`` on, modulo N."""
    a, b = split(size)
    signs = entries("rademacher", seed, 0, size)
    rows = reference_rows(seed, *grid(a, b), (first + np.arange(dim)) % (a * b))
    H_a, H_b = hadamard_matrix(a).astype(np.float64), hadamard_matrix(b).astype(np.float64)
    return np.einsum("ri,rj->rij", H_a[rows // b], H_b[rows % b]).reshape(dim, a * b)[:, :size] * signs


def reference_sketch(seed, size, dim, v):
    """Coordinates and update for unit norms, in float64, for any d."""
    a, b = split(size)
    H_a, H_b = hadamard_matrix(a).astype(np.float64), hadamard_matrix(b).astype(np.float64)
    signs = entries("rademacher", seed, 0, size)
    rows = reference_rows(seed, *grid(a, b), np.arange(dim))
    padded = np.zeros(a * b)
    padded[:size] = signs * v
    c = (H_a @ padded.reshape(a, b) @ H_b).ravel()[rows]
    placed = np.zeros(a * b)
    placed[rows] = c
    return c / np.sqrt(size), signs * (H_a @ placed.reshape(a, b) @ H_b).ravel()[:size] / size
