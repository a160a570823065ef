"""The Hadamard basis against float64 NumPy code written from its definition, on every source."""

import subprocess
import sys

import numpy as np
import pytest
from hadamard_reference import NUMBA, SOURCES, reference_directions, reference_padded, reference_sketch
from reference import close

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions.hadamard import Hadamard, Rows, grid, hadamard_matrix, in_ranks, kronecker_factors, split
from rbd_ipu.directions.stream import DISTRIBUTIONS
from rbd_ipu.directions.stream import schedule as schedule_tensor
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import Subspace

# Parameters of the paper's networks, with the padded sizes that follow from the orders admitted.
PADDED = {101_770: 102_400, 122_570: 122_880, 93_322: 98_304, 394_634: 409_600, 78_330: 81_920, 467_194: 491_520}


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


# ---- orders ----


@pytest.mark.parametrize("order", [1, 2, 4, 64, 12, 24, 96, 20, 40, 320])
def test_matrices_are_symmetric_hadamard_matrices(order):
    H = hadamard_matrix(order)
    assert H.shape == (order, order) and np.all(np.abs(H) == 1)
    np.testing.assert_array_equal(H, H.T)
    np.testing.assert_array_equal(H @ H, order * np.eye(order))


def test_as_little_as_possible_is_padded():
    for size in [*range(1, 130), 1000, 1025, 5000, *PADDED]:
        a, b = split(size)
        assert a * b == reference_padded(size) and a >= b
    for size, padded in PADDED.items():
        assert np.prod(split(size)) == padded
    for size in range(8, 5000):
        assert size <= np.prod(split(size)) <= 1.34 * size
    for size in range(500, 100_000, 37):
        assert np.prod(split(size)) < 1.2 * size + 1


@pytest.mark.parametrize("a, b", [(1, 1), (2, 1), (20, 1), (12, 8), (40, 12), (64, 32)])
def test_factors_multiply_up(a, b):
    factors = kronecker_factors(a, b)
    product = np.ones((1, 1))
    for factor in factors:
        assert len(factor) <= 64
        product = np.kron(product, factor)
    np.testing.assert_array_equal(product, np.kron(hadamard_matrix(a), hadamard_matrix(b)))


# ---- the rows ----


@pytest.mark.parametrize("size", [1, 2, 5, 17, 33, 1000])
def test_ranks_and_rows_undo_each_other(size):
    A, B = grid(*split(size))
    N = A * B
    pairs = schedule_tensor(tf.constant(fold_in_numpy(3, np.arange(8 * 6)).reshape(8, 6, 2)))
    permutation = Rows(A, B)
    rows = permutation.rows(pairs, tf.range(N)).numpy()
    assert rows.shape == (8, N)
    for row in rows:
        assert sorted(row) == list(range(N))
    ranks = permutation.ranks(pairs, tf.range(N)).numpy()
    np.testing.assert_array_equal(np.take_along_axis(ranks, rows, 1), np.tile(np.arange(N), (8, 1)))


@pytest.mark.parametrize("a, b", [(32, 32), (320, 320)])
def test_rows_are_spread_evenly(a, b):
    """Single rows, the difference of two, its parts and low bits, over 40,000 seeds: chi-square within 4.5 sigma."""
    N, draws, ranks = a * b, 40_000, np.array([0, 1, b, b + 1, 2 * b, a * b // 2], np.int32)
    seeds = fold_in_numpy(11, np.arange(draws))
    keys = fold_in_numpy(seeds[:, None, :], np.arange(6)[None])
    rows = Rows(a, b).rows(schedule_tensor(tf.constant(keys)), tf.constant(ranks)).numpy().T.astype(np.int64)

    def even(values, cells):
        counts, expected = np.bincount(values, minlength=cells), draws / cells
        assert len(counts) == cells
        z = (np.sum((counts - expected) ** 2) / expected - (cells - 1)) / np.sqrt(2 * (cells - 1))
        assert abs(z) < 4.5, z

    for row in rows:
        even(row * 64 // N, 64)
        even(row % 32, 32)
    for one, other in [(0, 1), (0, 2), (1, 3), (0, 4), (2, 5), (1, 5)]:
        difference = (rows[one] - rows[other]) % N
        assert difference.min() > 0
        even((difference - 1) * 64 // (N - 1), 64)
        # N is so much larger than these that "not equal" cannot be seen.
        even((rows[one] // b - rows[other] // b) % a if N > 10_000 else rows[one] // b, a)
        even((rows[one] % b - rows[other] % b) % b if N > 10_000 else rows[one] % b, b)
        even((rows[one] ^ rows[other]) % 8 if N > 10_000 else rows[other] % 8, 8)


@pytest.mark.parametrize("N", [24, 240, 1024])
def test_a_half_of_the_rows_is_a_fair_sample(N):
    """Of a class of rows (odd, in the upper half, in odd blocks of four), half of the ranks hold about a half."""
    A, B = grid(*split(N))
    assert A * B == N
    draws = 4000
    seeds = fold_in_numpy(12, np.arange(draws))
    keys = fold_in_numpy(seeds[:, None, :], np.arange(6)[None])
    rows = Rows(A, B).rows(schedule_tensor(tf.constant(keys)), tf.range(N // 2)).numpy()
    deviation = np.sqrt(N / 16 * N / (N - 1))  # of the hypergeometric count
    for members in (rows % 2 == 1, rows >= N // 2, rows // 4 % 2 == 1):
        counts = members.sum(axis=1)
        assert abs(counts.mean() - N / 4) < 4.5 * deviation / np.sqrt(draws)
        assert abs(counts.std() / deviation - 1) < 0.1


# ---- directions and projections ----


@pytest.mark.parametrize("size, dim", [(1, 1), (2, 2), (17, 20), (10, 7), (200, 40), (5000, 7)])
def test_directions_are_those_of_the_definition(size, dim):
    drawn = rbd_ipu.RandomBasis(size, dim, "hadamard", "none").directions(11)
    np.testing.assert_array_equal(drawn, reference_directions(fold_in_numpy(11), size, dim))


@pytest.mark.parametrize("normalize", ["unit", "expected", "none"])
@pytest.mark.parametrize("size, dim", [(1, 1), (2, 1), (2, 2), (17, 1), (17, 18), (122_570, 1), (122_570, 2)])
@pytest.mark.parametrize("source", ["ops", pytest.param("native", marks=NUMBA)])
def test_sketch_is_the_explicit_projection(source, size, dim, normalize):
    g = vector(size)
    P = reference_directions(fold_in_numpy(5), size, dim)
    if normalize != "none":
        P = P / np.linalg.norm(P, axis=1, keepdims=True)
    if source == "native":
        from rbd_ipu.directions.native.hadamard import NativeHadamard as make
    else:
        make = Hadamard
    basis, seeds = make(1, size, dim, normalize), tf.constant(fold_in_numpy(5)[None])
    c, u = basis.sketch(tf.constant(g[None]), seeds)
    close(c[0], P @ g.astype(np.float64), 2e-6)
    close(u[0], P.T @ (P @ g.astype(np.float64)), 2e-6)
    close(basis.project(tf.constant(g[None]), seeds)[0], P @ g.astype(np.float64), 2e-6)
    close(basis.expand(c, seeds)[0], P.T @ (P @ g.astype(np.float64)), 2e-6)


@pytest.mark.parametrize("size, dim", [(122_570, 250), (122_570, 60_000), (101_770, 101_770)])
@pytest.mark.parametrize("source", SOURCES)
def test_any_dimension_in_the_spaces_of_the_paper(source, size, dim):
    """The public basis: compiled for the one source, machine code for the other."""
    g = vector(size, dim)
    c, u = reference_sketch(fold_in_numpy(5), size, dim, g.astype(np.float64))
    basis = rbd_ipu.RandomBasis(size, dim, "hadamard", source=source)
    coordinates, update = basis.sketch(g, 5)
    close(coordinates, c, 2e-6)
    close(update, u, 2e-6)


@NUMBA
@pytest.mark.parametrize("groups", [1, 2, 7])
@pytest.mark.parametrize("size, dim", [(3, 2), (330, 11), (5000, 4000)])
def test_sources_agree_on_groups(groups, size, dim):
    from rbd_ipu.directions.native.hadamard import NativeHadamard

    seeds = tf.constant(fold_in_numpy(1, np.arange(groups)))
    v = tf.constant(vector(groups * size).reshape(groups, size))
    ops, native = Hadamard(groups, size, dim, "unit"), NativeHadamard(groups, size, dim, "unit")
    for one, other in zip(ops.sketch(v, seeds), native.sketch(v, seeds)):
        close(other, one, 1e-6)
    for g in range(groups):  # a group is what it would be alone
        alone = Hadamard(1, size, dim, "unit").sketch(v[g : g + 1], seeds[g : g + 1])
        close(ops.sketch(v, seeds)[1][g], alone[1][0], 1e-6)


def test_eager_graph_and_xla_draw_the_same_numbers():
    basis = rbd_ipu.RandomBasis(3000, 5, "hadamard", "none")

    def draw(seed):
        return basis.directions(seed)

    seed = rbd_ipu.fold_in(4, "step", 2)
    eager = draw(seed).numpy()
    for jit in (False, True):
        np.testing.assert_array_equal(tf.function(draw, jit_compile=jit, autograph=False)(seed), eager)


def test_the_stream_never_changes():
    """Signs of the first entries of three directions of seed 7, and their rows in a space of 102,400."""
    drawn = rbd_ipu.RandomBasis(10, 3, "hadamard", "none").directions(7).numpy()
    assert ["".join("-+"[int(x > 0)] for x in row) for row in drawn] == GOLDEN_SIGNS
    pairs = schedule_tensor(tf.constant(fold_in_numpy(7, np.arange(1, 7))[None]))
    assert Rows(320, 320).rows(pairs, tf.range(4)).numpy()[0].tolist() == GOLDEN_ROWS


GOLDEN_SIGNS = ["-+++--++--", "--++++-+-+", "-+-+-----+"]
GOLDEN_ROWS = [27200, 93604, 12133, 26983]


# ---- geometry ----


@pytest.mark.parametrize("size", [64, 80, 240, 512])
def test_unpadded_directions_are_orthonormal_and_complete(size):
    """d = n gives the gradient back."""
    g = vector(size)
    basis = rbd_ipu.RandomBasis(size, size, "hadamard")
    P = basis.directions(3).numpy().astype(np.float64)
    np.testing.assert_allclose(P @ P.T, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(basis.sketch(g, 3)[1], g, rtol=0, atol=3e-6)


def test_padded_directions():
    """Norms are exact, cosines small; all N directions together are a tight frame: P P^T = (N / n) I."""
    size, padded = 450, 480
    basis = rbd_ipu.RandomBasis(size, padded, "hadamard")
    P = basis.directions(3).numpy().astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1.0, rtol=1e-6)
    cosines = (P @ P.T)[np.triu_indices(padded, 1)]
    expected = np.sqrt((1 - size / padded) / size)
    assert abs(np.sqrt(np.mean(cosines**2)) / expected - 1) < 0.01
    np.testing.assert_allclose(P.T @ P, padded / size * np.eye(size), atol=1e-5)
    g = vector(size)
    close(basis.sketch(g, 3)[1], padded / size * g)


def test_the_covariance_is_a_multiple_of_the_identity():
    """E[P P^T] = (d / n) I over seeds, at a padded size."""
    size, dim, draws = 17, 6, 4000
    source = Hadamard(draws, size, dim, "unit")
    P = source.directions(tf.constant(fold_in_numpy(2, np.arange(draws))), 0, dim).numpy()
    P = P.astype(np.float64)
    mean = np.einsum("gdi,gdj->ij", P, P) / draws
    np.testing.assert_allclose(np.diag(mean), dim / size, rtol=1e-5)
    off = mean[~np.eye(size, dtype=bool)]
    assert np.abs(off).max() < 4.5 * np.sqrt(dim) / size / np.sqrt(draws)


@pytest.mark.parametrize("dim", [250, 10_000, 60_000])
@pytest.mark.parametrize("size", [101_770, 122_570])
def test_correlation_with_the_gradient(size, dim):
    """sqrt(d / D), as for orthonormal directions, within 2 %: the mean over enough draws to resolve that."""
    basis, found = rbd_ipu.RandomBasis(size, dim, "hadamard"), []
    for seed in range(2 + 15_000 // dim):
        g = vector(size, 1000 + seed)
        u = basis.sketch(g, seed)[1].numpy()
        found.append(u @ g / np.linalg.norm(u) / np.linalg.norm(g))
    assert abs(np.mean(found) / np.sqrt(dim / size) - 1) < 0.02


@pytest.mark.parametrize("source", SOURCES)
def test_a_nan_reaches_the_update(source):
    g = vector(100)
    g[17] = np.nan
    c, u = rbd_ipu.RandomBasis(100, 5, "hadamard", source=source).sketch(g, 0)
    assert np.all(np.isnan(c)) and np.all(np.isnan(u))


def test_gradients():
    basis, seed = rbd_ipu.RandomBasis(60, 8, "hadamard"), 3
    P = basis.directions(seed).numpy().astype(np.float64)
    c, a = tf.Variable(vector(8)), vector(60, 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(basis.expand(c, seed) * a)
    close(tape.gradient(loss, c), P @ a, 2e-6)


# ---- through the public interfaces ----


@pytest.mark.parametrize("scheme", ["even:3", "variable"])
def test_compartments(scheme):
    cut = Compartments.of([(9, 7), (7,), (7, 5), (5,)], scheme, 24)
    space = Subspace(cut, "hadamard")
    P = space.directions(3, 7).numpy().astype(np.float64)
    g = vector(space.size)
    c, u = space.sketch(g, 3, 7)
    close(c, P @ g, 2e-6)
    close(u, P.T @ (P @ g), 2e-6)


def test_what_makes_no_sense_is_refused():
    rbd_ipu.RandomBasis(17, 20, "hadamard")
    with pytest.raises(ValueError, match="'hadamard' has 20 orthogonal directions for 17 parameters.*got 21"):
        rbd_ipu.RandomBasis(17, 21, "hadamard")
    with pytest.raises(ValueError, match="distribution 'hadamard' takes no parameter, got 'hadamard:3'"):
        rbd_ipu.RandomBasis(17, 3, "hadamard:3")
    with pytest.raises(ValueError, match="unknown distribution 'walsh'; accepted: .*'hadamard', 'sparse'"):
        rbd_ipu.RandomBasis(17, 3, "walsh")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
@pytest.mark.parametrize("source", SOURCES)
def test_memory_does_not_grow_with_the_dimension(source):
    """d = 60,000 directions of the CIFAR-10 CNN are 29 GB; a sketch may take 64 MB more than one with d = 10."""
    program = """
import resource, sys, numpy as np, rbd_ipu
g = np.ones(122570, np.float32)
rbd_ipu.RandomBasis(122570, int(sys.argv[1]), "hadamard", source=sys.argv[2]).sketch(g, 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = [
        int(subprocess.run([sys.executable, "-c", program, d, source], stdout=subprocess.PIPE, check=True).stdout)
        for d in ("10", "60000")
    ]
    assert peaks[1] - peaks[0] < 64_000, peaks


# --- hadamard bases of several workers: parts of one matrix, against the float64 reference ----------


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
