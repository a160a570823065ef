"""The seed contract: Threefry, the same words everywhere, and no arithmetic between the parts."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.seeds import fold_in, fold_in_numpy, permutation, permutation_numpy, threefry

PARTS = ("step", 7, "worker", 3)


def words(*values):
    return tuple(np.array(v, np.uint32).view(np.int32)[()] for v in values)


# Known-answer vectors published with the Random123 library (Salmon et al. 2011).
@pytest.mark.parametrize(
    "key, counter, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(key, counter, expected):
    assert threefry(words(*key), words(*counter)) == words(*expected)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**40 + 5, -(2**63), 2**64 - 1])
@pytest.mark.parametrize("jit", [False, True])
def test_eager_graph_xla_and_numpy_agree(seed, jit):
    expected = fold_in_numpy(seed, *PARTS)
    np.testing.assert_array_equal(rbd_ipu.fold_in(seed, *PARTS), expected)

    @tf.function(jit_compile=jit)
    def traced(seed, step, worker):
        return rbd_ipu.fold_in(seed, "step", step, "worker", worker)

    for kind in (tf.int32, tf.int64):
        got = traced(rbd_ipu.fold_in(seed), tf.constant(7, kind), tf.constant(3, kind))
        assert got.dtype == tf.int32 and got.shape == [2]
        np.testing.assert_array_equal(got, expected)


def test_a_graph_of_tensorflow_1_has_the_operations_itself():
    """And what it made first serves nobody else: another graph, or eager mode, has no function of it."""
    expected = fold_in_numpy(3, "graph", np.array([5, 6]))
    for _ in range(2):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            found = rbd_ipu.fold_in(3, "graph", tf.constant([5, 6]))
            np.testing.assert_array_equal(session.run(found), expected)
    np.testing.assert_array_equal(rbd_ipu.fold_in(3, "graph", tf.constant([5, 6])), expected)


def test_in_a_function_a_hash_is_one_operation_of_any_shape():
    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32), tf.TensorSpec(None, tf.int32)])
    def traced(seed, part):
        return rbd_ipu.fold_in(seed, part)

    for part in (4, [1, 2, 3], [[-1], [7]]):
        np.testing.assert_array_equal(traced([5, 6], part), fold_in_numpy(np.array([5, 6]), np.array(part)))
    assert len(traced.get_concrete_function().graph.get_operations()) < 30  # of the hash alone there are over 100


def test_the_words_never_change():
    """A golden value: changing the hash would change every published number."""
    np.testing.assert_array_equal(rbd_ipu.fold_in(0, "step", 7, "worker", 3), [984979827, 196011493])


def test_parts_fold_one_after_the_other():
    once = rbd_ipu.fold_in(5, "a", 1)
    np.testing.assert_array_equal(once, rbd_ipu.fold_in(rbd_ipu.fold_in(5, "a"), 1))
    np.testing.assert_array_equal(rbd_ipu.fold_in(5), fold_in_numpy(5))


def test_tensors_derive_many_seeds_at_once():
    many = rbd_ipu.fold_in(5, "direction", tf.range(4)).numpy()
    assert many.shape == (4, 2)
    np.testing.assert_array_equal(many, [fold_in_numpy(5, "direction", i) for i in range(4)])
    np.testing.assert_array_equal(many, fold_in_numpy(5, "direction", np.arange(4)))


def test_sums_of_parts_do_not_collide():
    """Worker w at step t must not get what worker w + 1 had at step t - 1."""
    seeds = {tuple(fold_in_numpy(0, "step", t, "worker", w)) for t in range(50) for w in range(50)}
    assert len(seeds) == 2500


def test_a_string_is_not_the_number_it_spells_nor_its_own_bytes():
    kinds = [fold_in_numpy(0, part) for part in ("7", 7, "step", "steps", -7, 2**32 - 7)]
    assert len({tuple(k) for k in kinds}) == 5  # -7 and 2**32 - 7 are one 32-bit word


@pytest.mark.parametrize("part", [0.5, True, None, b"x", np.array([0.5])])
def test_other_parts_are_refused(part):
    with pytest.raises(TypeError, match="a part"):
        rbd_ipu.fold_in(0, part)
    with pytest.raises(TypeError, match="a part"):
        fold_in_numpy(0, part)


@pytest.mark.parametrize("seed", [0.5, True, None, "zero", np.zeros(3, np.int32), np.zeros(2)])
def test_other_seeds_are_refused(seed):
    with pytest.raises(TypeError, match="a seed must be an int or int32"):
        rbd_ipu.fold_in(seed, 1)


@pytest.mark.parametrize("part", [2**32, -(2**31) - 1])
def test_a_part_must_fit_in_32_bits(part):
    with pytest.raises(ValueError, match="32 bits"):
        rbd_ipu.fold_in(0, part)


def test_float_tensors_are_refused():
    with pytest.raises(TypeError, match="got float32"):
        rbd_ipu.fold_in(0, tf.constant(1.0))
    with pytest.raises(TypeError, match="got shape"):
        rbd_ipu.fold_in(tf.constant([1, 2, 3]))


def test_avalanche():
    """One changed bit of the seed or of a part flips half of the 64 output bits, on average."""
    base = fold_in_numpy(0, 0)
    flips = [fold_in_numpy(1 << b, 0) for b in range(63)] + [fold_in_numpy(0, 1 << b) for b in range(32)]
    changed = [bin(int(np.bitwise_xor(base, f).view(np.uint64)[0])).count("1") for f in flips]
    assert 30.5 < np.mean(changed) < 33.5 and min(changed) > 12


# --- random orders: permutations, the same on the host and in TensorFlow, one for each seed ---------


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
