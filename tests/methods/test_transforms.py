"""What is made of coordinates, against NumPy."""

import numpy as np
import pytest
from steps import ranks

from rbd_ipu._compat import tf
from rbd_ipu.methods import rbd_options
from rbd_ipu.methods.rbd_options import TRANSFORMS, largest

EXAMPLES = {
    "none": lambda c: c,
    "rank": ranks,
    "range": lambda c: (c - c.min()) / (c.max() - c.min()) - 0.5,
}


def test_every_row_has_a_reference():
    assert set(EXAMPLES) == set(TRANSFORMS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("levels", [None, 3])  # of three values, most are equal to others
def test_against_numpy(name, seed, levels):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal(37) if levels is None else rng.integers(0, levels, 37).astype(float)
    transform = TRANSFORMS.get(name)
    for apply in (transform, tf.function(transform)):
        np.testing.assert_allclose(apply(tf.constant(c, tf.float32)), EXAMPLES[name](c.astype(np.float32)), atol=1e-6)


def test_ranks_are_those_of_the_order_alone():
    c = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    rank = TRANSFORMS.get("rank")
    r = rank(tf.constant(c)).numpy()
    np.testing.assert_array_equal(r, rank(tf.constant(np.exp(3 * c))))
    np.testing.assert_allclose(rank(tf.constant(-c)), -r, atol=1e-7)
    np.testing.assert_allclose(np.sort(r), np.linspace(-0.5, 0.5, 50), atol=1e-7)


@pytest.mark.parametrize("name", ["rank", "range"])
def test_nothing_to_tell_apart_moves_nothing(name):
    for c in ([4.0], [4.0, 4.0, 4.0]):
        np.testing.assert_array_equal(TRANSFORMS.get(name)(tf.constant(c)), np.zeros(len(c)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_nan_is_not_hidden(name):
    assert np.isnan(TRANSFORMS.get(name)(tf.constant([1.0, np.nan, 0.0]))).any()


def test_an_infinite_loss_is_the_highest():
    np.testing.assert_array_equal(TRANSFORMS.get("rank")(tf.constant([1.0, np.inf, 0.0])), [0.0, 0.5, -0.5])


@pytest.mark.parametrize("k", [1, 4, 20])
def test_top_keeps_the_largest_in_magnitude(k):
    c = np.random.default_rng(k).standard_normal(20).astype(np.float32)
    expected = np.where(np.abs(c) >= np.sort(np.abs(c))[-k], c, 0.0)
    np.testing.assert_array_equal(rbd_options.top(tf.constant(c), k), expected)


def test_largest_counts_exactly_k_among_equals():
    assert float(tf.reduce_sum(largest(tf.ones([7]), 3))) == 3.0


@pytest.mark.parametrize("share, again", [(0.001, 1), (0.25, 2), (0.5, 5), (0.99, 9)])
def test_the_lowest_are_drawn_again(share, again):
    c = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    draws = rbd_options.lowest_again(tf.zeros([9], tf.int32), tf.constant(c), share).numpy()
    assert draws.sum() == max(1, round(share * 9)) and again in (draws.sum(), draws.sum() + 1)
    assert np.abs(c[draws == 1]).max() <= np.abs(c[draws == 0]).min() if draws.sum() < 9 else True
