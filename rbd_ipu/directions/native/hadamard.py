"""The Hadamard basis by machine code: source ``native``.

One basis after the other, start to end on one thread: signs, transform, rows, transform, signs.

Which rows of the matrix are directions is found for all of them at once. A set of ranks is a matrix of bits [A, B],
one for each rank. Backwards, a round of the permutation in ``directions/hadamard.py`` takes (i, j) to (i - F(j), j)
or (i, j - F(i)): it rotates the columns or the rows of this matrix. A row is a string of bits, and so is a column
once the matrix is transposed; a rotation is two shifts for 64 entries. After six transpositions and rotations the
ranks have become rows.

Entry (i, j) of H_a X H_b lies where ``hadamard_transform.py`` leaves it. A basis has the ranks f, f + 1, ... f + d -
1 modulo N, where f is 0 for a worker on its own.
"""

import hashlib
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
from numba import njit

from rbd_ipu._compat import inside_xla
from rbd_ipu.directions.hadamard import ROUNDS, Hadamard, grid, in_ranks
from rbd_ipu.directions.native.dense import BUFFERS, Rooms, compile_loop, digest, empty, plain
from rbd_ipu.directions.native.hadamard_transform import PANEL, across, along, along_back, copy, tile, twos
from rbd_ipu.directions.native.op import call_from_graph
from rbd_ipu.directions.native.stream import fill_words, fold_in, hash32, inlined, loop, schedule, signed, u32
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import PLANE

WORD = 64

u64 = np.uint64


@inlined
def worth(A, B, d):
    """Whether rows and columns are whole words, and a walk along the d ranks, or the others, would take longer."""
    return A % WORD == 0 and B % WORD == 0 and 8 * min(d, A * B - d) > A * B


@inlined
def _transpose_block(block):
    """64 words as a matrix of bits, transposed: halves are swapped, then halves of halves (Warren 2012, 7-3)."""
    width, mask = 32, u64(0x00000000FFFFFFFF)
    while width:
        shift = u64(width)
        for start in range(0, WORD, 2 * width):
            for k in range(start, start + width):
                swap = ((block[k] >> shift) ^ block[k + width]) & mask
                block[k] ^= swap << shift
                block[k + width] ^= swap
        width //= 2
        mask ^= mask << u64(width)


@inlined
def _transpose(bits, strings, words, block, out):
    """out [64 words, strings / 64] <- the bits of ``bits`` [strings, words], transposed; bit 0 is the first."""
    across = strings // WORD
    for p in range(across):
        for q in range(words):
            for k in range(WORD):
                block[k] = bits[(p * WORD + k) * words + q]
            _transpose_block(block)
            for k in range(WORD):
                out[(q * WORD + k) * across + p] = block[k]


@inlined
def _rotate(bits, strings, words, shifts, string):
    """Every string rotated: its bit x becomes what was bit x + modulus - shift."""
    for s in range(strings):
        here = bits[s * words : (s + 1) * words]
        by = words * WORD - np.int64(shifts[s])
        whole, part = by // WORD, u64(by % WORD)
        for w in range(words):
            low = w + whole
            low = low - words if low >= words else low
            high = low + 1 if low + 1 < words else 0
            string[w] = (here[low] >> part) | ((here[high] << u64(1)) << (u64(WORD - 1) - part))
        for w in range(words):
            here[w] = string[w]


@inlined
def _fill(bits, start, stop):
    """Bits start ... stop - 1 <- 1."""
    while start < stop and start % WORD:
        bits[start // WORD] |= u64(1) << u64(start % WORD)
        start += 1
    while start + WORD <= stop:
        bits[start // WORD] = ~u64(0)
        start += WORD
    while start < stop:
        bits[start // WORD] |= u64(1) << u64(start % WORD)
        start += 1


@inlined
def chosen_bits(tables, A, B, first, d):
    """Bits of the rows [A, B]: 1 for the d ranks from ``first`` on, modulo A B; see :func:`round_tables`."""
    bits, other = np.zeros(A * B // WORD, np.uint64), np.empty(A * B // WORD, np.uint64)
    block, string = np.empty(WORD, np.uint64), np.empty(max(A, B) // WORD, np.uint64)
    _fill(bits, first, min(first + d, A * B))
    _fill(bits, 0, first + d - A * B)
    for k in range(ROUNDS - 2, -1, -2):
        _transpose(bits, A, B // WORD, block, other)
        _rotate(other, B, A // WORD, tables[k + 1], string)
        _transpose(other, B, A // WORD, block, bits)
        _rotate(bits, A, B // WORD, tables[k], string)
    return bits


@inlined
def _bytes_of(bits, out):
    """A byte for each bit."""
    for w in range(bits.shape[0]):
        for k in range(WORD):
            out[w * WORD + k] = np.uint8((bits[w] >> u64(k)) & u64(1))


@inlined
def place_bits(bits, group, twos, mask):
    """mask <- the bits as bytes, in the order in which ``transform.along`` leaves a group of rows."""
    found, m = np.empty(group, np.uint8), group // twos
    for start in range(0, mask.shape[0], group):
        _bytes_of(bits[start // WORD : (start + group) // WORD], found)
        for v in range(twos):
            for i in range(m):
                mask[start + v * m + i] = found[i * twos + v]


@njit
def round_tables(k0, k1, A, B, tables):
    """tables[k, x] <- what undoes F_k(x): its modulus minus it. See ``directions/hadamard.py``."""
    for k in range(ROUNDS):
        offset, step = fold_in(k0, k1, u32(1 + k))
        offset, step = schedule(offset, step)
        domain, bound = (A, B) if k % 2 == 0 else (B, A)
        spare = 0
        while bound >> spare:
            spare += 1
        for x in range(domain):
            word = hash32(u32(offset + u32(u32(x) * step)))
            value = (np.int64(word >> u32(1 + spare)) * bound) >> (31 - spare)
            tables[k, x] = u64(bound - value)


def place_tables(a: int, b: int, base: int, rows: int) -> np.ndarray:
    """uint64 [2, max(a, b)]: entry (i, j) lies at [0, i] + [1, j], as groups are [twos of b, rows, base of b]."""
    tables = np.zeros((2, max(a, b)), np.uint64)
    i, j, twos = np.arange(a), np.arange(b), b // base
    tables[0, :a] = i // rows * (rows * b) + i % rows * base
    tables[1, :b] = j % twos * (rows * base) + j // twos
    return tables


@loop
def _places(t0, t1, t2, t3, t4, t5, A, B, i, outer, inner, places):
    """Rows of the B ranks from i B on, and where they lie.

    Without a branch, which would be a coin toss, and unsigned: of x and x - A, the least is x modulo A.
    """
    for j in range(places.shape[0]):
        row_j = u64(j)
        row_i = i + t5[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t4[row_i]
        row_j = min(row_j, row_j - B)
        row_i = row_i + t3[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t2[row_i]
        row_j = min(row_j, row_j - B)
        row_i = row_i + t1[row_j]
        row_i = min(row_i, row_i - A)
        row_j = row_j + t0[row_i]
        row_j = min(row_j, row_j - B)
        places[j] = outer[row_i] + inner[row_j]


@njit(error_model="numpy")
def _to_grid(b, outer, inner, places):
    """Numbers of rows -> places, for the smallest orders, whose permutation has a grid of its own."""
    for j in range(places.shape[0]):
        row = np.int64(places[j])
        places[j] = outer[row // b] + inner[row % b]


@loop
def _take(places, scale, y, c):
    for j in range(c.shape[0]):
        c[j] = y[places[j]] * scale


@loop
def _put(places, c, z):
    for j in range(c.shape[0]):
        z[places[j]] = c[j]


@loop
def _mark(places, value, mask):
    for j in range(places.shape[0]):
        mask[places[j]] = value


@loop
def keep(mask, scale, y):
    """y <- scale y where the mask is 1, 0 where it is 0."""
    for j in range(y.shape[0]):
        y[j] = y[j] * (scale * np.float32(mask[j]))


@njit(error_model="numpy")
def _row(tables, A, B, b, i, where, places):
    """Where the B ranks from i B on lie; i counts on after the last of the A rows."""
    t, i = tables, u64(i % A)
    if b == B:
        _places(t[0], t[1], t[2], t[3], t[4], t[5], u64(A), u64(B), i, where[0], where[1], places)
    else:
        rows, columns = np.arange(A).astype(np.uint64) * u64(B), np.arange(B).astype(np.uint64)
        _places(t[0], t[1], t[2], t[3], t[4], t[5], u64(A), u64(B), i, rows, columns, places)
        _to_grid(b, where[0], where[1], places)


@njit(error_model="numpy")
def chosen(tables, A, B, b, first, d, where, mask):
    """mask <- 1 at the places of the d ranks from first on, 0 at all others; walks along the fewer of the two."""
    few = 2 * d <= A * B
    mask[:] = 0 if few else 1
    first, stop = (first, first + d) if few else (first + d, first + A * B)
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, where, places)
        _mark(places[max(first - i * B, 0) : min(stop - i * B, B)], 1 if few else 0, mask)


@njit(error_model="numpy")
def exchange(tables, A, B, b, scale, first, gather, scatter, where, c, y, z):
    """Coordinates from their places in y (gather), coordinates to their places in z (scatter)."""
    stop = first + c.shape[0]
    places = np.empty(B, np.uint64)
    for i in range(first // B, -(-stop // B)):
        _row(tables, A, B, b, i, where, places)
        low, high = max(first, i * B), min(stop, (i + 1) * B)
        here, part = places[low - i * B : high - i * B], c[low - first : high - first]
        if gather:
            _take(here, scale, y, part)
        if scatter:
            _put(here, part, z)


@loop
def _signed(words, shift, scale, x, y):
    """y <- scale * s * x for a plane."""
    for j in range(y.shape[0]):
        y[j] = signed(x[j], words[j], shift) * scale


@njit(error_model="numpy")
def _apply_signs(words, scale, x, y):
    n = y.shape[0]
    for start in range(0, n, PLANE):
        plane, stop = start // PLANE, min(n, start + PLANE)
        first = (plane // 32) * PLANE
        _signed(words[first : first + PLANE], u32(31 - plane % 32), scale, x[start:stop], y[start:stop])


def _digest_here() -> str:
    text = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((digest() + text).encode("utf-8")).hexdigest()


def _build(digest: str) -> Any:
    """The kernel; ``digest`` of all its code becomes a part of the key of Numba's cache."""

    def sketch(keys, first, last, shape, dim, scale, where, vectors, coordinates, out, work, words, gather, scatter):
        """Bases first ... last - 1: coordinates of the vectors (gather), update from coordinates (scatter).

        The key of a basis is a seed, and the rank of its first direction. Where both results are wanted and there is
        no room for coordinates, they are not written down, and less memory is gone through.
        """
        digest  # noqa: B018
        a, b, parts, base, rows, A, B = shape
        n = vectors.shape[1] if gather else out.shape[1]
        N, part, group = a * b, a // parts * b, rows * b
        through = coordinates.shape[1] == 0
        # As little memory as can be: after the network has used the caches, it is what a transform waits for.
        x, panels = work[:N], np.empty((2, PANEL), np.float32)
        groups = np.empty((2, group), np.float32)
        z = work[N:] if gather and scatter and not through else x
        mask = np.empty(N if through else 0, np.uint8)
        tables = np.empty((ROUNDS, max(A, B)), np.uint64)
        for g in range(first, last):
            k0, k1, rank = u32(keys[g, 0]), u32(keys[g, 1]), np.int64(keys[g, 2])
            offset, step = fold_in(k0, k1, u32(0))
            offset, step = schedule(offset, step)
            fill_words(offset, step, words)
            round_tables(k0, k1, A, B, tables)
            if gather:
                _apply_signs(words, np.float32(1), vectors[g], x[:n])
                x[n:] = 0
                across(x, parts, part, panels)
            if through:
                if worth(A, B, dim):
                    place_bits(chosen_bits(tables, A, B, rank, dim), group, b // base, mask)
                else:
                    chosen(tables, A, B, b, rank, dim, where, mask)
            # There, and back; both at once where nothing is to be written down. (A loop: each part is compiled once.)
            for way in range(2):
                there, back = gather and way == 0, scatter and (through == (way == 0))
                if way == 1 and not through:
                    if scatter:
                        z[:] = 0
                    exchange(tables, A, B, b, scale, rank, gather, scatter, where, coordinates[g], x, z)
                for p in range(0, N if there or back else 0, part):
                    if there:
                        twos(x[p : p + part], a // parts, b)
                    for q in range(p, p + part, group):
                        k = 0
                        if there:
                            k = along(x[q : q + group], rows, b, base, groups, panels)
                        else:
                            copy(z[q : q + group], groups[0])
                        if through:
                            keep(mask[q : q + group], scale, groups[k])
                        if back:
                            along_back(groups, k, rows, b, base, x[q : q + group], panels)
                        else:
                            copy(groups[k], x[q : q + group])
                    if back:
                        twos(x[p : p + part], a // parts, b)
            if scatter:
                across(x, parts, part, panels)
                _apply_signs(words, scale, x[:n], out[g])

    return compile_loop(sketch)


def work_length(N: int, both: bool) -> int:
    """Floats of the working memory: a vector, and where its coordinates are wanted and used as well, another."""
    return (1 + both) * N


sketch = _build(_digest_here())


class NativeHadamard(Source):
    """Each basis on one thread, bases of a group side by side; inside XLA, the operations of :class:`Hadamard`.

    At 10^5 parameters a basis takes 0.1 to 0.3 ms, so little that to share one among threads would not pay.
    """

    jit = False
    one_draw = True
    takes_later = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = Hadamard(groups, size, dim, normalize)
        self.groups, self.size, self.dim = groups, size, dim
        a, b = self._ops.a, self._ops.b
        parts, base, rows = tile(a, b)
        self._shape = (a, b, parts, base, rows, *grid(a, b))
        self._where = place_tables(a, b, base, rows)
        self._scale, self._rooms = np.float32(self._ops.scale), Rooms()
        self._words = -(-size // (32 * PLANE)) * PLANE
        self._shapes: Dict[str, Any] = {"coordinates": [groups, dim], "vectors": [groups, size]}

    def worker_keys(self, seeds: Any, worker: Any) -> Any:
        if not isinstance(seeds, np.ndarray):
            return self._ops.worker_keys(seeds, worker)
        first = np.multiply(worker, self.dim, dtype=np.int32) % self._ops.padded
        return np.concatenate([seeds, np.full([self.groups, 1], first, np.int32)], axis=1)

    def join(self, messages: Any, seeds: Any) -> Any:
        return self.expand(in_ranks(messages, self._ops.padded), seeds)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._ops.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.project(vectors, seeds)
        return call_from_graph(self._gather, [vectors, seeds], [self._shapes["coordinates"]])[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.expand(coordinates, seeds)
        return call_from_graph(self._scatter, [coordinates, seeds], [self._shapes["vectors"]])[0]

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.sketch(vectors, seeds)
        return tuple(call_from_graph(self._both, [vectors, seeds], list(self._shapes.values())))

    def filter(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.filter(vectors, seeds)
        return call_from_graph(self._through, [vectors, seeds], [self._shapes["vectors"]])[0]

    def _room(self, columns: int) -> np.ndarray:
        return self._rooms.take(self.groups * columns).reshape(self.groups, columns)

    def _through(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = self._room(self.size)
        self._run(seeds, plain(vectors), empty(self.groups, 0), out, True, True)
        return out

    def _gather(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        coordinates = self._room(self.dim)
        self._run(seeds, plain(vectors), coordinates, empty(self.groups, 0), True, False)
        return coordinates

    def _scatter(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = self._room(self.size)
        self._run(seeds, out, plain(coordinates), out, False, True)
        return out

    def _both(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, out = self._room(self.dim), self._room(self.size)
        self._run(seeds, plain(vectors), coordinates, out, True, True)
        return coordinates, out

    def _run(self, seeds: np.ndarray, *arguments: Any) -> None:
        keys = np.zeros((self.groups, 3), np.int32)
        keys[:, : seeds.shape[1]] = seeds
        if self.groups == 1:  # the usual case, in which a millisecond counts: no tasks, no threads to ask for
            self._work(keys, 0, 1, *arguments)
            return
        threads = thread_count()
        tasks = min(threads, self.groups)
        ends = [t * self.groups // tasks for t in range(tasks + 1)]
        run_tasks(tasks, threads, lambda t: self._work(keys, ends[t], ends[t + 1], *arguments))

    def _work(
        self,
        keys: np.ndarray,
        first: int,
        last: int,
        vectors: Any,
        coordinates: Any,
        out: Any,
        gather: bool,
        scatter: bool,
    ) -> None:
        """The bases first ... last - 1, on this thread."""
        both = gather and scatter and coordinates.shape[1] > 0
        work = BUFFERS.take(work_length(self._ops.padded, both))
        words = np.empty(self._words, np.uint32)
        sketch(
            keys,
            first,
            last,
            self._shape,
            self.dim,
            self._scale,
            self._where,
            vectors,
            coordinates,
            out,
            work,
            words,
            gather,
            scatter,
        )
        BUFFERS.give(work)
