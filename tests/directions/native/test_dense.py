"""Source native: the numbers of source counter and of the definition, whatever the shapes, tasks and threads."""

import threading

import numpy as np
import pytest
from reference import close
from reference import directions as reference_directions

pytest.importorskip("numba", reason="Numba is not installed: no source native")

from rbd_ipu._compat import tf
from rbd_ipu.basis import NORMALIZATIONS
from rbd_ipu.directions import DISTRIBUTIONS, make_source
from rbd_ipu.directions.native.dense import KINDS, ROUND_SAMPLES, TASK_SAMPLES, Launcher
from rbd_ipu.directions.native.op import CompartmentSeeds
from rbd_ipu.seeds import fold_in_numpy

EVERY = [(distribution, normalize) for distribution in DISTRIBUTIONS for normalize in NORMALIZATIONS]


def seeds_of(groups, seed=0):
    return fold_in_numpy(seed, np.arange(groups))


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def launcher(groups, size, dim, distribution="normal", tasks=0):
    return Launcher(groups, size, dim, distribution, unit=True, scale=1.0, tasks=tasks)


@pytest.mark.parametrize("distribution, normalize", EVERY)
def test_the_same_numbers_as_counter(distribution, normalize):
    shape = (3, 1500, 7)
    groups, size, dim = shape
    native = make_source("native", *shape, distribution, normalize)
    counter = make_source("counter", *shape, distribution, normalize)
    seeds, v, c = seeds_of(groups), random(groups, size), random(groups, dim)
    np.testing.assert_allclose(native.directions(seeds, 2, 4), counter.directions(seeds, 2, 4), rtol=2e-6, atol=2e-6)
    close(native.project(v, seeds), counter.project(v, seeds), 3e-6)
    close(native.expand(c, seeds), counter.expand(c, seeds), 3e-6)
    for one, other in zip(native.sketch(v, seeds), counter.sketch(v, seeds)):
        close(one, other, 3e-6)


# Sizes around a vector register, a plane (1,024) and its 32-fold, a tile (16,384); one group and several.
SHAPES = [(1, 1, 1), (1, 17, 250), (4, 16, 3), (2, 1025, 5), (3, 16_385, 2), (1, 32_769, 4), (5, 70_001, 1)]


@pytest.mark.parametrize("groups, size, dim", SHAPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_against_the_definition(distribution, groups, size, dim):
    kernels, seeds = launcher(groups, size, dim, distribution, tasks=3), seeds_of(groups, seed=size)
    P = np.stack([reference_directions(distribution, "unit", seed, size, dim) for seed in seeds])
    v = random(groups, size)
    c = np.einsum("gdn,gn->gd", P, v.astype(np.float64))
    u = np.einsum("gdn,gd->gn", P, c)
    np.testing.assert_allclose(kernels.directions(seeds, 0, dim), P, rtol=3e-6, atol=3e-6 * np.abs(P).max())
    coordinates, update = kernels.sketch(v, seeds)
    # Random vectors are nearly orthogonal, so that errors are relative to |v|, not to the small c.
    assert np.abs(coordinates - c).max() < 1e-6 * np.linalg.norm(v)
    close(update, u, 2e-5 if size < 20 else 3e-6)
    np.testing.assert_allclose(kernels.project(v, seeds), coordinates, atol=1e-6 * np.linalg.norm(v))
    close(kernels.expand(c.astype(np.float32), seeds), u, 2e-6)


@pytest.mark.parametrize("seed", [0, -5, 2**63 + 5, 2**31])
def test_seeds_of_compartments(seed):
    members = np.array([3, 0, 2, 1, 2**31 - 1], np.int32)
    words = fold_in_numpy(seed)
    for step, worker in ((0, 0), (7, 1), (2**31 - 1, 15), (-3, 2**31 - 1)):
        hashed = CompartmentSeeds(members)(tf.constant(words), tf.constant(step), tf.constant(worker)).numpy()
        exact = fold_in_numpy(seed, "step", step, "worker", worker, "compartment", members)
        np.testing.assert_array_equal(hashed, exact)


def test_every_distribution_has_a_kernel():
    assert list(KINDS) == list(DISTRIBUTIONS)


def test_the_block_size_changes_nothing():
    seeds, v = seeds_of(2), random(2, 500)
    one = make_source("native", 2, 500, 10, "normal", "unit").sketch(v, seeds)
    other = make_source("native", 2, 500, 10, "normal", "unit", 3).sketch(v, seeds)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("tasks", [2, 3, 4, 7, 16])
def test_tasks_change_only_the_last_bits(tasks):
    """Tasks may end inside a group, span groups, or be alone with one."""
    groups, size, dim = 3, 2000, 6
    seeds, v = seeds_of(groups), random(groups, size)
    c, u = launcher(groups, size, dim, tasks=1).sketch(v, seeds)
    kernels = launcher(groups, size, dim, tasks=tasks)
    for _ in range(3):
        coordinates, update = kernels.sketch(v, seeds)
        np.testing.assert_array_equal(coordinates, c)
        close(update, u, 3e-7)
    again = kernels.sketch(v, seeds)[1]
    np.testing.assert_array_equal(again, update)  # whatever thread did what


def test_threads_one_and_four_agree(monkeypatch):
    size, dim = 4001, 400
    seeds, v, results = seeds_of(1), random(1, size), []
    for threads in (1, 4):
        monkeypatch.setattr("rbd_ipu.directions.native.dense.thread_count", lambda n=threads: n)
        kernels = launcher(1, size, dim)
        assert kernels.tasks(threads) == threads
        results.append(kernels.sketch(v, seeds))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    close(results[1][1], results[0][1], 1e-6)


def test_the_number_of_tasks_follows_the_work():
    assert launcher(1, 17, 250).tasks(4) == 1
    assert launcher(1, TASK_SAMPLES, 3).tasks(4) == 3  # a task has one direction at least
    assert launcher(60, TASK_SAMPLES // 10, 1).tasks(4) == 4  # many groups of one direction
    assert launcher(1, 100_000, 4 * 2 * ROUND_SAMPLES // 100_000).tasks(4) == 8
    assert launcher(1, 100_000, 100_000).tasks(4) == 16
    assert launcher(1, 10_000_000, 1000).tasks(4) == 4  # a partial sum for each task: not many long ones
    assert launcher(1, 100_000, 100_000).tasks(1) == 1


def test_many_callers_at_once():
    """As the replicas of a MirroredStrategy are: threads of one process that share the pool."""
    kernels, v = launcher(1, 3000, 12, tasks=4), random(1, 3000)
    expected = [kernels.sketch(v, seeds_of(1, k)) for k in range(6)]
    wrong = []

    def call(k):
        for _ in range(30):
            c, u = kernels.sketch(v, seeds_of(1, k))
            if not (np.array_equal(c, expected[k][0]) and np.array_equal(u, expected[k][1])):
                wrong.append(k)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(distribution, bad):
    kernels, v = launcher(2, 3000, 5, distribution, tasks=2), random(2, 3000)
    v[1, 2222] = bad
    c, u = kernels.sketch(v, seeds_of(2))
    assert np.isfinite(c[0]).all() and np.isfinite(u[0]).all()
    assert not np.isfinite(c[1]).any() and not np.isfinite(u[1]).any()
    counter = make_source("counter", 2, 3000, 5, distribution, "unit").project(v, seeds_of(2))
    np.testing.assert_array_equal(np.isnan(c), np.isnan(counter))
    c = np.ones((2, 5), np.float32)
    c[0, 3] = bad
    u = kernels.expand(c, seeds_of(2))
    assert not np.isfinite(u[0]).any() and np.isfinite(u[1]).all()


def test_sums_over_ten_million_entries():
    """In float32 alone, a sum of 1e7 squares would be off by 1e-4 and more."""
    size, seeds = 10_000_000, seeds_of(1)
    ones = np.ones((1, size), np.float32)
    kernels = Launcher(1, size, 1, "bernoulli-0.5", unit=True, scale=1.0)
    z = Launcher(1, size, 1, "bernoulli-0.5", unit=False, scale=1.0).directions(seeds, 0, 1)[0, 0]
    z = z.astype(np.float64)
    norm = np.sqrt(np.dot(z, z))
    np.testing.assert_allclose(kernels.project(ones, seeds)[0, 0], z.sum() / norm, rtol=1e-6)
    unit = kernels.directions(seeds, 0, 1)[0, 0]
    np.testing.assert_allclose(unit[:10], z[:10] / norm, rtol=1e-6)


def test_sums_of_twenty_thousand_directions():
    size, dim, seeds = 50, 20_000, seeds_of(1)
    kernels = Launcher(1, size, dim, "normal", unit=False, scale=1.0, tasks=2)
    P = kernels.directions(seeds, 0, dim)[0].astype(np.float64)
    c = np.abs(random(1, dim))
    close(kernels.expand(c, seeds)[0], P.T @ c[0].astype(np.float64), 3e-6)


def test_inputs_of_any_layout():
    kernels, seeds, v = launcher(2, 100, 3), seeds_of(2), random(2, 100)
    c, u = kernels.sketch(v, seeds)
    frozen = v.copy()
    frozen.setflags(write=False)
    for other in (np.asfortranarray(v), np.repeat(v, 2, axis=1)[:, ::2], frozen):
        np.testing.assert_array_equal(kernels.sketch(other, seeds)[1], u)
