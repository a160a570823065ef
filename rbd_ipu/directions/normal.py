"""A standard normal from 32 bits: the inverse distribution function without a library call.

The sign is bit 31. The other 31 bits make y in {1, 3, ..., 2^31 - 1}, and P = y / 2^32 is the probability of
the tail beyond |z|. With

    L = -log2(2 P) = 31 - log2 y        in (0, 31]

|z| is a smooth, almost square-root-like function of L, fitted by one rational function of degree 3 over 3,
weighted by the normal density; log2 y is the exponent of the float y plus a polynomial of its mantissa. No branch,
no table, no square root: it vectorises wherever floats do. The largest |z| is 6.2; the smallest is not 0.
"""

from typing import Any

from rbd_ipu._stack import tf

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
