"""All rows of a basis at once, as bits: what the permutation does to a set of ranks, whatever its size.

Undone, a round of ``permutation.py`` takes (i, j) to (i - F(j), j) or (i, j - F(i)): it rotates the columns or the
rows of the grid. Of a set of ranks, a bit for each in a matrix [A, B], a row is a string of bits, and so is a column
once the matrix is transposed; a rotation is two shifts for 64 entries. Six times transposed and rotated, the ranks
have become rows.
"""

import numpy as np

from rbd_ipu.directions.hadamard.permutation import ROUNDS
from rbd_ipu.directions.native.loops import inlined

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
