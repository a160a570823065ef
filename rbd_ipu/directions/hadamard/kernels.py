"""One basis after the other, start to end on one thread: signs, transform, rows, transform, signs.

With H_N = H_a (x) H_b, a vector of N entries is a matrix X [a, b] by rows, and H_N x is H_a X H_b:

    columns      X <- H_a X, a panel of LANES columns at a time
    rows         LANES rows at a time are turned into a panel and multiplied by H_b

The panels of rows are left as they are, and the way back begins there; ``places.py`` knows where a row is found.
Everything fits the second-level cache for N up to about 10^5.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from rbd_ipu.directions.distributions import PLANE
from rbd_ipu.directions.hadamard.butterflies import LANES, copy, transform
from rbd_ipu.directions.hadamard.permutation import ROUNDS
from rbd_ipu.directions.hadamard.places import chosen, exchange, keep, round_tables
from rbd_ipu.directions.native.kernels import compile_loop, digest
from rbd_ipu.directions.native.loops import fill_words, loop
from rbd_ipu.directions.native.stream import SIGN, bits_of, float_of, fold_in, schedule, u32


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
def _rows(x, a, b, base, panel):
    for i in range(0, a, LANES):
        _to_panel(x[i * b :], b, min(LANES, a - i), panel)
        transform(panel, LANES, b, base, x[i * b : (i + LANES) * b])


@njit(error_model="numpy")
def _rows_back(y, a, b, base, panel, x):
    for i in range(0, a, LANES):
        transform(y[i * b : (i + LANES) * b], LANES, b, base, panel)
        _from_panel(panel, b, min(LANES, a - i), x[i * b :])


@njit(error_model="numpy")
def _rows_and_back(x, a, b, base, panel, mask, scale):
    """Along the rows, what the mask leaves of it, and back: each LANES rows while they are in the cache."""
    for i in range(0, a, LANES):
        here = x[i * b : (i + LANES) * b]
        _to_panel(here, b, min(LANES, a - i), panel)
        transform(panel, LANES, b, base, here)
        keep(mask[i * b : (i + LANES) * b], scale, here)
        transform(here, LANES, b, base, panel)
        _from_panel(panel, b, min(LANES, a - i), here)


def _digest_here() -> str:
    text = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((digest() + text).encode("utf-8")).hexdigest()


def _build(digest: str) -> Any:
    """The kernel; ``digest`` of all its code becomes a part of the key of Numba's cache."""

    def sketch(keys, first, last, shape, dim, scale, vectors, coordinates, out, work, words, gather, scatter):
        """Bases first ... last - 1: coordinates of the vectors (gather), update from coordinates (scatter).

        The key of a basis is a seed, and the rank of its first direction. Where both results are wanted and there is
        no room for coordinates, they are not written down, and less memory is gone through.
        """
        digest  # noqa: B018
        a, b, base_a, base_b, A, B = shape
        n = vectors.shape[1] if gather else out.shape[1]
        N, length = a * b, -(-a // LANES) * LANES * b
        through = coordinates.shape[1] == 0
        # As little memory as can be: after the network has used the caches, it is what a transform waits for.
        x, panel = work[: length + LANES], work[length + LANES : length + (1 + max(a, b)) * LANES]
        z = work[length + (1 + max(a, b)) * LANES :] if gather and scatter and not through else x[:length]
        mask = np.empty(length if through else 0, np.uint8)
        tables = np.empty((ROUNDS, max(A, B)), np.uint64)
        for g in range(first, last):
            k0, k1, rank = u32(keys[g, 0]), u32(keys[g, 1]), np.int64(keys[g, 2])
            offset, step = fold_in(k0, k1, u32(0))
            offset, step = schedule(offset, step)
            fill_words(offset, step, words)
            round_tables(k0, k1, A, B, tables)
            if gather:
                _apply_signs(words, np.float32(1), vectors[g], x[:n])
                x[n:N] = 0
                _columns(x, a, b, base_a, panel)
            if through:
                chosen(tables, A, B, b, rank, dim, mask)
                _rows_and_back(x, a, b, base_b, panel, mask, scale)
            else:
                if gather:
                    _rows(x, a, b, base_b, panel)
                if scatter:
                    z[:] = 0
                exchange(tables, A, B, b, scale, rank, gather, scatter, coordinates[g], x, z)
                if scatter:
                    _rows_back(z, a, b, base_b, panel, x)
            if scatter:
                _columns(x, a, b, base_a, panel)
                _apply_signs(words, scale, x[:n], out[g])

    return compile_loop(sketch)


def work_length(a: int, b: int, both: bool) -> int:
    """Floats of the working memory: a vector, a panel, and where there is a way back as well, another vector."""
    return (1 + both) * (-(-a // LANES) * LANES * b) + (1 + max(a, b)) * LANES


sketch = _build(_digest_here())
