"""Hadamard transforms in vector registers: the inner loops of the native transform.

A factor of order 12 or 20 is straight-line code over LANES or ROW_LANES vectors side by side, which reads each number
once. Factors 4 and 2 come in two forms:

    across   entries far apart, in place
    digits   neighbours: [m, 4] -> [4, m]. The lowest digit of the index becomes the highest, so that after a few of
             them what was next to each other lies far apart, as vector registers like it, and nothing was
             transposed (Pease 1968, "An adaptation of the fast Fourier transform for parallel processing").

Loops are functions of their own, over arrays that cannot overlap for all LLVM knows: it vectorises no others. They
add in the order in which they are written, so that a compiled and a cached kernel agree in all bits.

H_a (x) H_b of a matrix X [a, b], row after row in memory, and back; a little at a time, in the cache.

Every order is a base (12, 20 or 1) times a power of two, H_order = H_base (x) H_2 (x) H_2 ... Then

    X as [parts, a / parts, b]         the base of a (of a power of two, up to 16), across all of X
    a part, as [a / parts, b]          the other twos of a, in place
    a group of a few rows of a part    the base of b, then its twos digit by digit, which leaves the group as
                                       [twos of b, rows, base of b]

Only the first of them goes through all of X. The way back starts from there; ``hadamard.py`` knows where a row
of H is found.
"""

from typing import Any, Tuple

from numba import njit

from rbd_ipu.directions.hadamard import BASES, base_of
from rbd_ipu.directions.native.stream import inlined

# Entries side by side in a factor 12 or 20: across a vector, where longer pieces cost fewer calls (measured best of
# 16, 64, 128 and 256), and along the rows of a matrix, as the paper's networks have them.
LANES, ROW_LANES = 128, 16

inline = njit(forceinline=True)


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


# Floats of a group of rows: it and two buffers of its size are to fit the first-level cache.
GROUP = 3072
# Floats of a panel, where pieces of the columns lie side by side.
PANEL = max(BASES) * LANES


def tile(a: int, b: int) -> Tuple[int, int, int]:
    """(parts of X, base of b, rows of a group).

    Example:
      >>> tile(384, 320), tile(512, 256)
      ((12, 20, 8), (16, 1, 8))
    """
    parts = base_of(a) if base_of(a) > 1 else min(a, 16)
    rows = a // parts
    while rows > 1 and rows * b > GROUP:
        rows //= 2
    return parts, base_of(b), rows


@inlined
def twos(x, order, lanes):
    """x <- (H_2 (x) H_2 ...) x, for x [order, lanes]."""
    length = order * lanes
    while order >= 4:
        q = order // 4 * lanes
        for s in range(0, length, 4 * q):
            four_across(x[s : s + q], x[s + q : s + 2 * q], x[s + 2 * q : s + 3 * q], x[s + 3 * q : s + 4 * q])
        order //= 4
    if order == 2:
        for s in range(0, length, 2 * lanes):
            two_across(x[s : s + lanes], x[s + lanes : s + 2 * lanes])


@inlined
def _pieces(x, length, base, lanes, y, panels):
    """y <- H_base x for x and y [base, length], which may be the same memory: a few lanes at a time, side by side."""
    for w in range(0, length, lanes):
        count = min(lanes, length - w)
        for u in range(base):
            copy(x[u * length + w : u * length + w + count], panels[0, u * lanes : u * lanes + count])
        if lanes == LANES:
            factor(base, panels[0], panels[1])
        else:
            row_factor(base, panels[0], panels[1])
        for u in range(base):
            copy(panels[1, u * lanes : u * lanes + count], y[u * length + w : u * length + w + count])


@inlined
def across(x, parts, length, panels):
    """x <- H_parts x, for x [parts, length]."""
    if parts & (parts - 1) == 0:
        twos(x, parts, length)
    else:
        _pieces(x, length, parts, LANES if length > 3 * ROW_LANES else ROW_LANES, x, panels)


@inlined
def _lay(x, rows, b, r, panel, back):
    """panel[u, i r + w] <- x[i, u, w], for r lanes w; or the other way, back."""
    for i in range(rows):
        for u in range(b // r):
            for w in range(r):
                here, there = i * b + u * r + w, u * ROW_LANES + i * r + w
                if back:
                    x[here] = panel[there]
                else:
                    panel[there] = x[here]


@inlined
def _few_lanes(x, rows, b, r, base, y, panels):
    """Several rows side by side, where a row alone has fewer than ROW_LANES lanes."""
    most = ROW_LANES // r
    for i in range(0, rows, most):
        count = min(most, rows - i)
        _lay(x[i * b :], count, b, r, panels[0], False)
        row_factor(base, panels[0], panels[1])
        _lay(y[i * b :], count, b, r, panels[1], True)


@inlined
def _row_bases(x, rows, b, base, y, panels):
    """y <- H_base of every row of x, as [base, b / base]."""
    r = b // base
    if r < ROW_LANES:
        _few_lanes(x, rows, b, r, base, y, panels)
        return
    for i in range(0, rows * b, b):
        if r == ROW_LANES:
            row_factor(base, x[i : i + b], y[i : i + b])
        else:
            _pieces(x[i : i + b], r, base, ROW_LANES, y[i : i + b], panels)


@inlined
def along(x, rows, b, base, groups, panels):
    """X H_b for a group x [rows, b], into groups[k] [b / base, rows, base]; returns k."""
    length, k, left = rows * b, 0, b // base
    if base > 1:
        _row_bases(x, rows, b, base, groups[0], panels)
    else:
        copy(x, groups[0])
    while left > 1:
        y, z, q = groups[k], groups[1 - k], length // min(left, 4)
        if left >= 4:
            four_digits(y, z[:q], z[q : 2 * q], z[2 * q : 3 * q], z[3 * q :])
        else:
            two_digits(y, z[:q], z[q:])
        left //= 4
        k = 1 - k
    return k


@inlined
def along_back(groups, k, rows, b, base, x, panels):
    """What ``along`` does, undone in reverse and but for a factor b: from groups[k], which is lost, to x."""
    length, twos = rows * b, b // base
    # The digits of ``along`` were four, four, ... and, where an odd number of twos makes it so, two at the end.
    odd = twos
    while odd >= 4:
        odd //= 4
    while twos > 1:
        y, z, q = groups[k], groups[1 - k], length // (odd if odd > 1 else 4)
        if odd > 1:
            two_digits_back(y[:q], y[q:], z)
            twos //= 2
        else:
            four_digits_back(y[:q], y[q : 2 * q], y[2 * q : 3 * q], y[3 * q :], z)
            twos //= 4
        odd = 1
        k = 1 - k
    if base > 1:
        _row_bases(groups[k], rows, b, base, x, panels)
    else:
        copy(groups[k], x)
