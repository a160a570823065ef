"""Hadamard transforms in vector registers: the inner loops of the native transform.

A factor of order 12 or 20 is straight-line code over LANES or ROW_LANES vectors side by side, which reads each number
once. Factors 4 and 2 come in two forms:

    across   entries far apart, in place
    digits   neighbours: [m, 4] -> [4, m]. The lowest digit of the index becomes the highest, so that after a few of
             them what was next to each other lies far apart, as vector registers like it, and nothing was
             transposed (Pease 1968, "An adaptation of the fast Fourier transform for parallel processing").

Loops are functions of their own, over arrays that cannot overlap for all LLVM knows: it vectorises no others. They
add in the order in which they are written, so that a compiled and a cached kernel agree in all bits.
"""

from typing import Any

from numba import njit

from rbd_ipu.directions.native.loops import inlined

# Entries side by side in a factor 12 or 20: across a vector, where longer pieces cost fewer calls (measured best of
# 16, 64, 128 and 256), and along the rows of a matrix, as the paper's networks have them.
LANES, ROW_LANES = 128, 16

inline = njit(inline="always")


@inlined
def copy(x, y):
    """y <- x."""
    for w in range(x.shape[0]):
        y[w] = x[w]


@inline
def _butterfly4(a, b, c, d):
    e, f, g, h = a + b, a - b, c + d, c - d
    return e + g, f + h, e - g, f - h


@inlined
def four_across(x0, x1, x2, x3):
    """H_4, in place, of four entries for each place."""
    for w in range(x0.shape[0]):
        x0[w], x1[w], x2[w], x3[w] = _butterfly4(x0[w], x1[w], x2[w], x3[w])


@inlined
def two_across(x0, x1):
    """H_2, in place, of two entries for each place."""
    for w in range(x0.shape[0]):
        x0[w], x1[w] = x0[w] + x1[w], x0[w] - x1[w]


@inlined
def four_digits(x, y0, y1, y2, y3):
    """y <- H_4 of four neighbours in x."""
    for i in range(y0.shape[0]):
        y0[i], y1[i], y2[i], y3[i] = _butterfly4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3])


@inlined
def two_digits(x, y0, y1):
    """y <- H_2 of two neighbours in x."""
    for i in range(y0.shape[0]):
        y0[i], y1[i] = x[2 * i] + x[2 * i + 1], x[2 * i] - x[2 * i + 1]


@inlined
def four_digits_back(y0, y1, y2, y3, x):
    """Four neighbours in x <- H_4 y."""
    for i in range(y0.shape[0]):
        x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3] = _butterfly4(y0[i], y1[i], y2[i], y3[i])


@inlined
def two_digits_back(y0, y1, x):
    """Two neighbours in x <- H_2 y."""
    for i in range(y0.shape[0]):
        x[2 * i], x[2 * i + 1] = y0[i] + y1[i], y0[i] - y1[i]


# Orders 12 and 20, from p = s + t and m = s - t of the two halves: [S p + m, S m - p] (see orders.py). Five entries
# at a time are tuples.


@inline
def _get5(x, p, r):
    return x[p], x[p + r], x[p + 2 * r], x[p + 3 * r], x[p + 4 * r]


@inline
def _put5(y, p, r, t):
    y[p], y[p + r], y[p + 2 * r], y[p + 3 * r], y[p + 4 * r] = t


@inline
def _plus(s, t):
    return s[0] + t[0], s[1] + t[1], s[2] + t[2], s[3] + t[3], s[4] + t[4]


@inline
def _minus(s, t):
    return s[0] - t[0], s[1] - t[1], s[2] - t[2], s[3] - t[3], s[4] - t[4]


@inline
def _residues(t):
    """Q t."""
    a, b, c, d, e = t
    return (b + e) - (c + d), (c + a) - (d + e), (d + b) - (e + a), (e + c) - (a + b), (a + d) - (b + c)


@inline
def _conference6(u, t):
    """S (u, t) of order 6."""
    q = _residues(t)
    return (t[0] + t[1]) + (t[2] + t[3]) + t[4], (q[0] + u, q[1] + u, q[2] + u, q[3] + u, q[4] + u)


@inline
def _conference10(s, t):
    """S (s, t) of order 10: (Q s + (J - 2 I) t, (J - 2 I) s - Q t).

    Written out: of helpers in helpers the Numba of Python 3.8 takes three times as long to compile.
    """
    a, b, c, d, e = s
    f, g, h, i, j = t
    u, v = (a + b) + (c + d) + e, (f + g) + (h + i) + j
    return (
        ((b + e) - (c + d)) + (v - (f + f)),
        ((c + a) - (d + e)) + (v - (g + g)),
        ((d + b) - (e + a)) + (v - (h + h)),
        ((e + c) - (a + b)) + (v - (i + i)),
        ((a + d) - (b + c)) + (v - (j + j)),
    ), (
        (u - (a + a)) - ((g + j) - (h + i)),
        (u - (b + b)) - ((h + f) - (i + j)),
        (u - (c + c)) - ((i + g) - (j + f)),
        (u - (d + d)) - ((j + h) - (f + g)),
        (u - (e + e)) - ((f + i) - (g + h)),
    )


def _factor(lanes: int) -> Any:
    """y <- H_base x for x and y [base, lanes], with a base of 12 or 20, as a function (base, x, y)."""
    r = lanes

    @inlined
    def twelve(x, y):
        for w in range(r):
            u, s = x[w], _get5(x, w + r, r)
            v, t = x[w + 6 * r], _get5(x, w + 7 * r, r)
            pu, p, mu, m = u + v, _plus(s, t), u - v, _minus(s, t)
            hu, h = _conference6(pu, p)
            ku, k = _conference6(mu, m)
            y[w] = hu + mu
            _put5(y, w + r, r, _plus(h, m))
            y[w + 6 * r] = ku - pu
            _put5(y, w + 7 * r, r, _minus(k, p))

    @inlined
    def twenty(x, y):
        for w in range(r):
            s0, s1 = _get5(x, w, r), _get5(x, w + 5 * r, r)
            t0, t1 = _get5(x, w + 10 * r, r), _get5(x, w + 15 * r, r)
            p0, p1, m0, m1 = _plus(s0, t0), _plus(s1, t1), _minus(s0, t0), _minus(s1, t1)
            h0, h1 = _conference10(p0, p1)
            k0, k1 = _conference10(m0, m1)
            _put5(y, w, r, _plus(h0, m0))
            _put5(y, w + 5 * r, r, _plus(h1, m1))
            _put5(y, w + 10 * r, r, _minus(k0, p0))
            _put5(y, w + 15 * r, r, _minus(k1, p1))

    @inlined
    def factor(base, x, y):
        if base == 12:
            twelve(x, y)
        else:
            twenty(x, y)

    return factor


factor, row_factor = _factor(LANES), _factor(ROW_LANES)
