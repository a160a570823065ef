"""Seeds are hashed alike: int32 arithmetic wraps round, shifts and exclusive ors are those of NumPy."""

import numpy as np
import pytest

from rbd_ipu.directions.stream import FIRST, hash32
from rbd_ipu.seeds import fold_in, fold_in_numpy

pytestmark = pytest.mark.ipu

WORDS = np.random.default_rng(0).integers(-(2**31), 2**31, 4096).astype(np.int32)
EDGES = np.array([0, 1, -1, 2**31 - 1, -(2**31), 65535, 65536], np.int32)


@pytest.mark.parametrize("words", [EDGES, WORDS], ids=["edges", "random"])
def test_multiplication_wraps_round(on_device, words):
    """int32 products keep their low 32 bits: two's complement is expected of an IPU, and not documented."""
    with np.errstate(over="ignore"):
        wanted = words * np.int32(FIRST)
    np.testing.assert_array_equal(on_device(lambda x: x * FIRST, words), wanted)


@pytest.mark.parametrize("words", [EDGES, WORDS], ids=["edges", "random"])
def test_addition_wraps_round(on_device, words):
    """int32 sums keep their low 32 bits."""
    with np.errstate(over="ignore"):
        wanted = words + words
    np.testing.assert_array_equal(on_device(lambda x: x + x, words), wanted)


def test_the_hash_of_an_entry_is_the_reference_one(on_device):
    """hash32 gives the bits that it gives in NumPy, in 64-bit arithmetic."""

    def reference(x):
        mask = np.uint64(0xFFFFFFFF)
        x = x.astype(np.int64).astype(np.uint64) & mask
        x = (x ^ (x >> np.uint64(16))) * np.uint64(0x21F0AAAD) & mask
        x = (x ^ (x >> np.uint64(15))) * np.uint64(0xD35A2D97) & mask
        return (x ^ (x >> np.uint64(15))).astype(np.uint32).view(np.int32)

    np.testing.assert_array_equal(on_device(hash32, WORDS), reference(WORDS))


def test_seeds_are_those_of_the_host(on_device):
    """fold_in gives the same words on the device and in NumPy, so that a run's seeds can be checked anywhere."""
    steps = np.arange(512, dtype=np.int32)

    def run(step):
        return fold_in(fold_in(5), "step", step, "worker", 3)

    np.testing.assert_array_equal(on_device(run, steps), fold_in_numpy(5, "step", steps, "worker", 3))
