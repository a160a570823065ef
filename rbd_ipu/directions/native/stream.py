"""The counter stream as Numba functions: words, samples, and the inner loops that draw pieces of directions.

Words and samples are those of ``directions/stream.py`` and ``seeds.py``: there is one definition of the stream. Numba
widens 32-bit integers to 64 bits in every operation, so each result is cast back.

A loop does with its piece what is to be done, in vector registers. ``a`` and ``w`` are the offset and step of the
direction at the start of the piece. Sums are kept in the lanes of vectors, so pieces must be short; ``dense.py`` adds
up those of the pieces in float64.

Loops are functions of their own: beside another loop, or with an array that two names could mean, LLVM does not
vectorise them. (As vector code they are inlined, see ``dense.py``.) They may reorder sums and fuse multiplications
with additions, but they may not assume finite numbers: a NaN in a gradient must reach the update.
"""

from typing import Any, Tuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from rbd_ipu.directions import stream
from rbd_ipu.seeds import _PARITY, _ROTATIONS

u32, f32 = np.uint32, np.float32

FIRST, SECOND = u32(stream.FIRST & 0xFFFFFFFF), u32(stream.SECOND & 0xFFFFFFFF)
SHIFT_0, SHIFT_1, SHIFT_2 = (u32(shift) for shift in stream.SHIFTS)
A0, A1, A2, A3, A4 = (f32(a) for a in stream.LOG)
N1, N2, N3 = (f32(n) for n in stream.NUMERATOR)
D0, D1, D2, D3 = (f32(d) for d in stream.DENOMINATOR)
EXPONENT = u32(stream.EXPONENT)
SIGN, MAGNITUDE, MANTISSA = u32(0x80000000), u32(0x7FFFFFFF), u32(0x7FFFFF)
ONE_AS_BITS, MANTISSA_BITS, BIT = u32(0x3F800000), u32(23), u32(1)
HALF, GRID = f32(0.5), f32(2.0**-23)
KEY_PARITY = u32(_PARITY)


def _bitwise(result: Any, argument: Any, build: Any) -> Any:
    """A function of one number that is one LLVM instruction; Numba 0.56 has no scalar reinterpretation."""

    @intrinsic
    def operation(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, args[0])

        return result(argument), codegen

    return operation


bits_of = _bitwise(types.uint32, types.float32, lambda b, x: b.bitcast(x, ir.IntType(32)))
float_of = _bitwise(types.float32, types.uint32, lambda b, x: b.bitcast(x, ir.FloatType()))
# The value of the int32 with these bits, rounded to float32.
signed_value = _bitwise(types.float32, types.uint32, lambda b, x: b.sitofp(x, ir.FloatType()))
# An arithmetic shift: the sign is copied.
shift_8 = _bitwise(types.uint32, types.uint32, lambda b, x: b.ashr(x, ir.Constant(ir.IntType(32), 8)))


@njit(inline="always")
def hash32(x):
    """See ``directions.stream.hash32``."""
    x = u32(u32(x ^ u32(x >> SHIFT_0)) * FIRST)
    x = u32(u32(x ^ u32(x >> SHIFT_1)) * SECOND)
    return u32(x ^ u32(x >> SHIFT_2))


@njit(inline="always")
def _rotate_left(x, bits):
    return u32(u32(x << u32(bits)) | u32(x >> u32(32 - bits)))


def _four_rounds(rotations: Any) -> Any:
    r0, r1, r2, r3 = rotations

    @njit(forceinline=True)
    def rounds(x, y, key, next_key):
        x = u32(x + y)
        y = u32(_rotate_left(y, r0) ^ x)
        x = u32(x + y)
        y = u32(_rotate_left(y, r1) ^ x)
        x = u32(x + y)
        y = u32(_rotate_left(y, r2) ^ x)
        x = u32(x + y)
        y = u32(_rotate_left(y, r3) ^ x)
        return u32(x + key), u32(y + next_key)

    return rounds


_even, _odd = _four_rounds(_ROTATIONS[0]), _four_rounds(_ROTATIONS[1])


@njit(forceinline=True)
def threefry(k0, k1, first, second):
    """See ``seeds.threefry``: Threefry-2x32-20 of the counter (first, second) under the key (k0, k1)."""
    k2 = u32(u32(k0 ^ k1) ^ KEY_PARITY)
    x, y = u32(first + k0), u32(second + k1)
    x, y = _even(x, y, k1, u32(k2 + u32(1)))
    x, y = _odd(x, y, k2, u32(k0 + u32(2)))
    x, y = _even(x, y, k0, u32(k1 + u32(3)))
    x, y = _odd(x, y, k1, u32(k2 + u32(4)))
    return _even(x, y, k2, u32(k0 + u32(5)))


@njit(forceinline=True)
def fold_in(k0, k1, index):
    """See ``seeds.fold_in``, of one integer."""
    return threefry(k0, k1, u32(0), u32(index))


@njit(forceinline=True)
def schedule(a, b):
    """See ``directions.stream.schedule``."""
    b = u32(b + hash32(u32(a + FIRST)))
    a = u32(a + hash32(b))
    b = u32(b + hash32(a))
    return a, u32(b | BIT)


@njit(inline="always")
def normal(h):
    """See ``directions.stream.normal``."""
    y = signed_value(u32(u32(h & MAGNITUDE) | BIT))
    b = bits_of(y)
    e = signed_value(u32(EXPONENT - u32(b >> MANTISSA_BITS)))
    f = float_of(u32(u32(b & MANTISSA) | ONE_AS_BITS))
    L = (e - A0) - f * (((A4 * f + A3) * f + A2) * f + A1)
    z = L * ((N3 * L + N2) * L + N1) / (((D3 * L + D2) * L + D1) * L + D0)
    return float_of(u32(bits_of(z) ^ u32(h & SIGN)))


@njit(inline="always")
def uniform(h):
    """See ``directions.stream._uniform``."""
    return (signed_value(shift_8(h)) + HALF) * GRID


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
