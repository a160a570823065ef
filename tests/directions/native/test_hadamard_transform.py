"""Parts of the native Hadamard transform, over every kind of order, against their definitions."""

import numpy as np
import pytest
from hadamard_reference import NUMBA
from reference import close

from rbd_ipu._compat import tf
from rbd_ipu.directions.hadamard import ROUNDS, Hadamard, Rows, base_of, grid, split
from rbd_ipu.directions.stream import schedule
from rbd_ipu.seeds import fold_in_numpy

pytestmark = NUMBA

# Sizes whose (a, b) have every base, and in b every number of twos up to 6, even and odd ones.
SIZES = [1, 2, 4, 8, 32, 64, 512, 1024, 4096, 12, 24, 144, 288, 576, 1152, 2304, 4608, 9216, 20, 40, 400, 800, 1600]
SIZES += [3200, 6400, 12_800, 25_600, 102_400, 240, 480, 960, 1920, 3840, 7680, 15_360, 61_440, 122_880]


def test_the_sizes_are_of_every_kind():
    kinds = {(base_of(a), base_of(b)) for a, b in map(split, SIZES)}
    assert kinds >= {(1, 1), (12, 12), (20, 20), (12, 20), (20, 12), (12, 1), (20, 1)}
    twos = {(base_of(b), b // base_of(b)) for a, b in map(split, SIZES)}
    assert twos >= {(base, 1 << k) for base in (12, 20) for k in range(5)} | {(1, 1 << k) for k in range(7)}


@pytest.mark.parametrize("size", SIZES)
def test_every_order_transforms_as_the_operations_do(size):
    from rbd_ipu.directions.native.hadamard import NativeHadamard

    groups, rng = 1 + (size < 10_000), np.random.default_rng(size)
    v = rng.standard_normal((groups, size)).astype(np.float32)
    keys = np.stack([np.append(fold_in_numpy(size, g), rng.integers(size)) for g in range(groups)]).astype(np.int32)
    for dim in sorted({-(-size // 50), -(-size // 3), size - size // 10, size}):
        ops, native = Hadamard(groups, size, dim, "unit"), NativeHadamard(groups, size, dim, "unit")
        c = ops.project(tf.constant(v), tf.constant(keys))
        close(native.project(tf.constant(v), tf.constant(keys)), c, 1e-6)
        close(native.expand(c, tf.constant(keys)), ops.expand(c, tf.constant(keys)), 1e-6)
        close(native.filter(tf.constant(v), tf.constant(keys)), ops.filter(tf.constant(v), tf.constant(keys)), 1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_every_entry_has_a_place_of_its_own(size):
    from rbd_ipu.directions.native.hadamard import place_tables
    from rbd_ipu.directions.native.hadamard_transform import tile

    a, b = split(size)
    parts, base, rows = tile(a, b)
    assert a % parts == 0 and a // parts % rows == 0 and (base_of(a) in (1, parts))
    outer, inner = place_tables(a, b, base, rows)
    places = outer[:a, None] + inner[None, :b]
    np.testing.assert_array_equal(np.sort(places, axis=None), np.arange(a * b))


@pytest.mark.parametrize("a, b", [(64, 64), (192, 64), (384, 320)])
@pytest.mark.parametrize("seed", [0, 7])
def test_rotated_bits_are_the_rows_of_the_ranks(a, b, seed):
    from rbd_ipu.directions.native.hadamard import chosen_bits, round_tables

    N, key = a * b, fold_in_numpy(seed)
    A, B = grid(a, b)
    pairs = schedule(tf.constant(fold_in_numpy(key, np.arange(1, 1 + ROUNDS))[None]))
    ranks = Rows(A, B).ranks(pairs, tf.range(N)).numpy()[0]
    tables = np.empty((ROUNDS, max(A, B)), np.uint64)
    round_tables(*key.view(np.uint32), A, B, tables)
    for first, dim in ((0, 1), (0, N // 2), (N - 5, 70), (63, 2), (17, N - 64), (N // 3, N)):
        bits = chosen_bits(tables, A, B, first, dim).view(np.uint8)
        np.testing.assert_array_equal(np.unpackbits(bits, bitorder="little"), (ranks - first) % N < dim)


def test_bits_lie_where_the_transform_leaves_their_rows():
    from rbd_ipu.directions.native.hadamard import place_bits, place_tables
    from rbd_ipu.directions.native.hadamard_transform import tile

    for a, b in ((64, 64), (128, 128), (384, 320), (192, 192), (64, 128)):
        _, base, rows = tile(a, b)
        bits = np.random.default_rng(b).integers(0, 2, a * b).astype(np.uint8)
        mask = np.empty(a * b, np.uint8)
        place_bits(np.packbits(bits, bitorder="little").view(np.uint64), rows * b, b // base, mask)
        outer, inner = place_tables(a, b, base, rows)
        np.testing.assert_array_equal(mask[(outer[:a, None] + inner[None, :b]).astype(int)].ravel(), bits)
