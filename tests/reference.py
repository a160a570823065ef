"""Independent references in NumPy, written from the definitions and sharing no code with the package.

Integers are uint64 reduced modulo 2^32; floats are float64 wherever the definition does not say float32.
"""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
PLANE = 1024


def _u(value):
    return np.asarray(value, np.int64).astype(np.uint64) & MASK


def threefry(key, counter):
    """Threefry-2x32-20, from Salmon et al. 2011."""
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    ks = [_u(key[0]), _u(key[1])]
    ks.append(ks[0] ^ ks[1] ^ np.uint64(0x1BD11BDA))
    x, y = (_u(counter[0]) + ks[0]) & MASK, (_u(counter[1]) + ks[1]) & MASK
    for r in range(20):
        x = (x + y) & MASK
        n = np.uint64(rotations[r % 8])
        y = ((y << n) | (y >> (np.uint64(32) - n))) & MASK
        y ^= x
        if r % 4 == 3:
            s = r // 4 + 1
            x = (x + ks[s % 3]) & MASK
            y = (y + ks[(s + 1) % 3] + np.uint64(s)) & MASK
    return x, y


def hash32(x):
    x = _u(x)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x21F0AAAD)) & MASK
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0xD35A2D97)) & MASK
    return x ^ (x >> np.uint64(15))


def schedule(k0, k1):
    a, b = _u(k0), _u(k1)
    b = (b + hash32(a + np.uint64(0x21F0AAAD))) & MASK
    a = (a + hash32(b)) & MASK
    b = (b + hash32(a)) & MASK
    return a, b | np.uint64(1)


def normal_quantile(bits):
    """float64 z for 32 bits: the upper tail beyond |z| has probability y / 2^32, up to the fit's error."""
    sign = np.where(bits >> np.uint64(31), -1.0, 1.0)
    y = np.float32((bits & np.uint64(0x7FFFFFFF)) | np.uint64(1)).astype(np.float64)
    mantissa, exponent = np.frexp(y)
    f, e = 2 * mantissa, exponent - 1
    a = [-2.5198294222734443, 4.086383484933955, -2.134135158285278, 0.6497118055562041, -0.08213070993143667]
    level = (31 - e) - a[0] - f * (a[1] + f * (a[2] + f * (a[3] + f * a[4])))
    n = level * (0.8678538799285889 + level * (0.3837200105190277 + level * 0.017409203574061394))
    d = 1 + level * (0.7823704481124878 + level * (0.09805355221033096 + level * 0.0009232325828634202))
    return sign * n / d


def entries(distribution, seed, index, size):
    """Raw entries of one direction, float64 [size], from the key (k0, k1) = threefry(seed, (0, index))."""
    a, w = schedule(*threefry(seed, (0, index)))
    j = np.arange(size, dtype=np.uint64)
    if distribution in ("normal", "uniform"):
        bits = hash32((a + j * w) & MASK)
        if distribution == "normal":
            return normal_quantile(bits)
        high = (bits.astype(np.int64) - ((bits >> np.uint64(31)).astype(np.int64) << 32)) >> 8
        return (high + 0.5) / 2**23
    word = (j // (32 * PLANE)) * PLANE + j % PLANE
    bit = (hash32((a + word * w) & MASK) >> ((j // PLANE) % 32)) & np.uint64(1)
    values = {"rademacher": (1.0, -1.0), "bernoulli-0.5": (0.5, -1.5)}[distribution]
    return np.where(bit, values[1], values[0])


SECOND_MOMENT = {"normal": 1.0, "uniform": 1 / 3, "rademacher": 1.0, "bernoulli-0.5": 1.25}


def directions(distribution, normalize, seed, size, dim):
    """All directions of a basis, float64 [dim, size]; seed is a pair of words."""
    rows = np.stack([entries(distribution, seed, i, size) for i in range(dim)])
    if normalize == "unit":
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if normalize == "expected":
        return rows / np.sqrt(size * SECOND_MOMENT[distribution])
    return rows


def close(actual, expected, tolerance=1e-5):
    """Relative error of a vector in the Euclidean norm."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < tolerance, f"relative error {error:.2e} is not below {tolerance:.0e}"
