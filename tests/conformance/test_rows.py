"""Every registry row, through the same public door: a row that is added is tested here at once."""

import numpy as np
import pytest
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu.compartments import SCHEMES
from rbd_ipu.directions import DISTRIBUTIONS, SOURCES, STRUCTURED
from rbd_ipu.methods import METHODS
from rbd_ipu.methods.base import INNER
from rbd_ipu.methods.gradients import WHICH
from rbd_ipu.methods.rbd_options import TRANSFORMS
from rbd_ipu.optimizers import OPTIMIZERS
from rbd_ipu.parallel.wire import VALUES

SCHEME_ARGUMENTS = {"even:K": "even:2", "factor:f": "factor:8"}
DIM = 16
METHOD_ARGUMENTS = {
    "sgd": {},
    "compressed": {},
    "nes": {"dim": 3},
    "switch": {"dim": DIM, "sgd_learning_rate": 0.25, "switch_step": 2},
}


def trained(name, **options):
    x, y = blobs(96)
    options = {**METHOD_ARGUMENTS.get(name, {"dim": DIM}), **options}
    t = rbd_ipu.Trainer(dense(), methods.create(name, **{"learning_rate": 0.5, **options}), "cpu")
    history = t.fit((x, y), epochs=1, verbose=0).history
    moved = flat(t.model) - flat(dense())
    assert np.isfinite(moved).all() and np.abs(moved).max() > 0
    assert np.isfinite(history["loss"]).all() and -1 <= history["correlation"][0] <= 1
    return moved


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    trained(name)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform):
    trained("rbd", transform=transform)


@pytest.mark.parametrize("gradients", WHICH)
def test_choices_of_gradients(gradients):
    trained("gradients", dim=2, gradients=gradients)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distributions(distribution):
    trained("rbd", distribution=distribution)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compartment_schemes(scheme):
    scheme = SCHEME_ARGUMENTS.get(scheme, scheme)
    trained("rbd", compartments=scheme, dim=None if scheme.startswith("factor") else DIM)


@pytest.mark.parametrize("wire", VALUES)
def test_wires_of_compressed_coordinates(wire):
    trained("compressed", fraction=0.1, bits=wire, learning_rate=2.0**-6)


@pytest.mark.parametrize("inner", INNER)
def test_inner_optimizers(inner):
    trained("compressed", fraction=0.1, inner=inner, learning_rate=2.0**-6)


@pytest.mark.parametrize("distribution", [name for name in STRUCTURED if name != "blocks"])
def test_structured_distributions(distribution):
    trained("rbd", distribution=distribution)


@pytest.mark.parametrize("source", ["auto", *SOURCES])
def test_sources(source):
    basis = rbd_ipu.RandomBasis(50, 4, source=source)
    assert basis.source in SOURCES
    P = basis.directions(1).numpy().astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1.0, rtol=1e-5)
    c, u = basis.sketch(P[0].astype(np.float32), 1)
    np.testing.assert_allclose(c, P @ P[0], atol=1e-5)
    np.testing.assert_allclose(u, P.T @ (P @ P[0]), atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_configurations(name):
    make = OPTIMIZERS.get(name)
    config = make(0.1, dim=3).get_config()
    assert make.from_config(config).get_config() == config


def test_the_public_names_are_there():
    for name in rbd_ipu.__all__:
        assert getattr(rbd_ipu, name) is not None
    assert set(rbd_ipu.__all__) <= set(dir(rbd_ipu))
    with pytest.raises(AttributeError, match="has no attribute 'RandomBase'; it has"):
        rbd_ipu.RandomBase  # noqa: B018
