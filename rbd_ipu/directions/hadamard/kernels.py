"""One basis after the other, start to end on one thread: signs, transform, rows, transform, signs."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from rbd_ipu.directions.distributions import PLANE
from rbd_ipu.directions.hadamard.butterflies import copy
from rbd_ipu.directions.hadamard.permutation import ROUNDS
from rbd_ipu.directions.hadamard.places import chosen, exchange, keep, round_tables
from rbd_ipu.directions.hadamard.rotations import chosen_bits, place_bits, worth
from rbd_ipu.directions.hadamard.transform import PANEL, across, along, along_back, twos
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


def _digest_here() -> str:
    text = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((digest() + text).encode("utf-8")).hexdigest()


def _build(digest: str) -> Any:
    """The kernel; ``digest`` of all its code becomes a part of the key of Numba's cache."""

    def sketch(keys, first, last, shape, dim, scale, where, vectors, coordinates, out, work, words, gather, scatter):
        """Bases first ... last - 1: coordinates of the vectors (gather), update from coordinates (scatter).

        The key of a basis is a seed, and the rank of its first direction. Where both results are wanted and there is
        no room for coordinates, they are not written down, and less memory is gone through.
        """
        digest  # noqa: B018
        a, b, parts, base, rows, A, B = shape
        n = vectors.shape[1] if gather else out.shape[1]
        N, part, group = a * b, a // parts * b, rows * b
        through = coordinates.shape[1] == 0
        # As little memory as can be: after the network has used the caches, it is what a transform waits for.
        x, panels = work[:N], np.empty((2, PANEL), np.float32)
        groups = np.empty((2, group), np.float32)
        z = work[N:] if gather and scatter and not through else x
        mask = np.empty(N if through else 0, np.uint8)
        tables = np.empty((ROUNDS, max(A, B)), np.uint64)
        for g in range(first, last):
            k0, k1, rank = u32(keys[g, 0]), u32(keys[g, 1]), np.int64(keys[g, 2])
            offset, step = fold_in(k0, k1, u32(0))
            offset, step = schedule(offset, step)
            fill_words(offset, step, words)
            round_tables(k0, k1, A, B, tables)
            if gather:
                _apply_signs(words, np.float32(1), vectors[g], x[:n])
                x[n:] = 0
                across(x, parts, part, panels)
            if through:
                if worth(A, B, dim):
                    place_bits(chosen_bits(tables, A, B, rank, dim), group, b // base, mask)
                else:
                    chosen(tables, A, B, b, rank, dim, where, mask)
            # There, and back; both at once where nothing is to be written down. (A loop: each part is compiled once.)
            for way in range(2):
                there, back = gather and way == 0, scatter and (through == (way == 0))
                if way == 1 and not through:
                    if scatter:
                        z[:] = 0
                    exchange(tables, A, B, b, scale, rank, gather, scatter, where, coordinates[g], x, z)
                for p in range(0, N if there or back else 0, part):
                    if there:
                        twos(x[p : p + part], a // parts, b)
                    for q in range(p, p + part, group):
                        k = 0
                        if there:
                            k = along(x[q : q + group], rows, b, base, groups, panels)
                        else:
                            copy(z[q : q + group], groups[0])
                        if through:
                            keep(mask[q : q + group], scale, groups[k])
                        if back:
                            along_back(groups, k, rows, b, base, x[q : q + group], panels)
                        else:
                            copy(groups[k], x[q : q + group])
                    if back:
                        twos(x[p : p + part], a // parts, b)
            if scatter:
                across(x, parts, part, panels)
                _apply_signs(words, scale, x[:n], out[g])

    return compile_loop(sketch)


def work_length(N: int, both: bool) -> int:
    """Floats of the working memory: a vector, and where its coordinates are wanted and used as well, another."""
    return (1 + both) * N


sketch = _build(_digest_here())
