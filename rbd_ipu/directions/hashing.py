"""The counter stream: 32 random bits for every place of every direction, from integer arithmetic alone.

A direction has a key (two words). A Feistel network turns it into an offset a and an odd step w, and word k of
the direction is

    hash32(a + k * w)        mod 2^32

the k-th place of a Weyl sequence (which visits every 32-bit number once, in an order of its own for each w),
finalised by two multiplications between xor-shifts. Multiplication, addition and shifts of int32 wrap around
alike on every device, so the bits are the same in eager mode, in a graph, under XLA, in NumPy and in Numba.
"""

from typing import Any

from rbd_ipu._stack import tf


def signed(word: int) -> int:
    """The int32 with the same 32 bits: an IPU has no unsigned integers."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


# Multipliers of the finaliser: Ettinger's, found by search for the least bias over all inputs and outputs.
FIRST, SECOND = signed(0x21F0AAAD), signed(0xD35A2D97)
SHIFTS = (16, 15, 15)


def shift_right(x: Any, bits: int) -> Any:
    """Logical right shift: the arithmetic one copies the sign, the mask takes the copies away."""
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(x, bits), (1 << (32 - bits)) - 1)


def hash32(x: Any) -> Any:
    """A bijection of the 32-bit integers in which every input bit flips half of the output bits."""
    x = tf.bitwise.bitwise_xor(x, shift_right(x, SHIFTS[0])) * FIRST
    x = tf.bitwise.bitwise_xor(x, shift_right(x, SHIFTS[1])) * SECOND
    return tf.bitwise.bitwise_xor(x, shift_right(x, SHIFTS[2]))


def schedule(keys: Any) -> Any:
    """(offset, odd step) of each key: int32 [..., 2] -> [..., 2]; keys one bit apart give unrelated pairs."""
    a, b = keys[..., 0], keys[..., 1]
    b = b + hash32(a + FIRST)
    a = a + hash32(b)
    b = b + hash32(a)
    return tf.stack([a, tf.bitwise.bitwise_or(b, 1)], axis=-1)


def word_at(pairs: Any, k: Any) -> Any:
    """Words k of each direction: (offset, step) int32 [..., 2], k int32 [m] -> int32 [..., m]."""
    return hash32(pairs[..., 0:1] + k * pairs[..., 1:2])
