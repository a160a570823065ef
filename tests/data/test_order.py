"""Random orders: permutations, the same on the host and in TensorFlow, one for each seed."""

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.seeds import fold_in, fold_in_numpy, permutation, permutation_numpy


@pytest.mark.parametrize("size", [1, 2, 17, 1197, 60_000])
def test_it_is_a_permutation(size):
    assert (np.sort(permutation_numpy(size, seed=5)) == np.arange(size)).all()


def test_golden_orders_hold_on_every_stack():
    assert permutation_numpy(10, 0).tolist() == [4, 8, 3, 7, 6, 2, 9, 1, 5, 0]
    assert permutation_numpy(60_000, (3, -4))[:5].tolist() == [39033, 51023, 35857, 30487, 53677]


@pytest.mark.parametrize("seed", [0, 2**40, (3, -4)])
def test_tensorflow_gives_the_order_of_the_host(seed):
    for size in (1, 10, 4096):
        assert permutation(size, seed).numpy().tolist() == permutation_numpy(size, seed).tolist()


def test_tensorflow_in_a_graph_with_a_seed_that_is_a_tensor():
    @tf.function
    def order(epoch):
        return permutation(100, fold_in(7, "shuffle", epoch))

    expected = permutation_numpy(100, fold_in_numpy(7, "shuffle", 3))
    assert order(tf.constant(3, tf.int64)).numpy().tolist() == expected.tolist()


def test_equal_hashes_keep_their_order():
    size, seed = 200_000, 0
    keys = fold_in_numpy(seed, np.arange(size))[:, 0]
    assert len(np.unique(keys)) < size  # there are some, or the test would show nothing
    by_key_and_index = np.lexsort((np.arange(size), keys))
    assert (permutation_numpy(size, seed) == by_key_and_index).all()
    assert (permutation(size, seed).numpy() == by_key_and_index).all()


def test_every_index_comes_to_every_place():
    orders = np.array([permutation_numpy(6, seed) for seed in range(3000)])
    for place in range(6):
        # 500 expected, deviation 20.4: five deviations
        assert (abs(np.bincount(orders[:, place], minlength=6) - 500) < 102).all()
