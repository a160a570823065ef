"""The inner loops: each draws a piece of a direction and does what is to be done with it, in vector registers.

``a`` and ``w`` are the offset and step of the direction at the start of the piece. Sums are kept in the lanes of
vectors, so pieces must be short; ``kernels.py`` adds up those of the pieces in float64.

Loops are functions of their own: beside another loop, or with an array that two names could mean, LLVM does not
vectorise them. (As vector code they are inlined, see ``kernels.py``.) They may reorder sums and fuse multiplications
with additions, but they may not assume finite numbers: a NaN in a gradient must reach the update.
"""

from typing import Any, Tuple

from numba import njit

from rbd_ipu.directions.native.stream import ONE_AS_BITS, SIGN, bits_of, f32, float_of, hash32, normal, u32, uniform

loop = njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", forceinline=True)
# What must compute as it is written, or calls other loops.
inlined = njit(error_model="numpy", forceinline=True)


def _elementwise(sample: Any) -> Tuple[Any, Any]:
    """(fill, dot) of a distribution with one word an entry, ``sample(word)``."""

    @loop
    def fill(a, w, z):
        """z <- the entries; returns |z|^2."""
        q = f32(0)
        for j in range(z.shape[0]):
            x = sample(hash32(u32(a + u32(u32(j) * w))))
            z[j] = x
            q += x * x
        return q

    @loop
    def dot(a, w, v, z):
        """z <- the entries; returns <v, z>, |z|^2."""
        s = f32(0)
        q = f32(0)
        for j in range(z.shape[0]):
            x = sample(hash32(u32(a + u32(u32(j) * w))))
            z[j] = x
            s += x * v[j]
            q += x * x
        return s, q

    return fill, dot


normal_fill, normal_dot = _elementwise(normal)
uniform_fill, uniform_dot = _elementwise(uniform)


@loop
def add(r, z, out):
    """out += r z."""
    for j in range(out.shape[0]):
        out[j] += r * z[j]


# Two-valued distributions: an entry is +1 or -1, plus ``mean``. A plane of entries shares a shift, which brings
# the bit of each word to the place of a float's sign.


@njit(inline="always")
def _entry(word, shift, mean):
    return float_of(u32(u32(u32(word << shift) & SIGN) | ONE_AS_BITS)) + mean


@njit(inline="always")
def signed(x, word, shift):
    """x with the sign that a word has for its plane."""
    return float_of(u32(bits_of(x) ^ u32(u32(word << shift) & SIGN)))


@loop
def fill_words(a, w, words):
    """words <- the hashed words: 32 entries in each."""
    for k in range(words.shape[0]):
        words[k] = hash32(u32(a + u32(u32(k) * w)))


@loop
def plane_norm(words, shift, mean, count):
    """|z|^2 of the first ``count`` entries of a plane."""
    q = f32(0)
    for j in range(count):
        x = _entry(words[j], shift, mean)
        q += x * x
    return q


@loop
def plane_dot(words, shift, mean, v):
    """<v, z>, |z|^2 of a plane."""
    s = f32(0)
    q = f32(0)
    for j in range(v.shape[0]):
        x = _entry(words[j], shift, mean)
        s += x * v[j]
        q += x * x
    return s, q


@loop
def plane_add(r, words, shift, mean, out):
    """out += r z for a plane."""
    for j in range(out.shape[0]):
        out[j] += r * _entry(words[j], shift, mean)
