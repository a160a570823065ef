"""One update is the one of the paper: c = P^T g and P c in float64, with the directions that were drawn."""

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.subspace import Subspace

pytestmark = pytest.mark.ipu

SHAPES = [(64, 32), (32,), (32, 10), (10,)]
SEED = np.array([1, 2], np.int32)
CASES = [
    ("normal", "global", 24),
    ("normal", "even:4", 24),
    ("normal", "layer", 24),
    ("normal", "variable", 24),
    ("normal", "factor:100", None),
    ("uniform", "global", 24),
    ("rademacher", "global", 24),
    ("bernoulli-0.5", "global", 24),
    ("hadamard", "global", 24),
    ("sparse", "global", 24),
]


@pytest.mark.parametrize(("distribution", "scheme", "dim"), CASES)
def test_one_update_is_the_reference(on_device, distribution, scheme, dim):
    """project, expand and filter of a subspace, against a dense product in float64 with directions() as P."""
    space = Subspace(Compartments.of(SHAPES, scheme, dim), distribution, source="poprand")
    g = np.random.default_rng(0).standard_normal(space.size).astype(np.float32)

    def run(seed, step, g):
        c = space.project(g, seed, step)
        return space.directions(seed, step), c, space.expand(c, seed, step), space.filter(g, seed, step)

    P, c, expanded, filtered = on_device(run, SEED, np.int32(17), g)
    P = P.astype(np.float64)
    wanted_c = P @ g
    wanted = P.T @ wanted_c
    for found, right in ((c, wanted_c), (expanded, wanted), (filtered, wanted)):
        assert np.linalg.norm(found - right) < 1e-4 * np.linalg.norm(right)


def test_the_next_step_has_other_directions(on_device):
    """The seed follows the step: the bases of steps 17 and 18 are two."""
    space = Subspace(Compartments.of(SHAPES, "global", 8), source="poprand")

    def run(seed, step):
        return tf.stack([space.directions(seed, step), space.directions(seed, step + 1)])

    first, second = on_device(run, SEED, np.int32(17)).astype(np.float64)
    assert np.abs(first @ second.T).max() < 6 / np.sqrt(space.size)
