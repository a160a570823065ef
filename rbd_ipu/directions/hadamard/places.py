"""Which entries of a transformed vector belong to the d directions of a basis, and where they lie.

Entry (i, j) of H_a X H_b lies in the panel of its LANES rows: see ``kernels.py``. A basis has the ranks f, f + 1, ...
f + d - 1 modulo N, where f is 0 for a worker on its own.
"""

import numpy as np
from numba import njit

from rbd_ipu.directions.hadamard.butterflies import LANE_BITS, LANES
from rbd_ipu.directions.hadamard.permutation import ROUNDS
from rbd_ipu.directions.native.loops import loop
from rbd_ipu.directions.native.stream import fold_in, hash32, schedule, u32

u64 = np.uint64
LANES_U, LANE_BITS_U = u64(LANES), u64(LANE_BITS)


@njit
def round_tables(k0, k1, A, B, tables):
    """tables[k, x] <- what undoes F_k(x): its modulus minus it. See permutation.py."""
    for k in range(ROUNDS):
        offset, step = fold_in(k0, k1, u32(1 + k))
        offset, step = schedule(offset, step)
        domain, bound = (A, B) if k % 2 == 0 else (B, A)
        spare = 0
        while bound >> spare:
            spare += 1
        for x in range(domain):
            word = hash32(u32(offset + u32(u32(x) * step)))
            value = (np.int64(word >> u32(1 + spare)) * bound) >> (31 - spare)
            tables[k, x] = u64(bound - value)


@loop
def _places(t0, t1, t2, t3, t4, t5, A, B, i, places):
    """Rows of the B ranks from i B on, and where they lie in the panels.

    Without a branch, which would be a coin toss, and unsigned: of x and x - A, the least is x modulo A.
    """
    for j in range(places.shape[0]):
        row_j = u64(j)
        row_i = i + t5[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t4[row_i]
        row_j = min(row_j, row_j - B)
        row_i = row_i + t3[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t2[row_i]
        row_j = min(row_j, row_j - B)
        row_i = row_i + t1[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t0[row_i]
        row_j = min(row_j, row_j - B)
        places[j] = (row_i >> LANE_BITS_U) * (B * LANES_U) + row_j * LANES_U + (row_i & (LANES_U - u64(1)))


@njit(error_model="numpy")
def _to_grid(A, B, b, places):
    """Places for rows [A, B] -> places for rows [a, b]; they differ for the smallest orders only."""
    for j in range(places.shape[0]):
        block, place = divmod(int(places[j]), B * LANES)
        row = (block * LANES + place % LANES) * B + place // LANES
        i, k = divmod(row, b)
        places[j] = (i // LANES) * (b * LANES) + k * LANES + i % LANES


@loop
def _take(places, scale, y, c):
    for j in range(c.shape[0]):
        c[j] = y[places[j]] * scale


@loop
def _put(places, c, z):
    for j in range(c.shape[0]):
        z[places[j]] = c[j]


@loop
def _mark(places, value, mask):
    for j in range(places.shape[0]):
        mask[places[j]] = value


@loop
def keep(mask, scale, y):
    """y <- scale y where the mask is 1, 0 where it is 0."""
    for j in range(y.shape[0]):
        y[j] = y[j] * (scale * np.float32(mask[j]))


@njit(error_model="numpy")
def _row(tables, A, B, b, i, places):
    """Where the B ranks from i B on lie; i counts on after the last of the A rows."""
    t, i = tables, u64(i % A)
    _places(t[0], t[1], t[2], t[3], t[4], t[5], u64(A), u64(B), i, places)
    if b != B:
        _to_grid(A, B, b, places)


@njit(error_model="numpy")
def chosen(tables, A, B, b, first, d, mask):
    """mask <- 1 at the places of the d ranks from first on, 0 at all others; walks along the fewer of the two."""
    few = 2 * d <= A * B
    mask[:] = 0 if few else 1
    first, stop = (first, first + d) if few else (first + d, first + A * B)
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, places)
        _mark(places[max(first - i * B, 0) : min(stop - i * B, B)], 1 if few else 0, mask)


@njit(error_model="numpy")
def exchange(tables, A, B, b, scale, first, gather, scatter, c, y, z):
    """Coordinates from their places in y (gather), coordinates to their places in z (scatter)."""
    stop = first + c.shape[0]
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, places)
        low, high = max(first, i * B), min(stop, (i + 1) * B)
        here, part = places[low - i * B : high - i * B], c[low - first : high - first]
        if gather:
            _take(here, scale, y, part)
        if scatter:
            _put(here, part, z)
