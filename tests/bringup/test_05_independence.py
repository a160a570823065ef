"""Directions that should have nothing to do with each other do not: blocks, steps, compartments, workers.

Two random unit vectors of length n have a cosine of standard deviation 1 / sqrt(n). The generator is linear, and
streams whose seeds are related would show here.
"""

import numpy as np
import pytest

from rbd_ipu import fold_in
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import make_source
from rbd_ipu.subspace import Subspace

pytestmark = pytest.mark.ipu

SIZE, DIM, ROWS = 4096, 48, 16
SEED = np.array([1, 2], np.int32)


def cosines(P):
    """Cosines of all pairs of rows, as a vector."""
    P = np.asarray(P, np.float64)
    P = P / np.linalg.norm(P, axis=1, keepdims=True)
    return (P @ P.T)[np.triu_indices(len(P), 1)]


def assert_unrelated(P, size):
    found = cosines(P)
    assert np.abs(found).max() < 6 / np.sqrt(size)
    assert abs(found.std() * np.sqrt(size) - 1) < 0.2
    assert abs(found.mean()) < 5 / np.sqrt(size * len(found))


def test_blocks_of_a_basis_are_not_related(on_device):
    """The 48 directions of three blocks, each with its hashed seed, are as orthogonal as random ones."""
    source = make_source("poprand", 1, SIZE, DIM, "normal", "unit", ROWS)
    P = on_device(lambda seed: source.directions(seed[tf.newaxis], 0, DIM)[0], SEED)
    assert_unrelated(P, SIZE)


def test_steps_are_not_related(on_device):
    """The bases of 24 steps in a row, two directions each."""
    source = make_source("poprand", 24, SIZE, 2, "normal", "unit", 2)

    def run(seed):
        return source.directions(fold_in(seed, "step", tf.range(24)), 0, 2)

    assert_unrelated(on_device(run, SEED).reshape(-1, SIZE), SIZE)


def test_workers_are_not_related(on_device):
    """The bases of 24 workers at one step, and of one worker at 24 steps: no two have a direction in common."""
    source = make_source("poprand", 24, SIZE, 2, "normal", "unit", 2)

    def run(seed):
        workers = fold_in(fold_in(seed, "step", 0), "worker", tf.range(24))
        return source.directions(workers, 0, 2)

    assert_unrelated(on_device(run, SEED).reshape(-1, SIZE), SIZE)


def test_compartments_are_not_related(on_device):
    """Compartments of one size, and of different sizes over the part that they share, which one seed would relate."""
    cut = Compartments.of([(SIZE,), (SIZE,), (SIZE // 2,)], "variable", 24)
    space = Subspace(cut, source="poprand")
    P = on_device(lambda seed: space.directions(seed, 0, 0), SEED)
    pieces = [P[8 * k : 8 * (k + 1), piece.start : piece.start + SIZE // 2] for k, piece in enumerate(cut)]
    assert_unrelated(np.concatenate(pieces), SIZE // 2)


def test_replicas_are_not_related(on_device, device, several):
    """Each replica draws the basis of its own index, and gathering gives all of them in order to everybody."""
    source = make_source("poprand", 1, SIZE, 4, "normal", "unit", 4)

    def run(seed):
        own = fold_in(seed, "worker", device.exchange.worker())
        return device.exchange.gather(tf.reshape(source.directions(own[tf.newaxis], 0, 4), [-1]))

    P = on_device(run, SEED).reshape(-1, SIZE)
    assert len(P) == 4 * several
    assert_unrelated(P, SIZE)
