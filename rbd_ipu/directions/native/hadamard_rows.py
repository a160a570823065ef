"""Which rows of the Hadamard matrix are directions, for all of them at once, and where their entries lie.

A set of ranks is a matrix of bits [A, B], one for each rank. Backwards, a round of the permutation in ``hadamard.py``
takes (i, j) to (i - F(j), j) or (i, j - F(i)): it rotates the columns or the rows of this matrix. A row is a string
of bits, and so is a column once the matrix is transposed; a rotation is two shifts for 64 entries. After six
transpositions and rotations the ranks have become rows.

Entry (i, j) of H_a X H_b lies where ``hadamard_transform.py`` leaves it. A basis has the ranks f, f + 1, ... f + d -
1 modulo N, where f is 0 for a worker on its own.
"""

import numpy as np
from numba import njit

from rbd_ipu.directions.hadamard import ROUNDS
from rbd_ipu.directions.native.loops import inlined, loop
from rbd_ipu.directions.native.stream import fold_in, hash32, schedule, u32

WORD = 64

u64 = np.uint64


@inlined
def worth(A, B, d):
    """Whether rows and columns are whole words, and a walk along the d ranks, or the others, would take longer."""
    return A % WORD == 0 and B % WORD == 0 and 8 * min(d, A * B - d) > A * B


@inlined
def _transpose_block(block):
    """64 words as a matrix of bits, transposed: halves are swapped, then halves of halves (Warren 2012, 7-3)."""
    width, mask = 32, u64(0x00000000FFFFFFFF)
    while width:
        shift = u64(width)
        for start in range(0, WORD, 2 * width):
            for k in range(start, start + width):
                swap = ((block[k] >> shift) ^ block[k + width]) & mask
                block[k] ^= swap << shift
                block[k + width] ^= swap
        width //= 2
        mask ^= mask << u64(width)


@inlined
def _transpose(bits, strings, words, block, out):
    """out [64 words, strings / 64] <- the bits of ``bits`` [strings, words], transposed; bit 0 is the first."""
    across = strings // WORD
    for p in range(across):
        for q in range(words):
            for k in range(WORD):
                block[k] = bits[(p * WORD + k) * words + q]
            _transpose_block(block)
            for k in range(WORD):
                out[(q * WORD + k) * across + p] = block[k]


@inlined
def _rotate(bits, strings, words, shifts, string):
    """Every string rotated: its bit x becomes what was bit x + modulus - shift."""
    for s in range(strings):
        here = bits[s * words : (s + 1) * words]
        by = words * WORD - np.int64(shifts[s])
        whole, part = by // WORD, u64(by % WORD)
        for w in range(words):
            low = w + whole
            low = low - words if low >= words else low
            high = low + 1 if low + 1 < words else 0
            string[w] = (here[low] >> part) | ((here[high] << u64(1)) << (u64(WORD - 1) - part))
        for w in range(words):
            here[w] = string[w]


@inlined
def _fill(bits, start, stop):
    """Bits start ... stop - 1 <- 1."""
    while start < stop and start % WORD:
        bits[start // WORD] |= u64(1) << u64(start % WORD)
        start += 1
    while start + WORD <= stop:
        bits[start // WORD] = ~u64(0)
        start += WORD
    while start < stop:
        bits[start // WORD] |= u64(1) << u64(start % WORD)
        start += 1


@inlined
def chosen_bits(tables, A, B, first, d):
    """Bits of the rows [A, B]: 1 for the d ranks from ``first`` on, modulo A B; see ``places.round_tables``."""
    bits, other = np.zeros(A * B // WORD, np.uint64), np.empty(A * B // WORD, np.uint64)
    block, string = np.empty(WORD, np.uint64), np.empty(max(A, B) // WORD, np.uint64)
    _fill(bits, first, min(first + d, A * B))
    _fill(bits, 0, first + d - A * B)
    for k in range(ROUNDS - 2, -1, -2):
        _transpose(bits, A, B // WORD, block, other)
        _rotate(other, B, A // WORD, tables[k + 1], string)
        _transpose(other, B, A // WORD, block, bits)
        _rotate(bits, A, B // WORD, tables[k], string)
    return bits


@inlined
def _bytes_of(bits, out):
    """A byte for each bit."""
    for w in range(bits.shape[0]):
        for k in range(WORD):
            out[w * WORD + k] = np.uint8((bits[w] >> u64(k)) & u64(1))


@inlined
def place_bits(bits, group, twos, mask):
    """mask <- the bits as bytes, in the order in which ``transform.along`` leaves a group of rows."""
    found, m = np.empty(group, np.uint8), group // twos
    for start in range(0, mask.shape[0], group):
        _bytes_of(bits[start // WORD : (start + group) // WORD], found)
        for v in range(twos):
            for i in range(m):
                mask[start + v * m + i] = found[i * twos + v]


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


def place_tables(a: int, b: int, base: int, rows: int) -> np.ndarray:
    """uint64 [2, max(a, b)]: entry (i, j) lies at [0, i] + [1, j], as groups are [twos of b, rows, base of b]."""
    tables = np.zeros((2, max(a, b)), np.uint64)
    i, j, twos = np.arange(a), np.arange(b), b // base
    tables[0, :a] = i // rows * (rows * b) + i % rows * base
    tables[1, :b] = j % twos * (rows * base) + j // twos
    return tables


@loop
def _places(t0, t1, t2, t3, t4, t5, A, B, i, outer, inner, places):
    """Rows of the B ranks from i B on, and where they lie.

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
        places[j] = outer[row_i] + inner[row_j]


@njit(error_model="numpy")
def _to_grid(b, outer, inner, places):
    """Numbers of rows -> places, for the smallest orders, whose permutation has a grid of its own."""
    for j in range(places.shape[0]):
        row = np.int64(places[j])
        places[j] = outer[row // b] + inner[row % b]


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
def _row(tables, A, B, b, i, where, places):
    """Where the B ranks from i B on lie; i counts on after the last of the A rows."""
    t, i = tables, u64(i % A)
    if b == B:
        _places(t[0], t[1], t[2], t[3], t[4], t[5], u64(A), u64(B), i, where[0], where[1], places)
    else:
        rows, columns = np.arange(A).astype(np.uint64) * u64(B), np.arange(B).astype(np.uint64)
        _places(t[0], t[1], t[2], t[3], t[4], t[5], u64(A), u64(B), i, rows, columns, places)
        _to_grid(b, where[0], where[1], places)


@njit(error_model="numpy")
def chosen(tables, A, B, b, first, d, where, mask):
    """mask <- 1 at the places of the d ranks from first on, 0 at all others; walks along the fewer of the two."""
    few = 2 * d <= A * B
    mask[:] = 0 if few else 1
    first, stop = (first, first + d) if few else (first + d, first + A * B)
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, where, places)
        _mark(places[max(first - i * B, 0) : min(stop - i * B, B)], 1 if few else 0, mask)


@njit(error_model="numpy")
def exchange(tables, A, B, b, scale, first, gather, scatter, where, c, y, z):
    """Coordinates from their places in y (gather), coordinates to their places in z (scatter)."""
    stop = first + c.shape[0]
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, where, places)
        low, high = max(first, i * B), min(stop, (i + 1) * B)
        here, part = places[low - i * B : high - i * B], c[low - first : high - first]
        if gather:
            _take(here, scale, y, part)
        if scatter:
            _put(here, part, z)
