"""Hadamard bases of several workers: parts of one matrix, against the float64 reference."""

import numpy as np
import pytest
from hadamard_reference import SOURCES, reference_directions
from reference import close

from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions.hadamard import in_ranks
from rbd_ipu.directions.stream import DISTRIBUTIONS
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import Subspace

SEED, STEP = 5, 3


def space(size, dim, source="counter", scheme="global"):
    return Subspace(Compartments.of([size], scheme, dim), "hadamard", "unit", source)


def reference(size, dim, worker):
    """Directions of a worker, float64 [dim, size]: the ranks from worker * dim on of worker 0's order."""
    seed = fold_in_numpy(SEED, "step", STEP, "worker", 0, "compartment", 0)
    return reference_directions(seed, size, dim, worker * dim) / np.sqrt(size)


# Ranks that begin in the middle of a row of the permutation's grid, wrap around, and are nearly all there are.
SIZES = [
    (17, 20),
    (330, 200),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (330, 11), (5000, 7))),
]


@pytest.mark.parametrize("size, dim", SIZES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_method_sees_the_rows_of_a_worker(source, size, dim):
    here = space(size, dim, source)
    g = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for worker in (0, 1, 5):
        P, key = reference(size, dim, worker), (SEED, tf.constant(STEP), tf.constant(worker))
        c = P @ g.astype(np.float64)
        np.testing.assert_allclose(here.directions(*key), P, rtol=1e-6)
        close(here.project(g, *key), c, 2e-6)
        close(here.expand(c.astype(np.float32), *key), P.T @ c, 2e-6)
        close(here.filter(g, *key), P.T @ c, 2e-6)
        for result, expected in zip(here.sketch(g, *key), (c, P.T @ c)):
            close(result, expected, 2e-6)


@pytest.mark.parametrize("scheme, size, dim, workers", [("global", 330, 11, 4), ("even:2", 330, 200, 5)])
@pytest.mark.parametrize("source", SOURCES)
def test_one_transform_makes_the_updates_of_all_workers(source, scheme, size, dim, workers):
    here = space(size, dim, source, scheme)
    messages = np.random.default_rng(1).standard_normal((workers, dim)).astype(np.float32)
    update = sum(
        here.directions(SEED, STEP, k).numpy().T.astype(np.float64) @ messages[k].astype(np.float64)
        for k in range(workers)
    )
    close(here.join(messages, SEED, STEP), update, 2e-6)


def test_directions_of_different_workers_are_orthogonal():
    here = space(1024, 100)
    P = np.concatenate([here.directions(SEED, STEP, k).numpy() for k in range(10)]).astype(np.float64)
    np.testing.assert_allclose(P @ P.T, np.eye(1000), atol=1e-6)


@pytest.mark.parametrize("workers", [4, 8])
def test_workers_with_all_rows_between_them_give_the_gradient_back(workers):
    """K d = N, or twice that: the sum of the workers' projections is the gradient, or twice that."""
    here = space(1024, 256)
    g = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    messages = tf.stack([here.project(g, SEED, STEP, k) for k in range(workers)])
    close(here.join(messages, SEED, STEP), workers / 4 * g.astype(np.float64), 2e-6)


def test_steps_still_differ_for_every_worker():
    here = space(1000, 4)
    drawn = [here.directions(SEED, step, worker).numpy() for step in (0, 1) for worker in (0, 1)]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert np.abs(one - other).max() > 0


def test_coordinates_of_one_rank_are_added_up():
    messages = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(in_ranks(tf.constant(messages), 12), messages.reshape(1, 12))
    np.testing.assert_array_equal(in_ranks(tf.constant(messages), 20), messages.reshape(1, 12))
    sums = [[1 + 6 + 11, 2 + 7 + 12, 3 + 8, 4 + 9, 5 + 10]]
    np.testing.assert_array_equal(in_ranks(tf.constant(messages), 5), sums)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.names())
def test_other_distributions_are_joined_worker_by_worker(distribution):
    here = Subspace(Compartments.of([90], "even:2", 6), distribution, "unit", "counter")
    messages = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    update = sum(here.directions(SEED, STEP, k).numpy().T.astype(np.float64) @ messages[k] for k in range(3))
    close(here.join(messages, SEED, STEP), update, 2e-6)
