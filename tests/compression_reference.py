"""The four lines of ``rbd_ipu/compression.py`` in float64 NumPy, written from the definitions."""

import numpy as np
from reference import MASK, PLANE, hash32, schedule, threefry

BLOCK = 4096


def words(text):
    import hashlib

    high, low = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "<u4")
    return int(high) | 1 << 31, int(low)


def run_seed(seed):
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def fold(key, *parts):
    for part in parts:
        key = threefry(key, words(part) if isinstance(part, str) else (0, part))
    return key


def signs(key, n):
    """Rademacher entries of direction 0."""
    a, w = schedule(*threefry(key, (0, 0)))
    j = np.arange(n, dtype=np.uint64)
    word = (j // (32 * PLANE)) * PLANE + j % PLANE
    bit = (hash32((a + word * w) & MASK) >> ((j // PLANE) % 32)) & np.uint64(1)
    return np.where(bit, -1.0, 1.0)


def hadamard(order):
    H = np.ones((1, 1))
    while len(H) < order:
        H = np.block([[H, H], [H, -H]])
    return H


def pieces(n):
    sizes, rest = [BLOCK] * (n // BLOCK), n % BLOCK
    for size in (1024, 256, 64, 16, 4, 1):
        sizes += [size] * (rest // size)
        rest %= size
    return sizes


def transform(x):
    """Walsh-Hadamard of every piece, orthonormal and symmetric."""
    out, start = np.empty(len(x)), 0
    for size in pieces(len(x)):
        out[start : start + size] = hadamard(size) @ x[start : start + size] / np.sqrt(size)
        start += size
    return out


def quantised(wire, values):
    """What the receiver has of the values of one block."""
    values = np.asarray(values, np.float64)
    if wire == "float32":
        return values
    if wire == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
        return rounded.astype(np.uint32).view(np.float32).astype(np.float64)
    if wire == "int8":
        largest = np.abs(values).max()
        scale = 2.0 ** (np.ceil(4 * np.log2(largest) - 1e-6) / 4)
        return np.round(values / scale * 127) * scale / 127
    size = np.abs(values)
    scale = size.mean() if wire == "sign" else (size**2).sum() / size.sum()
    mantissa, exponent = np.frexp(2.0 ** (np.round(4 * np.log2(scale)) / 4))
    return np.where(values < 0, -1.0, 1.0) * np.ldexp(np.round(mantissa * 4096) / 4096, exponent)


def sent(n, fraction):
    return n if fraction == 1 else min(n, max(1, int(fraction * n + 0.5)))


def chosen(vectors, fraction, wire):
    """q of the coordinates c of all vectors: the largest of each block, or below 1/4096 those of some blocks."""
    found, blocks = [np.zeros(len(c)) for c in vectors], {}
    for v, c in enumerate(vectors):
        for start in range(0, len(c), BLOCK):
            blocks.setdefault(len(c[start : start + BLOCK]), []).append((v, start))
    for n, places in blocks.items():
        of_blocks = [vectors[v][start : start + n] for v, start in places]
        count = max(1, int(fraction * len(places) * n + 0.5))
        if fraction * BLOCK < 1 and count < len(places):
            best = [np.argmax(np.abs(block)) for block in of_blocks]
            values = np.array([block[i] for block, i in zip(of_blocks, best)])
            some = np.sort(np.argsort(-np.abs(values), kind="stable")[:count])
            for b, q in zip(some, quantised(wire, values[some])):
                found[places[b][0]][places[b][1] + best[b]] = q
            continue
        for (v, start), block in zip(places, of_blocks):
            largest = np.sort(np.argsort(-np.abs(block), kind="stable")[: sent(n, fraction)])
            found[v][start + largest] = quantised(wire, block[largest])
    return found


class Worker:
    """Memory, second moment and basis of one worker, over vectors of the given sizes."""

    def __init__(self, sizes, fraction, wire, beta, seed, signed, second_moment=None):
        self.sizes, self.fraction, self.wire, self.beta, self.seed, self.signed = (
            sizes,
            fraction,
            wire,
            beta,
            seed,
            signed,
        )
        self.memory = [np.zeros(n) for n in sizes]
        self.b, self.t, self.squares = second_moment, 0, [np.zeros(n) for n in sizes]

    def rescaled(self, v, g):
        """g of a vector, over the root of the mean of its squares so far."""
        if self.b is None:
            return g
        squares = np.asarray(g, np.float64) ** 2
        mean = self.b * self.squares[v] + (1 - self.b) * squares
        self.squares[v] = np.where(self.squares[v] == 0, (1 - self.b**self.t) * squares, mean)
        return g / (np.sqrt(self.squares[v] / (1 - self.b**self.t)) + 1e-8)

    def signs(self, step):
        if not self.signed:
            return [np.ones(n) for n in self.sizes]
        key = fold(run_seed(self.seed), "step", step, "worker", 0)
        return [signs(fold(key, "compartment", v), n) for v, n in enumerate(self.sizes)]

    def step(self, gradients, step):
        """P q of this worker, vector by vector; ``coordinates`` keeps q."""
        self.t += 1
        gradients = [self.rescaled(v, g) for v, g in enumerate(gradients)]
        vectors, signs = gradients, self.signs(step)
        if self.beta is not None:
            vectors = [self.beta * m + g for m, g in zip(self.memory, gradients)]
        self.coordinates = chosen([transform(s * m) for s, m in zip(signs, vectors)], self.fraction, self.wire)
        updates = [s * transform(q) for s, q in zip(signs, self.coordinates)]
        if self.beta is not None:
            self.memory = [m - u for m, u in zip(vectors, updates)]
        return updates


class Leader(Worker):
    """Of a group: adds the mean of its coordinates to a memory, and sends the largest of what is there then."""

    def pass_on(self, group, step):
        """P q of this leader, vector by vector, from q of each of its group; ``coordinates`` keeps q."""
        signs, vectors = self.signs(step), []
        for v, s in enumerate(signs):
            mean = sum(q[v] for q in group) / len(group)
            vectors.append(mean if self.beta is None else transform(s * self.beta * self.memory[v]) + mean)
        self.coordinates = chosen(vectors, self.fraction, self.wire)
        if self.beta is not None:
            self.memory = [s * transform(c - q) for s, c, q in zip(signs, vectors, self.coordinates)]
        return [s * transform(q) for s, q in zip(signs, self.coordinates)]


class Groups:
    """K workers, K/G leaders of theirs, K/G^2 leaders of these, ...: what all receive in the end."""

    def __init__(self, count, group_size, group_levels, *settings):
        self.size = group_size
        self.workers = [Worker(*settings) for _ in range(count)]
        self.leaders = [
            [Leader(*settings) for _ in range(count // group_size**level)] for level in range(1, group_levels + 1)
        ]

    def step(self, gradients, step):
        """The mean of what the last leaders send, P q, from the gradients of each worker: one vector."""
        updates = [worker.step(g, step) for worker, g in zip(self.workers, gradients)]
        below = self.workers
        for leaders in self.leaders:
            updates = [
                leader.pass_on([one.coordinates for one in below[i * self.size : (i + 1) * self.size]], step)
                for i, leader in enumerate(leaders)
            ]
            below = leaders
        return np.mean([np.concatenate(u) for u in updates], axis=0)
