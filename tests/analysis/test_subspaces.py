"""Correlation, orthogonality and statistics, against float64 references and the theory."""

import math

import numpy as np
import pytest
from nets import blobs, dense, flat, gradient
from reference import directions

from rbd_ipu.analysis import (
    Surface,
    coordinates,
    correlation,
    expected_abs_cosine,
    expected_cosine,
    gradient_correlation,
    orthogonality,
    summary,
    weights,
)
from rbd_ipu.compartments import Compartments
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import subspace


@pytest.fixture(scope="module")
def network():
    x, y = blobs(48)
    return dense(seed=4), (x, y)


# --- orthogonality -----------------------------------------------------------------------------------


def test_cosines_are_those_of_the_directions():
    found = orthogonality([7, 50], pairs=4, seed=5)
    for size, row in zip((7, 50), found.cosines):
        for pair in range(4):
            a, b = directions("normal", "unit", fold_in_numpy(5, "pair", pair), size, 2)
            assert row[pair] == pytest.approx(a @ b, abs=1e-5)
    absolute = abs(found.cosines)
    np.testing.assert_allclose(found.mean, absolute.mean(1))
    np.testing.assert_allclose(found.deviation, absolute.std(1, ddof=1))
    assert found.sizes.tolist() == [7, 50] and orthogonality([5], pairs=1).deviation == [0.0]


def test_the_theory_is_the_mean_over_the_sphere():
    # By the density of one coordinate of a random unit vector, (1 - t^2)^((n - 3) / 2), integrated in float64.
    t = np.linspace(0, 1, 200_001)
    for size in (3, 4, 10, 1000):
        density = (1 - t**2) ** ((size - 3) / 2)
        assert expected_abs_cosine(size) == pytest.approx((t * density).sum() / density.sum(), rel=1e-3)
    assert expected_abs_cosine(1) == pytest.approx(1.0) and expected_abs_cosine(2) == pytest.approx(2 / math.pi)
    assert expected_abs_cosine(10**8) == pytest.approx(math.sqrt(2 / (math.pi * 10**8)), rel=1e-5)
    assert round(expected_abs_cosine(10**5), 4) == 0.0025  # and not the 0.02 of Section B.3


@pytest.mark.parametrize("distribution", ["normal", "uniform", "rademacher"])
def test_directions_are_as_orthogonal_as_the_theory_says(distribution):
    found = orthogonality([100, 10_000], pairs=200, distribution=distribution, seed=1)
    # The deviation of |cos| is 0.756 of its mean.
    np.testing.assert_allclose(found.mean, found.theory, rtol=5 * 0.756 / math.sqrt(200))
    np.testing.assert_allclose(found.deviation, 0.756 * found.theory, rtol=0.35)


def test_the_biased_distribution_is_not():
    found = orthogonality([10_000], pairs=20, distribution="bernoulli-0.5")
    assert found.mean[0] == pytest.approx(0.2, abs=0.02)  # (-0.5)^2 / 1.25
    assert found.theory[0] == pytest.approx(0.008, abs=0.0001)


# --- correlation -------------------------------------------------------------------------------------


def pearson(u, v):
    return float(np.corrcoef(u, v)[0, 1])


def test_correlation_is_that_of_the_explicit_projection(network):
    model, batch = network
    g = gradient(model, *batch)
    cuts = [Compartments.of(model.trainable_variables, scheme, d) for scheme, d in (("global", 20), ("layer", 30))]
    subspaces = [subspace(cut, "normal", "unit", "auto") for cut in cuts]
    found = correlation(g, subspaces, repeats=2, seed=3)
    assert found.dims.tolist() == [20, 30] and found.size == 214 and found.pearson.shape == (2, 2)
    for i, each in enumerate(subspaces):
        for step in range(2):
            P = each.directions(3, step).numpy().astype(np.float64)
            u = P.T @ (P @ g)
            assert found.cosine[i, step] == pytest.approx(u @ g / np.linalg.norm(u) / np.linalg.norm(g), abs=1e-5)
            assert found.pearson[i, step] == pytest.approx(pearson(u, g), abs=1e-5)


def test_the_theory_holds_for_many_draws():
    g = np.random.default_rng(0).standard_normal(600)
    for scheme, dim in (("global", 60), ("global", 600), ("even:3", 90)):
        cut = Compartments.of([(600,)], scheme, dim)
        found = correlation(g, [subspace(cut, "normal", "unit", "auto")], repeats=40)
        spread = found.cosine.std() / math.sqrt(40)
        assert found.theory[0] == pytest.approx(found.cosine.mean(), abs=5 * spread + 0.005)
        assert found.theory[0] == pytest.approx(math.sqrt(dim / (dim + 599)), rel=0.2)


def test_orthonormal_directions_reach_the_gradient_and_others_do_not(network):
    model, batch = network
    found = gradient_correlation(model, batch, [40, 214], repeats=20, orthogonalize=True)
    np.testing.assert_allclose(found.theory, np.sqrt(np.array([40, 214]) / 214), rtol=1e-9)
    assert found.cosine.mean(axis=1) == pytest.approx(found.theory, abs=0.05)
    assert found.cosine[1] == pytest.approx(np.ones(20), abs=1e-4)
    free = gradient_correlation(model, batch, [214], repeats=5)
    assert free.theory[0] == pytest.approx(math.sqrt(214 / 427)) and abs(free.cosine - free.theory).max() < 0.1


def test_compartments_count_by_their_share_of_the_gradient():
    # A compartment whose basis is complete and orthonormal gives its share of g back whole.
    cut = Compartments.of([(10,), (90,)], "factor:9", None)
    assert [(piece.size, piece.dim) for piece in cut] == [(10, 10), (90, 10)]
    g = np.concatenate([np.full(10, 3.0), np.full(90, 1.0)])  # |g|^2 = 90 + 90
    assert expected_cosine(g, cut, orthogonal=True) == pytest.approx(math.sqrt(0.5 + 0.5 * 10 / 90))
    along, length = 0.5 + 0.5 / 9, 0.5 * 10 * 19 / 100 + 0.5 * 10 * 99 / 8100
    assert expected_cosine(g, cut) == pytest.approx(along / math.sqrt(length))


def test_sizes_must_agree(network):
    cut = Compartments.of([(30,)], "global", 3)
    with pytest.raises(ValueError, match="must have one size D"):
        correlation(np.ones(31), [subspace(cut, "normal", "unit", "auto")])
    with pytest.raises(ValueError, match="must have one size D"):
        correlation(np.ones(31), [])
    with pytest.raises(ValueError, match="subspace is of size 30, the model has D = 214"):
        coordinates(Surface(*network), subspace(cut, "normal", "unit", "auto"))


# --- coordinates and weights -------------------------------------------------------------------------


def test_coordinates_are_those_of_the_steps(network):
    model, batch = network
    cut = Compartments.of(model.trainable_variables, "layer", 12)
    basis = subspace(cut, "rademacher", "unit", "auto")
    found = coordinates(Surface(model, batch), basis, seed=7, steps=(0, 5))
    g = gradient(model, *batch)
    for row, step in zip(found, (0, 5)):
        P = basis.directions(7, step).numpy().astype(np.float64)
        np.testing.assert_allclose(row, P @ g, rtol=1e-3, atol=1e-5)


def test_the_summary_is_that_of_numpy():
    x = np.random.default_rng(0).exponential(size=(4, 500))
    found, z = summary(x), (x - x.mean()) / x.std()
    assert found.size == 2000 and found.mean == x.mean() and found.deviation == x.std()
    assert (found.least, found.greatest) == (x.min(), x.max())
    assert found.norm == pytest.approx(math.sqrt((x**2).sum()))
    assert found.skewness == pytest.approx((z**3).mean()) and found.kurtosis == pytest.approx((z**4).mean() - 3)
    assert 1.5 < found.skewness < 2.5 and 3 < found.kurtosis < 10  # 2 and 6 in the limit
    assert summary([2.0, 2.0])[6:] == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least one number"):
        summary([])


def test_weights_by_variable_and_together(network):
    model, _ = network
    found, values = weights(model), [v.numpy() for v in model.trainable_variables]
    assert len(found) == 5 and list(found)[-1] == "all" and found["all"].size == 214
    kernel = next(name for name in found if name.endswith("kernel"))
    np.testing.assert_allclose(found[kernel].norm, np.linalg.norm(values[0].astype(np.float64)), rtol=1e-12)
    np.testing.assert_allclose(found["all"].norm, np.linalg.norm(flat(model)), rtol=1e-12)
    moved = weights(model, since=[value - 0.5 for value in values])
    assert moved["all"].mean == pytest.approx(0.5, rel=1e-6) and moved["all"].deviation < 1e-6
    assert weights(model, since=values)["all"].norm == 0.0
    with pytest.raises(ValueError, match="since must be arrays of the shapes"):
        weights(model, since=values[:-1])
