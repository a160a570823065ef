"""H_a (x) H_b of a matrix X [a, b], row after row in memory, and back; a little at a time, in the cache.

Every order is a base (12, 20 or 1) times a power of two, H_order = H_base (x) H_2 (x) H_2 ... Then

    X as [parts, a / parts, b]         the base of a (of a power of two, up to 16), across all of X
    a part, as [a / parts, b]          the other twos of a, in place
    a group of a few rows of a part    the base of b, then its twos digit by digit, which leaves the group as
                                       [twos of b, rows, base of b]

Only the first of them goes through all of X. The way back starts from there; ``places.py`` knows where a row of H is
found.
"""

from typing import Tuple

from rbd_ipu.directions.hadamard.butterflies import (
    LANES,
    ROW_LANES,
    copy,
    factor,
    four_across,
    four_digits,
    four_digits_back,
    row_factor,
    two_across,
    two_digits,
    two_digits_back,
)
from rbd_ipu.directions.hadamard.orders import BASES, base_of
from rbd_ipu.directions.native.loops import inlined

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
