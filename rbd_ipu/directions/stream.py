"""The random numbers behind all directions: 32 bits from a key and an index, and what is made of them.

The counter stream: 32 random bits for every place of every direction, from integer arithmetic alone.

A direction has a key (two words). A Feistel network turns it into an offset a and an odd step w, and word k of
the direction is

    hash32(a + k * w)        mod 2^32

the k-th place of a Weyl sequence (which visits every 32-bit number once, in an order of its own for each w),
finalised by two multiplications between xor-shifts. Multiplication, addition and shifts of int32 wrap around
alike on every device, so the bits are the same in eager mode, in a graph, under XLA, in NumPy and in Numba.

A standard normal from 32 bits: the inverse distribution function without a library call.

The sign is bit 31. The other 31 bits make y in {1, 3, ..., 2^31 - 1}, and P = y / 2^32 is the probability of
the tail beyond |z|. With

    L = -log2(2 P) = 31 - log2 y        in (0, 31]

|z| is a smooth, almost square-root-like function of L, fitted by one rational function of degree 3 over 3,
weighted by the normal density; log2 y is the exponent of the float y plus a polynomial of its mantissa. No branch,
no table, no square root: it vectorises wherever floats do. The largest |z| is 6.2; the smallest is not 0.

Distributions: how the bits of the counter stream become the entries of a direction.

All rows give the same numbers in eager mode, in a graph and under XLA, on every stack: bit for bit, but for the
normal, whose last bits depend on whether a compiler fuses multiplication and addition.
"""

from typing import Any, Callable, NamedTuple

from rbd_ipu._compat import tf
from rbd_ipu.checks import Registry


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


SIGN = -(2**31)
# 158 - 127 = 31: the bias of a float's exponent, and the 31 bits of y.
EXPONENT = 158
# log2 of the mantissa f in [1, 2), to 1.2e-4, continuous from one octave to the next.
LOG = (
    -2.5198294222734443,
    4.086383484933955,
    -2.134135158285278,
    0.6497118055562041,
    -0.08213070993143667,
)
# |z| = L (n0 + n1 L + n2 L^2) / (1 + d1 L + d2 L^2 + d3 L^3)
NUMERATOR = (0.8678538799285889, 0.3837200105190277, 0.017409203574061394)
DENOMINATOR = (1.0, 0.7823704481124878, 0.09805355221033096, 0.0009232325828634202)


def normal(bits: Any) -> Any:
    """int32 [...] -> float32 [...], standard normal."""
    both, either = tf.bitwise.bitwise_and, tf.bitwise.bitwise_or
    y = tf.cast(either(both(bits, 0x7FFFFFFF), 1), tf.float32)
    raw = tf.bitcast(y, tf.int32)
    exponent = tf.cast(EXPONENT - tf.bitwise.right_shift(raw, 23), tf.float32)
    f = tf.bitcast(either(both(raw, 0x7FFFFF), 0x3F800000), tf.float32)
    a0, a1, a2, a3, a4 = LOG
    L = (exponent - a0) - f * (((a4 * f + a3) * f + a2) * f + a1)
    n0, n1, n2 = NUMERATOR
    d0, d1, d2, d3 = DENOMINATOR
    z = L * ((n2 * L + n1) * L + n0) / (((d3 * L + d2) * L + d1) * L + d0)
    return tf.bitcast(tf.bitwise.bitwise_xor(tf.bitcast(z, tf.int32), both(bits, SIGN)), tf.float32)


DISTRIBUTIONS = Registry("distribution")
Words = Callable[[Any, Any], Any]

# Sample j of a two-valued distribution is bit (j // PLANE) % 32 of word (j // (32 PLANE)) * PLANE + j % PLANE:
# planes of this many samples share a shift, so that whole vectors of words are shifted alike.
PLANE = 1024


class Distribution(NamedTuple):
    """One row.

    Attributes:
      name: as users write it.
      second_moment: E[x^2] of an entry x; the expected squared norm of a direction in R^n is n times this.
      draw: ((offset, step) int32 [..., 2], n, start=0, words=word_at) -> entries start ... start + n - 1 of each
        direction, float32 [..., n], of the words that a function like :func:`word_at` gives.
      about: one line for the documentation.
    """

    name: str
    second_moment: float
    draw: Callable[..., Any]
    about: str


def _add(name: str, second_moment: float, about: str) -> Callable[[Callable], Callable]:
    def register(draw: Callable) -> Callable:
        DISTRIBUTIONS.register(name)(Distribution(name, second_moment, draw, about))
        return draw

    return register


@_add("normal", 1.0, "standard normal, by its inverse distribution function: the paper's choice")
def _normal(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    return normal(words(pairs, start + tf.range(size)))


@_add("uniform", 1.0 / 3.0, "uniform on the 2^24 midpoints of (-1, 1), none of which is 0")
def _uniform(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    bits = words(pairs, start + tf.range(size))
    return (tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) + 0.5) * 2.0**-23


@_add("rademacher", 1.0, "+1 or -1 with equal probability; 32 entries a word")
def _rademacher(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    # Elementwise, so that XLA fuses it; hashing each word 32 times is quicker there than storing it once.
    j = start + tf.range(size)
    tile, plane = tf.bitwise.right_shift(j, 15), tf.bitwise.bitwise_and(tf.bitwise.right_shift(j, 10), 31)
    word = tile * PLANE + tf.bitwise.bitwise_and(j, PLANE - 1)
    shifted = tf.bitwise.left_shift(words(pairs, word), 31 - plane)
    # The bit becomes the sign of the float 1.0.
    bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(shifted, SIGN), 0x3F800000)
    return tf.bitcast(bits, tf.float32)


@_add(
    "bernoulli-0.5",
    1.25,
    "+0.5 or -1.5 with equal probability, as first published: its mean is -0.5 and not 0, so two of its "
    "directions have cosine 0.2; for Table 2 only",
)
def _bernoulli(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    return _rademacher(pairs, size, start, words) - 0.5
