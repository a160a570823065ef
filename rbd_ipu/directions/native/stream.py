"""The counter stream of ``hashing.py`` and ``normal.py`` as Numba functions: one word, one sample at a time.

Numba widens 32-bit integers to 64 bits in every operation, so each result is cast back. The constants are those
of the TensorFlow code: there is one definition of the stream.
"""

from typing import Any

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
    """See ``hashing.hash32``."""
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
    """See ``hashing.schedule``."""
    b = u32(b + hash32(u32(a + FIRST)))
    a = u32(a + hash32(b))
    b = u32(b + hash32(a))
    return a, u32(b | BIT)


@njit(inline="always")
def normal(h):
    """See ``normal.normal``."""
    y = signed_value(u32(u32(h & MAGNITUDE) | BIT))
    b = bits_of(y)
    e = signed_value(u32(EXPONENT - u32(b >> MANTISSA_BITS)))
    f = float_of(u32(u32(b & MANTISSA) | ONE_AS_BITS))
    L = (e - A0) - f * (((A4 * f + A3) * f + A2) * f + A1)
    z = L * ((N3 * L + N2) * L + N1) / (((D3 * L + D2) * L + D1) * L + D0)
    return float_of(u32(bits_of(z) ^ u32(h & SIGN)))


@njit(inline="always")
def uniform(h):
    """See ``distributions._uniform``."""
    return (signed_value(shift_8(h)) + HALF) * GRID
