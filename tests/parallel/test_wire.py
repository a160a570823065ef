"""Values, scales and indices to bits and back."""

import math

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.parallel import wire
from rbd_ipu.parallel.wire import SCALES, VALUES, Shape, block_bytes, index_code

SHAPES = [Shape(3, 4096, 32), Shape(2, 4096, 4), Shape(1, 4096, 1), Shape(4, 10, 5), Shape(2, 7, 7), Shape(1, 1, 1)]


def entropy(n, k):
    """log2 C(n, k): the bits that no code of k of n indices can do without."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def chosen(shapes, seed):
    rng = np.random.default_rng(seed)
    made = []
    for count, n, k in shapes:
        index = np.sort([rng.permutation(n)[:k] for _ in range(count)], axis=1).astype(np.int32)
        values = tf.constant(rng.standard_normal((count, k)) * 10.0 ** rng.integers(-9, 4), tf.float32)
        made.append((None if k == n else tf.constant(index), values))
    return made


@pytest.mark.parametrize("name", VALUES)
def test_a_message_brings_back_all_codes(name):
    coded = wire.encode(name, chosen(SHAPES, seed=1))
    message = wire.pack(name, SHAPES, coded)
    size = wire.message_bytes(name, SHAPES)
    assert message.dtype == tf.int32 and 4 * len(message) - 3 <= size <= 4 * len(message)
    for own, other in zip(coded, wire.unpack(name, SHAPES, message)):
        for a, b in zip(own, other):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 96, 904, 4096])
def test_indices_take_little_more_than_the_least_number_of_bits(n):
    for k in {1, 2, n // 128, n // 16, n // 4, n // 2, n - 1, n} - {0}:
        if k > n:
            continue
        bits = index_code(n, k).bits
        assert bits >= entropy(n, k) - 1e-6
        assert bits <= entropy(n, k) + 1.1 * k + 2, (n, k)
        shape = [Shape(2, n, k)]
        made = chosen(shape, seed=n + k)
        back = wire.unpack("sign", shape, wire.pack("sign", shape, wire.encode("sign", made)))[0][0]
        if k < n:
            np.testing.assert_array_equal(back, made[0][0])


def test_scales():
    x = np.exp(np.random.default_rng(0).uniform(np.log(1e-12), np.log(1e4), 500)).astype(np.float32)
    near = wire.scale_of(wire.nearest_scale(tf.constant(x))).numpy()
    assert np.abs(np.log2(near / x)).max() <= 1 / 8 + 1e-6
    above = wire.scale_of(wire.scale_above(tf.constant(x))).numpy()
    assert ((above >= x) & (above < x * 2**0.2501)).all()
    ends = tf.constant([0.0, 1e-20, 1e30, np.inf, np.nan])
    assert wire.nearest_scale(ends).numpy().tolist() == [0, 0, 254, 255, 255]
    assert wire.scale_above(ends).numpy().tolist() == [0, 1, 254, 255, 255]
    exact = tf.constant(SCALES[1:255])
    np.testing.assert_array_equal(wire.nearest_scale(exact), np.arange(1, 255))
    np.testing.assert_array_equal(wire.scale_above(exact), np.arange(1, 255))


def test_values():
    values = np.random.default_rng(3).standard_normal((5, 32)).astype(np.float32)

    def received(name):
        return VALUES.get(name).decode(*VALUES.get(name).encode(tf.constant(values))).numpy()

    np.testing.assert_array_equal(received("float32"), values)
    assert np.abs(received("bfloat16") / values - 1).max() <= 2**-8
    np.testing.assert_array_equal(received("bfloat16"), tf.cast(tf.cast(values, tf.bfloat16), tf.float32))
    assert (np.abs(received("int8") - values).max(1) <= np.abs(values).max(1) * 2**0.25 / 254 * 1.001).all()
    for name, scale in (
        ("sign", np.abs(values).mean(1)),
        ("sign-unbiased", (values**2).sum(1) / np.abs(values).sum(1)),
    ):
        found = received(name)
        np.testing.assert_array_equal(np.sign(found), np.sign(values))
        assert np.abs(np.log2(np.abs(found[:, 0]) / scale)).max() <= 1 / 8 + 1e-6


@pytest.mark.parametrize("name", VALUES)
def test_zeros_and_what_is_not_finite(name):
    row = VALUES.get(name)
    np.testing.assert_array_equal(row.decode(*row.encode(tf.zeros([2, 3]))), np.zeros((2, 3)))
    values = tf.constant([[1.0, np.nan, 2.0], [np.inf, 1.0, 1.0]])
    for there_and_back in (lambda x: row.decode(*row.encode(x)), tf.function(lambda x: row.decode(*row.encode(x)))):
        assert not np.isfinite(there_and_back(values).numpy()).all(axis=1).any()


def test_bytes_of_the_bold_row():
    """85.3 blocks of 4,096 in D = 349,536, 1/128 of their coordinates, one bit each: 1/400 of 4 D."""
    assert block_bytes("sign", 4096, 32) == 41 and math.ceil(entropy(4096, 32) / 8) + 1 + 4 == 39
