"""One basis after the other, start to end on one thread: signs, transform, rows, transform, signs.

With H_N = H_a (x) H_b, a vector of N entries is a matrix X [a, b] by rows, and H_N x is H_a X H_b:

    columns      X <- H_a X, a panel of LANES columns at a time
    rows         LANES rows at a time are turned into a panel and multiplied by H_b

The panels of rows are left as they are: entry (i, j) of H_a X H_b is found at ``_place(i, j)``, and the way back
begins there. Everything fits the second-level cache for N up to about 10^5.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from rbd_ipu.directions.distributions import PLANE
from rbd_ipu.directions.hadamard.butterflies import LANE_BITS, LANES, copy, transform
from rbd_ipu.directions.hadamard.permutation import ROUNDS
from rbd_ipu.directions.native.kernels import compile_loop, digest
from rbd_ipu.directions.native.loops import fill_words, loop
from rbd_ipu.directions.native.stream import SIGN, bits_of, float_of, fold_in, hash32, schedule, u32

u64 = np.uint64
LANES_U, LANE_BITS_U = u64(LANES), u64(LANE_BITS)


@loop
def _signed(words, shift, scale, x, y):
    """y <- scale * s * x for a plane."""
    for j in range(y.shape[0]):
        y[j] = float_of(u32(bits_of(x[j]) ^ u32(u32(words[j] << shift) & SIGN))) * scale


@njit(error_model="numpy")
def _apply_signs(words, scale, x, y):
    n = y.shape[0]
    for start in range(0, n, PLANE):
        plane, stop = start // PLANE, min(n, start + PLANE)
        first = (plane // 32) * PLANE
        _signed(words[first : first + PLANE], u32(31 - plane % 32), scale, x[start:stop], y[start:stop])


@njit(error_model="numpy")
def _columns(x, a, b, base, panel):
    for q in range(0, b, LANES):
        lanes = min(LANES, b - q)
        transform(x[q:], b, a, base, panel)
        for i in range(a):
            copy(panel[i * LANES : i * LANES + lanes], x[i * b + q : i * b + q + lanes])


@loop
def _to_panel(x, b, lanes, panel):
    for w in range(lanes):
        for j in range(b):
            panel[j * LANES + w] = x[w * b + j]


@loop
def _from_panel(panel, b, lanes, x):
    for w in range(lanes):
        for j in range(b):
            x[w * b + j] = panel[j * LANES + w]


@njit(error_model="numpy")
def _rows(x, a, b, base, panel, y):
    for i in range(0, a, LANES):
        _to_panel(x[i * b :], b, min(LANES, a - i), panel)
        transform(panel, LANES, b, base, y[i * b : (i + LANES) * b])


@njit(error_model="numpy")
def _rows_back(y, a, b, base, panel, x):
    for i in range(0, a, LANES):
        transform(y[i * b : (i + LANES) * b], LANES, b, base, panel)
        _from_panel(panel, b, min(LANES, a - i), x[i * b :])


@njit
def _round_tables(k0, k1, A, B, tables):
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
    """Rows of the ranks i B ... i B + len(places) - 1, and where they lie in the panels.

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
def _pass(places, scale, y, z):
    for j in range(places.shape[0]):
        z[places[j]] = y[places[j]] * scale


@loop
def _copy(scale, y, z):
    for j in range(z.shape[0]):
        z[j] = y[j] * scale


@loop
def _drop(places, z):
    for j in range(places.shape[0]):
        z[places[j]] = 0


@njit(error_model="numpy")
def _select(tables, A, B, b, scale, d, y, z):
    """z = scale y in the rows of the ranks below d, 0 in the others; walks along the fewer of the two."""
    N = A * B
    keep = 2 * d <= N
    first, last = (0, d) if keep else (d, N)
    if keep:
        z[:] = 0
    else:
        _copy(scale, y, z)
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-last // B)):
        _places(tables[0], tables[1], tables[2], tables[3], tables[4], tables[5], u64(A), u64(B), u64(i), places)
        if b != B:
            _to_grid(A, B, b, places)
        here = places[max(first - i * B, 0) : min(last - i * B, B)]
        if keep:
            _pass(here, scale, y, z)
        else:
            _drop(here, z)


@njit(error_model="numpy")
def _exchange(tables, A, B, b, scale, gather, scatter, c, y, z):
    """Coordinates from their places in y (gather), coordinates to their places in z (scatter)."""
    places = np.empty(B, np.uint64)
    for start in range(0, c.shape[0], B):
        part = c[start : start + B]
        here = places[: part.shape[0]]
        _places(
            tables[0], tables[1], tables[2], tables[3], tables[4], tables[5], u64(A), u64(B), u64(start // B), here
        )
        if b != B:
            _to_grid(A, B, b, here)
        if gather:
            _take(here, scale, y, part)
        if scatter:
            _put(here, part, z)


def _digest_here() -> str:
    text = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((digest() + text).encode("utf-8")).hexdigest()


def _build(digest: str) -> Any:
    """The kernel; ``digest`` of all its code becomes a part of the key of Numba's cache."""

    def sketch(seeds, first, last, shape, dim, scale, vectors, coordinates, out, work, words, gather, scatter):
        """Bases first ... last - 1: coordinates of the vectors (gather), update from coordinates (scatter).

        Where both are wanted and there is no room for coordinates, they are not written down.
        """
        digest  # noqa: B018
        a, b, base_a, base_b, A, B = shape
        n = vectors.shape[1] if gather else out.shape[1]
        N, length = a * b, -(-a // LANES) * LANES * b
        x, y, z = work[: N + LANES], work[N + LANES : N + LANES + length], work[N + LANES + length :]
        panel = z[length:]
        tables = np.empty((ROUNDS, max(A, B)), np.uint64)
        for g in range(first, last):
            k0, k1 = u32(seeds[g, 0]), u32(seeds[g, 1])
            offset, step = fold_in(k0, k1, u32(0))
            offset, step = schedule(offset, step)
            fill_words(offset, step, words)
            _round_tables(k0, k1, A, B, tables)
            if gather:
                _apply_signs(words, np.float32(1), vectors[g], x[:n])
                x[n:] = 0
                _columns(x, a, b, base_a, panel)
                _rows(x, a, b, base_b, panel, y)
            if coordinates.shape[1] == 0:
                _select(tables, A, B, b, scale, dim, y, z[:length])
            else:
                if scatter:
                    z[:length] = 0
                _exchange(tables, A, B, b, scale, gather, scatter, coordinates[g], y, z)
            if scatter:
                _rows_back(z, a, b, base_b, panel, x)
                _columns(x, a, b, base_a, panel)
                _apply_signs(words, scale, x[:n], out[g])

    return compile_loop(sketch)


def work_length(a: int, b: int) -> int:
    """Floats of the working memory: the vector, two spectra, a panel."""
    return a * b + LANES + 2 * (-(-a // LANES) * LANES * b) + max(a, b) * LANES


sketch = _build(_digest_here())
