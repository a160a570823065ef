"""Memory: the blocks that the configuration allows do fit, for the paper's networks and dimensions."""

import numpy as np
import pytest

from rbd_ipu import models
from rbd_ipu.compartments import Compartments
from rbd_ipu.step import flatten
from rbd_ipu.subspace import Subspace

pytestmark = pytest.mark.ipu

# Parameters and d of the paper: Tables 1 and 3, Figure B.7.
SIZES = [(101_770, 250), (394_634, 250), (122_570, 10_000), (467_194, 1000)]


@pytest.mark.parametrize(("size", "dim"), SIZES)
@pytest.mark.parametrize("distribution", ["normal", "hadamard"])
def test_a_block_of_directions_fits(on_device, device, description, measured, size, dim, distribution):
    """The largest block that the configuration allows is drawn and multiplied on both sides, and the result is right.

    The trace of P P^T over n tells it: <v, P P^T v> / |v|^2 is d / n up to the deviation of d directions.
    """
    with device:
        space = Subspace(Compartments.of([(size,)], "global", dim), distribution, source="auto")
    v = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    u = on_device(lambda seed, v: space.filter(v, seed), np.array([1, 2], np.int32), v).astype(np.float64)
    share = float(u @ v / (v.astype(np.float64) @ v))
    assert abs(share * size / dim - 1) < 6 / np.sqrt(dim)
    measured[f"{distribution} D={size} d={dim}"] = {"fits": True, "rows": description.block_rows(size, dim)}


NETWORKS = [("fc", (28, 28, 1)), ("cnn", (32, 32, 3)), ("resnet8", (32, 32, 3)), ("resnet32", (32, 32, 3))]


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_a_network_fits_with_its_basis(on_device, device, network, shape):
    """The forward pass of 32 images and one projection of its parameters, in one program."""
    from rbd_ipu._compat import tf

    with device:
        model = models.build(network, shape, seed=0)
        space = Subspace(Compartments.of(model.trainable_variables, "global", 250), source="auto")
    x = np.random.default_rng(0).random((32, *shape), np.float32)

    def run(seed, x):
        return tf.reduce_sum(model(x, training=False)), space.filter(flatten(model.trainable_variables), seed)

    total, update = on_device(run, np.array([1, 2], np.int32), x)
    assert np.isfinite(total) and np.isfinite(update).all() and np.abs(update).max() > 0
