"""RandomBasis against explicit float64 matrices, for all distributions, normalisations and odd shapes."""

import numpy as np
import pytest
from reference import close
from reference import directions as reference_directions

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.basis import NORMALIZATIONS
from rbd_ipu.directions import DISTRIBUTIONS
from rbd_ipu.seeds import fold_in_numpy

EVERY = [(distribution, normalize) for distribution in DISTRIBUTIONS for normalize in NORMALIZATIONS]


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size, dim", [(1, 1), (1, 2), (2, 2), (17, 1), (17, 250), (5000, 7)])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_directions_are_those_of_the_definition(distribution, size, dim):
    """Held to code that shares nothing with the package; the normal to float32 rounding, the others exactly."""
    basis = rbd_ipu.RandomBasis(size, dim, distribution, "none")
    expected = reference_directions(distribution, "none", fold_in_numpy(11), size, dim)
    tolerance = {"rtol": 2e-6, "atol": 2e-6} if distribution == "normal" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(basis.directions(11), expected, **tolerance)


@pytest.mark.parametrize("dim", [1, 2, 250])
@pytest.mark.parametrize("size", [1, 2, 17])
@pytest.mark.parametrize("distribution, normalize", EVERY)
def test_sketch_is_the_explicit_projection(distribution, normalize, size, dim):
    _hold_to_matrix(rbd_ipu.RandomBasis(size, dim, distribution, normalize), seed=size + dim)


@pytest.mark.parametrize("dim", [1, 2, 40])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_sketch_in_the_space_of_the_cifar_cnn(distribution, dim):
    _hold_to_matrix(rbd_ipu.RandomBasis(122_570, dim, distribution), seed=dim)


@pytest.mark.slow
def test_the_dimension_of_the_paper():
    _hold_to_matrix(rbd_ipu.RandomBasis(122_570, 250), seed=3)


def _hold_to_matrix(basis, seed):
    g = vector(basis.size)
    P = basis.directions(seed).numpy().astype(np.float64)  # [d, n]
    assert P.shape == (basis.dim, basis.size)
    c = P @ g.astype(np.float64)
    u = P.T @ c
    coordinates, update = basis.sketch(g, seed)
    # Near-orthogonal vectors cancel: errors are relative to what is summed, |g| and |P^T c|.
    atol = 1e-5 * np.linalg.norm(g) / np.sqrt(basis.size)
    np.testing.assert_allclose(coordinates, c, rtol=1e-5, atol=atol * np.linalg.norm(P, axis=1).max())
    close(update, u)
    close(basis.project(g, seed), c)
    close(basis.expand(c.astype(np.float32), seed), u)


@pytest.mark.parametrize("block", [1, 3, 10, 64])
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_the_block_size_changes_nothing_but_rounding(distribution, block):
    g, seed = vector(500), 9
    one = rbd_ipu.RandomBasis(500, 10, distribution).sketch(g, seed)
    other = rbd_ipu.RandomBasis(500, 10, distribution, block=block).sketch(g, seed)
    close(other[0], one[0], 2e-6)
    close(other[1], one[1], 2e-6)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_eager_graph_and_xla_draw_the_same_numbers(distribution):
    """The seed is an argument: a constant would be folded while tracing, by other code than runs later."""
    basis = rbd_ipu.RandomBasis(3000, 5, distribution, "none")

    def draw(seed):
        return basis.directions(seed)

    seed = rbd_ipu.fold_in(4, "step", 2)
    eager = draw(seed).numpy()
    for jit in (False, True):
        traced = tf.function(draw, jit_compile=jit)(seed).numpy()
        if distribution == "normal":  # a fused multiply-add rounds once where two operations round twice
            np.testing.assert_allclose(traced, eager, rtol=2e-6, atol=2e-6)
        else:
            np.testing.assert_array_equal(traced, eager)


# Entries 0 ... 3 of direction 3 of seed 7. They must never change: published numbers depend on them.
GOLDEN = {
    "normal": [1.5715626, -1.1430987, -0.79690892, 0.95895928],
    "uniform": [0.11605614, -0.74701852, -0.57447737, 0.3375302],
    "rademacher": [-1.0, -1.0, 1.0, 1.0],
    "bernoulli-0.5": [-1.5, -1.5, 0.5, 0.5],
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_stream_never_changes(distribution):
    drawn = rbd_ipu.RandomBasis(4, 4, distribution, "none").directions(7)[3]
    np.testing.assert_allclose(drawn, GOLDEN[distribution], rtol=2e-6)


def test_directions_start_and_count():
    basis = rbd_ipu.RandomBasis(33, 12)
    whole = basis.directions(5).numpy()
    np.testing.assert_allclose(basis.directions(5, 4), whole[4:], rtol=1e-6)  # norms round with the shape
    np.testing.assert_allclose(basis.directions(5, start=4, count=3), whole[4:7], rtol=1e-6)
    for start, count in [(-1, 2), (0, 13), (12, 1), (0, 0)]:
        with pytest.raises(ValueError, match="but the basis has 0 to 12"):
            basis.directions(5, start, count)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_norms(distribution):
    size = 4000
    unit = rbd_ipu.RandomBasis(size, 50, distribution, "unit").directions(1).numpy()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, rtol=1e-5)
    expected = rbd_ipu.RandomBasis(size, 50, distribution, "expected").directions(1).numpy()
    mean_square = np.mean(np.sum(expected.astype(np.float64) ** 2, axis=1))
    assert abs(mean_square - 1.0) < 4 * np.sqrt(2 / (50 * size))
    raw = rbd_ipu.RandomBasis(size, 50, distribution, "none").directions(1).numpy()
    second_moment = DISTRIBUTIONS.get(distribution).second_moment
    np.testing.assert_allclose(raw / np.sqrt(size * second_moment), expected, rtol=1e-5)


def test_seeds_decide():
    basis = rbd_ipu.RandomBasis(100, 4)
    one = basis.directions(1).numpy()
    np.testing.assert_array_equal(one, basis.directions(1))
    np.testing.assert_array_equal(one, basis.directions(rbd_ipu.fold_in(1)))
    np.testing.assert_allclose(one, rbd_ipu.RandomBasis(100, 9).directions(1)[:4], rtol=1e-6)
    assert np.abs(one - basis.directions(2).numpy()).min() > 0


def test_expand_is_differentiable_and_regenerates():
    """L(theta + P c) at c = 0 has the gradient P^T grad L: Section 3.1 of the paper."""
    basis, seed = rbd_ipu.RandomBasis(60, 8), 3
    P = basis.directions(seed).numpy().astype(np.float64)
    theta = tf.constant(vector(60))
    c = tf.Variable(tf.zeros(8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(theta + basis.expand(c, seed)))
    close(tape.gradient(loss, c), P @ np.cos(theta.numpy().astype(np.float64)), 2e-6)


def test_project_and_sketch_are_differentiable_too():
    basis, seed = rbd_ipu.RandomBasis(60, 8), 3
    P = basis.directions(seed).numpy().astype(np.float64)
    v, a, b = tf.Variable(vector(60)), vector(8, 1), vector(60, 2)
    with tf.GradientTape(persistent=True) as tape:
        coordinates, update = basis.sketch(v, seed)
        first = tf.reduce_sum(basis.project(v, seed) * a)
        second = tf.reduce_sum(coordinates * a) + tf.reduce_sum(update * b)
    close(tape.gradient(first, v), P.T @ a, 2e-6)
    close(tape.gradient(second, v), P.T @ a + P.T @ (P @ b), 2e-6)


def test_in_a_graph_and_under_xla():
    basis = rbd_ipu.RandomBasis(200, 6)
    g, seed = tf.constant(vector(200)), rbd_ipu.fold_in(8)
    eager = basis.sketch(g, seed)
    for jit in (False, True):
        c, u = tf.function(lambda g, s: basis.sketch(g, s), jit_compile=jit, autograph=False)(g, seed)
        assert c.shape == [6] and u.shape == [200]
        close(c, eager[0], 2e-6)
        close(u, eager[1], 2e-6)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 1), ValueError, "size must be an integer >= 1, got 0"),
        ((10, 0), ValueError, "dim must be an integer >= 1, got 0"),
        ((10, -5), ValueError, "dim must be an integer >= 1, got -5"),
        ((10, 2.5), TypeError, "dim must be an integer >= 1, got 2.5"),
        ((10, "4"), TypeError, "dim must be an integer >= 1, got '4'"),
        ((10, None), TypeError, "dim must be an integer >= 1, got None"),
        ((10, True), TypeError, "dim must be an integer >= 1, got True"),
        ((10, 2, "gaussian"), ValueError, "unknown distribution 'gaussian'; accepted: 'normal', 'uniform'"),
        ((10, 2, None), ValueError, "unknown distribution None"),
        ((10, 2, "normal", "l2"), ValueError, "unknown normalize 'l2'; accepted: 'unit', 'expected', 'none'"),
        ((10, 2, "normal", "unit", "philox"), ValueError, "unknown source 'philox'; accepted: 'auto', 'counter'"),
        ((10, 2, "normal", "unit", "auto", 0), ValueError, "block must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_quoted(arguments, error, message):
    with pytest.raises(error, match=message):
        rbd_ipu.RandomBasis(*arguments)


def test_shapes_are_checked():
    basis = rbd_ipu.RandomBasis(10, 2)
    with pytest.raises(ValueError, match=r"vector must have shape \[10\], got \[9\]"):
        basis.project(np.zeros(9), 0)
    with pytest.raises(ValueError, match=r"vector must have shape \[10\], got \[10, 1\]"):
        basis.sketch(np.zeros((10, 1)), 0)
    with pytest.raises(ValueError, match=r"coordinates must have shape \[2\], got \[3\]"):
        basis.expand(np.zeros(3), 0)
    for vector, kind in ((np.ones(10, np.complex64), "complex64"), (["a"] * 10, "string")):
        with pytest.raises(TypeError, match=rf"vector must be real numbers of shape \[10\], got {kind}"):
            basis.project(vector, 0)
    with pytest.raises(TypeError, match=r"a seed must be an int or int32 \[2\], got shape \[2, 2\]"):
        basis.project(np.ones(10), [[1, 2], [3, 4]])
