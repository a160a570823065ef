"""The loss surface, landscape and curvature, against the same network in float64."""

import numpy as np
import pytest
from nets import blobs, dense, flat

from rbd_ipu import RandomBasis, models
from rbd_ipu._compat import KERAS_3, keras
from rbd_ipu.analysis import (
    Surface,
    curvature,
    curvature_by_differences,
    expected_abs_cosine,
    landscape,
    random_landscape,
    subspace_hessian,
)

DISPLACEMENTS = np.linspace(-0.5, 0.5, 5)


# --- the network of nets.dense in float64: loss and gradient from formulas, the Hessian from gradients ---

SHAPES = [(6, 12), (12,), (12, 10), (10,)]


def split(theta):
    pieces, start = [], 0
    for shape in SHAPES:
        size = int(np.prod(shape))
        pieces.append(theta[start : start + size].reshape(shape))
        start += size
    return pieces


def loss_and_gradient(theta, x, y):
    """Softmax cross entropy, mean over the batch, and its gradient [D]."""
    w1, b1, w2, b2 = split(np.asarray(theta, np.float64))
    x = np.asarray(x, np.float64)
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2 + b2
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    n = np.arange(len(y))
    loss = -np.log(p[n, y]).mean()
    p[n, y] -= 1
    p /= len(y)
    back = (p @ w2.T) * (before > 0)
    return loss, np.concatenate([(x.T @ back).ravel(), back.sum(0), (hidden.T @ p).ravel(), p.sum(0)])


def loss(theta, x, y):
    return loss_and_gradient(theta, x, y)[0]


def gradient(theta, x, y):
    return loss_and_gradient(theta, x, y)[1]


def dense_hessian(theta, x, y, step=1e-6):
    """By central differences of the float64 gradient; exact to about 1e-8 away from the kinks of the ReLUs."""
    theta, columns = np.asarray(theta, np.float64), []
    for unit in np.eye(len(theta)):
        columns.append((gradient(theta + step * unit, x, y) - gradient(theta - step * unit, x, y)) / (2 * step))
    return np.array(columns)


# --- the surface -------------------------------------------------------------------------------------


class Case:
    """A network somewhere on its way, a batch, five directions of norm 1."""

    def __init__(self):
        self.x, self.y = blobs(48)
        self.model = dense(seed=4)
        self.surface = Surface(self.model, (self.x, self.y))
        self.theta = flat(self.model)
        rng = np.random.default_rng(3)
        phi = rng.standard_normal((5, 214))
        self.phi = (phi / np.linalg.norm(phi, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def hessian(case):
    return dense_hessian(case.theta, case.x, case.y)


def test_loss_and_gradient(case):
    expected = [loss(case.theta + a * case.phi[0], case.x, case.y) for a in DISPLACEMENTS]
    np.testing.assert_allclose(case.surface.along(case.phi[0], DISPLACEMENTS), expected, rtol=1e-5)
    np.testing.assert_allclose(case.surface.theta, case.theta)
    g = gradient(case.theta, case.x, case.y)
    np.testing.assert_allclose(case.surface.gradient(), g, rtol=1e-4, atol=1e-6)
    moved = gradient(case.theta + case.phi[1], case.x, case.y)
    np.testing.assert_allclose(case.surface.gradient(case.phi[1]), moved, rtol=1e-4, atol=1e-6)


def test_the_landscape_is_the_loss_along_every_direction(case):
    found = landscape(case.surface, case.phi, DISPLACEMENTS)
    expected = np.array([[loss(case.theta + a * phi, case.x, case.y) for a in DISPLACEMENTS] for phi in case.phi])
    slopes = case.phi @ gradient(case.theta, case.x, case.y)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, expected.std(0, ddof=1), rtol=1e-3, atol=1e-5)
    assert (slopes > 0).any() and (slopes < 0).any()
    down = found.downhill()
    turned = np.where(slopes[:, None] > 0, -case.phi, case.phi)
    expected = [[loss(case.theta + a * phi, case.x, case.y) for a in DISPLACEMENTS] for phi in turned]
    np.testing.assert_allclose(down.losses, expected, rtol=1e-5)
    np.testing.assert_allclose(down.slopes, -abs(slopes), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="symmetric about 0"):
        landscape(case.surface, case.phi[:1], [0.0, 0.1]).downhill()
    assert landscape(case.surface, case.phi[:1], [0.0]).deviation == [0.0]


def test_random_directions_are_those_of_the_basis(case):
    found = random_landscape(case.model, (case.x, case.y), [-0.25, 0.25], "uniform", count=4, seed=9)
    phi = RandomBasis(214, 4, "uniform").directions(9).numpy()
    np.testing.assert_allclose(found.losses, landscape(case.surface, phi, [-0.25, 0.25]).losses, rtol=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "rademacher"])
def test_slopes_are_alike_for_every_distribution_of_zero_mean(case, distribution):
    # Against the claim of the paper that they differ: E |<g, phi>| = |g| E |cos|.
    phi = RandomBasis(214, 1000, distribution).directions(1).numpy().astype(np.float64)
    g = gradient(case.theta, case.x, case.y)
    mean = np.abs(phi @ g).mean() / np.linalg.norm(g)
    assert mean == pytest.approx(expected_abs_cosine(214), rel=5 * 0.76 / np.sqrt(1000))  # 0.76: deviation by mean


def test_hessian_products(case, hessian):
    found = curvature(case.surface, case.phi)
    products = case.phi @ hessian
    np.testing.assert_allclose(case.surface.hessian_product(case.phi[0]), products[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.curvatures, np.einsum("ij,ij->i", products, case.phi), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.norms, np.linalg.norm(products, axis=1), rtol=1e-3)
    np.testing.assert_allclose(found.slopes, case.phi @ gradient(case.theta, case.x, case.y), rtol=1e-3, atol=1e-5)


def test_the_hessian_of_the_subspace(case, hessian):
    found = subspace_hessian(case.surface, case.phi)
    np.testing.assert_allclose(found, case.phi @ hessian @ case.phi.T, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found, found.T)


def test_differences_agree_where_no_unit_switches(case, hessian):
    phi = case.phi.copy()
    phi[:, : 6 * 12 + 12] = 0  # the last layer only: no ReLU follows
    exact, differences = curvature(case.surface, phi), curvature_by_differences(case.surface, phi)
    assert (exact.curvatures > 1e-3).all()
    np.testing.assert_allclose(exact.curvatures, np.einsum("ij,jk,ik->i", phi, hessian, phi), rtol=1e-3)
    np.testing.assert_allclose(differences.curvatures, exact.curvatures, rtol=5e-3)
    np.testing.assert_allclose(differences.norms, exact.norms, rtol=5e-2)


@pytest.fixture(scope="module")
def smooth():
    """A convolution with batch norm and no kinks, a batch, four directions."""
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    model = keras.Sequential(
        [
            layers.InputLayer((6, 6, 1)),
            layers.Conv2D(4, 3, kernel_initializer=glorot(1)),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(3, kernel_initializer=glorot(2)),
        ]
    )
    batch = np.random.default_rng(0).standard_normal((16, 6, 6, 1)), np.arange(16) % 3
    return model, batch, RandomBasis(model.count_params() - 8, 4).directions(0).numpy()


def agree(surface, phi):
    exact, differences = curvature(surface, phi), curvature_by_differences(surface, phi)
    np.testing.assert_allclose(differences.norms, exact.norms, rtol=1e-3)
    np.testing.assert_allclose(differences.curvatures, exact.curvatures, atol=1e-3 * exact.norms.max())
    np.testing.assert_allclose(differences.slopes, exact.slopes)


def test_differences_agree_on_a_smooth_network(smooth):
    model, batch, phi = smooth
    agree(Surface(model, batch, training=False), phi)


def test_second_derivatives_through_batch_norm_are_right_or_refused(smooth):
    model, batch, phi = smooth
    if not KERAS_3:
        return agree(Surface(model, batch), phi)
    with pytest.raises(
        ValueError, match="gradients are stopped at .*use curvature_by_differences, or training=False"
    ):
        curvature(Surface(model, batch), phi)
    return None


@pytest.mark.parametrize("name", ["resnet8", "cnn"])
def test_the_hessian_of_the_paper_s_networks_is_symmetric(name):
    model, rng = models.build(name, (18, 18, 1), seed=2), np.random.default_rng(0)
    surface = Surface(model, (rng.standard_normal((8, 18, 18, 1)), np.arange(8)), training=False)
    phi = RandomBasis(surface.size, 2).directions(0).numpy().astype(np.float64)
    first, second = (surface.hessian_product(each).astype(np.float64) for each in phi)
    scale = np.linalg.norm(first) / np.sqrt(surface.size)
    assert phi[1] @ first == pytest.approx(phi[0] @ second, abs=1e-2 * scale)
    assert abs(phi[1] @ first) > 0.03 * scale


def test_every_variable_is_left_as_it_was_and_training_decides_on_batch_norm():
    model, rng = models.build("resnet8", (8, 8, 1), seed=2), np.random.default_rng(0)
    batch = rng.standard_normal((16, 8, 8, 1)).astype(np.float32), np.arange(16) % 10
    before = [v.numpy() for v in model.variables]
    surface, still = Surface(model, batch), Surface(model, batch, training=False)
    phi = RandomBasis(surface.size, 1).directions(0).numpy()[0]
    here, there = surface.along(phi, [0.0, 1.0])[0], still.along(phi, [0.0])[0]
    surface.gradient(phi)
    still.hessian_product(phi)
    for value, variable in zip(before, model.variables):
        np.testing.assert_array_equal(value, variable.numpy())
    mean_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert there == pytest.approx(float(mean_loss(batch[1], model(batch[0], training=False))), rel=1e-5)
    assert here == pytest.approx(float(mean_loss(batch[1], model(batch[0], training=True))), rel=1e-5)
    assert here != pytest.approx(there, rel=1e-3)


def test_a_loss_of_one_s_own_and_regularisers_count():
    model = keras.Sequential(
        [
            keras.layers.InputLayer((3,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=_l2),
        ]
    )
    x, y = np.eye(3, dtype=np.float32), np.array([[2.0], [0.0], [5.0]], np.float32)
    surface = Surface(model, (x, y), loss=keras.losses.MeanSquaredError())
    w = np.ones(3)
    expected = ((w - y[:, 0]) ** 2).mean() + 0.5 * (w**2).sum()
    assert surface.along(w, [0.0])[0] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(surface.gradient(), 2 * (w - y[:, 0]) / 3 + w, rtol=1e-5)
    np.testing.assert_allclose(surface.hessian_product([1.0, 2.0, 3.0]), (2 / 3 + 1) * np.array([1, 2, 3]), rtol=1e-5)


def _l2(weights):
    return 0.5 * keras.backend.sum(weights**2) if hasattr(keras.backend, "sum") else 0.5 * keras.ops.sum(weights**2)


def test_what_does_not_fit_is_refused(case):
    with pytest.raises(ValueError, match="direction must be a vector of D = 214 numbers, got shape .3."):
        case.surface.along(np.ones(3), [0.0])
    with pytest.raises(ValueError, match="offset must be a vector of D = 214"):
        case.surface.gradient(np.ones((214, 1)))
    for wrong in (np.ones(214), np.ones((2, 213)), np.ones((0, 214))):
        with pytest.raises(ValueError, match=r"directions must be rows \[d, 214\]"):
            curvature(case.surface, wrong)
    for wrong in ([], [np.nan], 0.5):
        with pytest.raises(ValueError, match="displacements must be finite numbers"):
            landscape(case.surface, case.phi, wrong)
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="step must be"):
            curvature_by_differences(case.surface, case.phi, wrong)
