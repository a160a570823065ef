"""orthogonalize=True against the QR decomposition of the float64 reference directions."""

import numpy as np
import pytest
from reference import close
from reference import directions as reference_directions

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions.orthogonal import Held, Tiled, make
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import Subspace


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def reference_basis(distribution, seed, size, dim):
    """Gram and Schmidt, float64 [dim, size]."""
    X = reference_directions(distribution, "none", fold_in_numpy(seed), size, dim)
    Q, R = np.linalg.qr(X.T)
    return (Q * np.sign(np.diag(R))).T


@pytest.mark.parametrize(
    "distribution, size, dim, kind",
    [
        ("normal", 1, 1, Held),
        ("normal", 2, 2, Held),
        ("uniform", 17, 3, Held),
        ("normal", 17, 17, Held),
        ("rademacher", 100, 60, Held),
        ("rademacher", 64, 16, Tiled),
        ("uniform", 1001, 250, Tiled),
        ("normal", 122_570, 10, Tiled),
        ("rademacher", 122_570, 40, Tiled),
    ],
)
def test_the_orthogonal_projection(distribution, size, dim, kind):
    assert type(make(1, size, dim, distribution, "unit")) is kind
    g = vector(size)
    basis = rbd_ipu.RandomBasis(size, dim, distribution, orthogonalize=True)
    Q = reference_basis(distribution, 5, size, dim)
    exact = Q @ g.astype(np.float64)
    c, u = basis.sketch(g, 5)
    close(u, Q.T @ exact, 1e-5)
    close(c, exact, 1e-5)
    close(basis.project(g, 5), exact, 1e-5)
    close(basis.expand(c, 5), u, 1e-5)
    # In float64: a float32 dot product of 122,570 equal squares is off by 1e-5.
    P = basis.directions(5).numpy().astype(np.float64)
    np.testing.assert_allclose(P @ P.T, np.eye(dim), atol=5e-6)
    np.testing.assert_allclose(P, Q, atol=2e-5)


def test_many_tiles_and_groups():
    """Five tiles, the last one partial; two groups are what each would be alone."""
    size, dim = 1030, 20
    seeds = tf.constant(fold_in_numpy(1, np.arange(2)))
    v = tf.constant(vector(2 * size).reshape(2, size))
    for distribution in ("normal", "rademacher"):
        source = make(2, size, dim, distribution, "unit")
        source.tile, source._tiles = 256, 5
        c, u = source.sketch(v, seeds)
        for g in range(2):
            alone = make(1, size, dim, distribution, "unit").sketch(v[g : g + 1], seeds[g : g + 1])
            close(c[g], alone[0][0], 2e-6)
            close(u[g], alone[1][0], 2e-6)


def test_all_directions_give_the_gradient_back():
    g = vector(48)
    close(rbd_ipu.RandomBasis(48, 48, orthogonalize=True).sketch(g, 2)[1], g, 1e-5)


def test_correlation_with_the_gradient():
    """sqrt(d / D), where independent directions reach sqrt(d / (D + d))."""
    size, dim, found = 2000, 400, []
    basis = rbd_ipu.RandomBasis(size, dim, orthogonalize=True)
    for seed in range(25):
        g = vector(size, 100 + seed)
        u = basis.sketch(g, seed)[1].numpy()
        found.append(u @ g / np.linalg.norm(u) / np.linalg.norm(g))
    assert abs(np.mean(found) / np.sqrt(dim / size) - 1) < 0.02


def test_gradients():
    basis, seed = rbd_ipu.RandomBasis(90, 8, orthogonalize=True), 3
    P = basis.directions(seed).numpy().astype(np.float64)
    c, a = tf.Variable(vector(8)), vector(90, 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(basis.expand(c, seed) * a)
    close(tape.gradient(loss, c), P @ a, 1e-5)


def test_compartments():
    cut = Compartments.of([(90, 7), (7,), (7, 5), (6,)], "variable", 24)
    space = Subspace(cut, orthogonalize=True)
    P = space.directions(3, 7).numpy().astype(np.float64)
    np.testing.assert_allclose(P @ P.T, np.eye(space.dim), atol=1e-5)
    g = vector(space.size)
    c, u = space.sketch(g, 3, 7)
    close(c, P @ g, 1e-5)
    close(u, P.T @ (P @ g), 1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((100, 3, "hadamard"), "not 'hadamard': its directions are orthogonal by construction"),
        ((100, 3, "sparse:4"), "not 'sparse:4': orthogonal directions would not be sparse"),
        ((100, 3, "bernoulli-0.5"), "not 'bernoulli-0.5': its directions share their mean"),
        ((100, 3, "normal", "none"), "normalize must be 'unit', got 'none'"),
        ((100, 101), "no more than 100 directions can be orthogonal in a space of 100 .* got dim 101"),
        ((100_000, 1025), "at most 1024 directions .* got dim 1025; distribution 'hadamard' has"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rbd_ipu.RandomBasis(*arguments, orthogonalize=True)


def test_the_flag_is_a_bool():
    with pytest.raises(TypeError, match="orthogonalize must be True or False, got 1"):
        rbd_ipu.RandomBasis(10, 3, orthogonalize=1)
