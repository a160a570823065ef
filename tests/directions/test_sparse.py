"""Sparse directions against float64 NumPy code written from their definition."""

import numpy as np
import pytest
from reference import close, hash32, schedule, threefry

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions.sparse import make
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import Subspace

DEFAULT = {1: 1, 2: 2, 17: 5, 1000: 32, 122_570: 351}  # ceil(sqrt(n)) non-zeros, as s = sqrt(n)


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def reference_directions(seed, size, dim, nonzeros):
    """Signs at their places, float64 [dim, size]."""
    out = np.zeros((dim, size))
    for i in range(dim):
        offset, step = (int(x) for x in schedule(*threefry(seed, (0, i))))
        shift = (int(hash32(offset)) >> 1) % size
        for t in range(nonzeros):
            start, stop = t * size // nonzeros, (t + 1) * size // nonzeros
            word = int(hash32((offset + (t + 1) * step) % 2**32))
            longest = -(-size // nonzeros)
            if longest <= 512:
                spare = longest.bit_length()
                place = ((word >> (1 + spare)) * (stop - start)) >> (31 - spare)
            else:
                place = (word >> 1) % (stop - start)
            out[i, (shift + start + place) % size] += -1.0 if word & 1 else 1.0
    return out


@pytest.mark.parametrize(
    "distribution, size, dim, nonzeros",
    [
        ("sparse", 1, 3, 1),
        ("sparse", 2, 2, 2),
        ("sparse", 17, 250, 5),
        ("sparse:17", 17, 3, 1),
        ("sparse:1", 17, 3, 17),
        ("sparse:2.5", 100, 9, 40),
        ("sparse:3000", 7001, 20, 3),
        ("sparse", 122_570, 2, 351),
    ],
)
def test_directions_are_those_of_the_definition(distribution, size, dim, nonzeros):
    drawn = rbd_ipu.RandomBasis(size, dim, distribution, "none").directions(11).numpy()
    expected = reference_directions(fold_in_numpy(11), size, dim, nonzeros)
    assert np.all(np.abs(expected).sum(axis=1) == nonzeros) and np.all(np.abs(expected) <= 1)
    np.testing.assert_allclose(drawn, expected * np.sqrt(size / nonzeros), rtol=1e-6)


@pytest.mark.parametrize("normalize", ["unit", "expected", "none"])
@pytest.mark.parametrize("size, dim", [(1, 1), (2, 2), (17, 40), (122_570, 7)])
def test_sketch_is_the_explicit_projection(size, dim, normalize):
    g = vector(size)
    P = reference_directions(fold_in_numpy(5), size, dim, DEFAULT[size])
    P *= np.sqrt((size if normalize == "none" else 1) / DEFAULT[size])
    basis = make("counter", 1, size, dim, normalize, 0, None)
    seeds = tf.constant(fold_in_numpy(5)[None])
    c, u = basis.sketch(tf.constant(g[None]), seeds)
    exact = P @ g.astype(np.float64)
    close(c[0], exact, 2e-6)
    close(u[0], P.T @ exact, 2e-6)
    close(basis.project(tf.constant(g[None]), seeds)[0], exact, 2e-6)
    close(basis.expand(tf.constant(exact[None], tf.float32), seeds)[0], P.T @ exact, 2e-6)


@pytest.mark.parametrize("source", ["counter", "auto"])
def test_compiled_and_in_blocks(source):
    g = vector(1000)
    P = reference_directions(fold_in_numpy(5), 1000, 50, 32) / np.sqrt(32)
    for block in (None, 7):
        c, u = rbd_ipu.RandomBasis(1000, 50, "sparse", source=source, block=block).sketch(g, 5)
        close(c, P @ g, 2e-6)
        close(u, P.T @ (P @ g), 2e-6)


def test_eager_graph_and_xla_draw_the_same_numbers():
    basis = rbd_ipu.RandomBasis(3000, 5, "sparse", "none")

    def draw(seed):
        return basis.directions(seed)

    seed = rbd_ipu.fold_in(4, "step", 2)
    for jit in (False, True):
        np.testing.assert_array_equal(tf.function(draw, jit_compile=jit, autograph=False)(seed), draw(seed))


def test_the_stream_never_changes():
    drawn = rbd_ipu.RandomBasis(100, 3, "sparse", "none").directions(7).numpy()
    found = [[int(np.sign(row[j])) * j for j in np.flatnonzero(row)] for row in drawn]
    assert found == GOLDEN


# Indices of the non-zeros, with their signs.
GOLDEN = [
    [-1, 11, 23, 26, 34, -47, 63, 71, 74, -85],
    [4, 10, 24, 32, -38, 50, 58, 74, -80, -91],
    [-1, 13, 25, -30, -44, -50, 64, 69, 84, -88],
]


@pytest.mark.parametrize("size, s", [(17, None), (100, 7.0), (23, 23.0)])
def test_the_covariance_is_the_identity(size, s):
    """Every index is drawn equally often, and signs are independent: E[x x^T] = I, within 4.5 sigma."""
    draws = 40_000
    basis = make("counter", 1, size, draws, "none", 0, s)
    X = basis.directions(tf.constant([[5, 6]]), 0, draws)[0].numpy().astype(np.float64)
    k = np.count_nonzero(X[0])
    np.testing.assert_allclose(np.sum(X**2, axis=1), size, rtol=1e-5)  # unit norms are exact
    covariance = X.T @ X / draws
    deviation = np.sqrt((size / k - 1) / draws)  # of x_j^2, which is n / k with probability k / n
    assert np.abs(np.diag(covariance) - 1).max() < 4.5 * deviation + 1e-6
    off = covariance[~np.eye(size, dtype=bool)]
    assert np.abs(off).max() < 5 * np.sqrt(size / k) / np.sqrt(draws)
    assert np.abs(X.mean(axis=0)).max() < 4.5 / np.sqrt(draws)


def test_correlation_with_the_gradient():
    """sqrt(d / (D + d)), as for independent directions of unit norm."""
    size, dim, found = 10_000, 400, []
    basis = rbd_ipu.RandomBasis(size, dim, "sparse")
    for seed in range(30):
        g = vector(size, 100 + seed)
        u = basis.sketch(g, seed)[1].numpy()
        found.append(u @ g / np.linalg.norm(u) / np.linalg.norm(g))
    assert abs(np.mean(found) / np.sqrt(dim / (size + dim)) - 1) < 0.02


@pytest.mark.parametrize("scheme", ["even:3", "variable"])
def test_compartments(scheme):
    cut = Compartments.of([(9, 7), (7,), (7, 5), (5,)], scheme, 24)
    space = Subspace(cut, "sparse")
    P = space.directions(3, 7).numpy().astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1, rtol=1e-6)
    g = vector(space.size)
    c, u = space.sketch(g, 3, 7)
    close(c, P @ g, 2e-6)
    close(u, P.T @ (P @ g), 2e-6)


@pytest.mark.parametrize("text", ["0.5", "0", "-3", "x", "", "nan", "inf"])
def test_parameters_that_make_no_sense(text):
    with pytest.raises(ValueError, match=f"needs a number s >= 1.*got 'sparse:{text}'"):
        rbd_ipu.RandomBasis(100, 3, f"sparse:{text}")


def test_too_sparse_is_refused():
    with pytest.raises(ValueError, match="keeps one entry in 200, .* has only 100 parameters"):
        rbd_ipu.RandomBasis(100, 3, "sparse:200")
    with pytest.raises(ValueError, match="keeps one entry in 20, .* has only 5 parameters"):
        Subspace(Compartments.of([(40,), (5,)], "variable", 6), "sparse:20")


def test_gradients_through_a_loop_over_blocks():
    basis, seed = rbd_ipu.RandomBasis(60, 8, "sparse", source="counter", block=3), 3
    P = basis.directions(seed).numpy().astype(np.float64)
    v, a, b = tf.Variable(vector(60)), vector(8, 1), vector(60, 2)
    with tf.GradientTape() as tape:
        coordinates, update = basis.sketch(v, seed)
        loss = tf.reduce_sum(coordinates * a) + tf.reduce_sum(update * b)
    close(tape.gradient(loss, v), P.T @ a + P.T @ (P @ b), 2e-6)
