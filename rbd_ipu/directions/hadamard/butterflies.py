"""Hadamard transforms in vector registers: the inner loops of the native transform.

A *panel* holds LANES vectors side by side: entry i of all of them is panel[i * LANES : (i + 1) * LANES]. A transform
of order m = base * 2^k (base 1, 12, 16 or 20) begins with blocks of ``base`` entries, straight-line code that reads
each number once, and goes on with butterflies on ever longer pieces, four entries at a time.

Loops are functions of their own, over arrays that cannot overlap for all LLVM knows: it vectorises no others.
"""

from typing import Any

from numba import njit

from rbd_ipu.directions.native.loops import loop

# Two AVX-512 registers, or four of AVX2; measured best of 8, 16, 32 and 64.
LANE_BITS = 5
LANES = 1 << LANE_BITS

inline = njit(inline="always")


@inline
def _butterfly4(a, b, c, d):
    e, f, g, h = a + b, a - b, c + d, c - d
    return e + g, f + h, e - g, f - h


@loop
def butterfly_sixteen(x, stride, y):
    """H_16 of entries that lie ``stride`` apart in x, into a panel y."""
    r, s = stride, LANES
    for w in range(LANES):
        a0, a1, a2, a3 = _butterfly4(x[w], x[w + r], x[w + 2 * r], x[w + 3 * r])
        b0, b1, b2, b3 = _butterfly4(x[w + 4 * r], x[w + 5 * r], x[w + 6 * r], x[w + 7 * r])
        c0, c1, c2, c3 = _butterfly4(x[w + 8 * r], x[w + 9 * r], x[w + 10 * r], x[w + 11 * r])
        d0, d1, d2, d3 = _butterfly4(x[w + 12 * r], x[w + 13 * r], x[w + 14 * r], x[w + 15 * r])
        y[w], y[w + 4 * s], y[w + 8 * s], y[w + 12 * s] = _butterfly4(a0, b0, c0, d0)
        y[w + s], y[w + 5 * s], y[w + 9 * s], y[w + 13 * s] = _butterfly4(a1, b1, c1, d1)
        y[w + 2 * s], y[w + 6 * s], y[w + 10 * s], y[w + 14 * s] = _butterfly4(a2, b2, c2, d2)
        y[w + 3 * s], y[w + 7 * s], y[w + 11 * s], y[w + 15 * s] = _butterfly4(a3, b3, c3, d3)


# Orders 12 and 20, from p = s + t and m = s - t of the two halves: [S p + m, S m - p] (see orders.py). Five entries
# at a time are tuples.


@inline
def _get5(x, p, r):
    return x[p], x[p + r], x[p + 2 * r], x[p + 3 * r], x[p + 4 * r]


@inline
def _put5(y, p, t):
    y[p], y[p + LANES], y[p + 2 * LANES], y[p + 3 * LANES], y[p + 4 * LANES] = t


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
def _reflect(t):
    """(J - 2 I) t."""
    total = (t[0] + t[1]) + (t[2] + t[3]) + t[4]
    return (
        total - (t[0] + t[0]),
        total - (t[1] + t[1]),
        total - (t[2] + t[2]),
        total - (t[3] + t[3]),
        total - (t[4] + t[4]),
    )


@inline
def _conference6(u, t):
    """S (u, t) of order 6."""
    q = _residues(t)
    return (t[0] + t[1]) + (t[2] + t[3]) + t[4], (q[0] + u, q[1] + u, q[2] + u, q[3] + u, q[4] + u)


@inline
def _conference10(s, t):
    """S (s, t) of order 10."""
    return _plus(_residues(s), _reflect(t)), _minus(_reflect(s), _residues(t))


@loop
def butterfly_twelve(x, stride, y):
    """H_12 of entries that lie ``stride`` apart in x, into a panel y."""
    r, s = stride, LANES
    for w in range(LANES):
        u, t = x[w], _get5(x, w + r, r)
        u_, t_ = x[w + 6 * r], _get5(x, w + 7 * r, r)
        pu, p, mu, m = u + u_, _plus(t, t_), u - u_, _minus(t, t_)
        hu, h = _conference6(pu, p)
        ku, k = _conference6(mu, m)
        y[w] = hu + mu
        _put5(y, w + s, _plus(h, m))
        y[w + 6 * s] = ku - pu
        _put5(y, w + 7 * s, _minus(k, p))


@loop
def butterfly_twenty(x, stride, y):
    """H_20 of entries that lie ``stride`` apart in x, into a panel y."""
    r, s = stride, LANES
    for w in range(LANES):
        s0, s1 = _get5(x, w, r), _get5(x, w + 5 * r, r)
        t0, t1 = _get5(x, w + 10 * r, r), _get5(x, w + 15 * r, r)
        p0, p1, m0, m1 = _plus(s0, t0), _plus(s1, t1), _minus(s0, t0), _minus(s1, t1)
        h0, h1 = _conference10(p0, p1)
        k0, k1 = _conference10(m0, m1)
        _put5(y, w, _plus(h0, m0))
        _put5(y, w + 5 * s, _plus(h1, m1))
        _put5(y, w + 10 * s, _minus(k0, p0))
        _put5(y, w + 15 * s, _minus(k1, p1))


@loop
def copy(x, y):
    """y <- x."""
    for w in range(x.shape[0]):
        y[w] = x[w]


@loop
def _four(x0, x1, x2, x3):
    for w in range(x0.shape[0]):
        a, b, c, d = x0[w] + x1[w], x0[w] - x1[w], x2[w] + x3[w], x2[w] - x3[w]
        x0[w], x1[w], x2[w], x3[w] = a + c, b + d, a - c, b - d


@loop
def _two(x0, x1):
    for w in range(x0.shape[0]):
        a, b = x0[w] + x1[w], x0[w] - x1[w]
        x0[w], x1[w] = a, b


@njit(error_model="numpy")
def transform(x, stride, order, base, panel):
    """panel <- H_order of the entries that lie ``stride`` apart in x; LANES of them side by side."""
    if base == 16:
        for i in range(0, order, 16):
            butterfly_sixteen(x[i * stride :], stride, panel[i * LANES :])
    elif base == 12:
        for i in range(0, order, 12):
            butterfly_twelve(x[i * stride :], stride, panel[i * LANES :])
    elif base == 20:
        for i in range(0, order, 20):
            butterfly_twenty(x[i * stride :], stride, panel[i * LANES :])
    else:
        for i in range(order):
            copy(x[i * stride : i * stride + LANES], panel[i * LANES : (i + 1) * LANES])
    q, end = base * LANES, order * LANES
    while 4 * q <= end:
        for s in range(0, end, 4 * q):
            _four(
                panel[s : s + q],
                panel[s + q : s + 2 * q],
                panel[s + 2 * q : s + 3 * q],
                panel[s + 3 * q : s + 4 * q],
            )
        q *= 4
    if q < end:
        _two(panel[:q], panel[q : 2 * q])


def first_base(order: int) -> Any:
    """The base that a transform of this order begins with."""
    twos = order & -order
    return {3: 12, 5: 20}.get(order // twos) or (16 if order >= 16 else 1)
