"""The stream is random enough: moments and tails of the normal, and no correlation between directions."""

import math

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import DISTRIBUTIONS
from rbd_ipu.subspace import Subspace

EDGES = np.linspace(-6.5, 6.5, 4097)


def normal_cdf(z):
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])


@pytest.mark.slow
def test_a_hundred_million_samples_are_normal():
    draws, size = 100, 1_000_000
    basis = rbd_ipu.RandomBasis(size, 1, "normal", "none")
    sums, counts, far = np.zeros(4), np.zeros(len(EDGES) - 1), 0
    for seed in range(draws):
        z = basis.directions(seed)[0].numpy()
        square = np.square(z, dtype=np.float64)
        sums += [z.sum(dtype=np.float64), square.sum(), (square * z).sum(), np.square(square).sum()]
        counts += np.histogram(z, EDGES)[0]
        far += int(np.count_nonzero(square > 16.0))
    n = draws * size
    mean, second, third, fourth = sums / n
    variance = second - mean**2
    kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2 - 3
    assert counts.sum() == n  # nothing beyond 6.5
    assert abs(mean) < 1e-3 and abs(variance - 1) < 1e-3 and abs(kurtosis) < 0.01
    # Kolmogorov-Smirnov at 4,097 places; between two of them the distribution moves by 0.0013 at most.
    distance = np.abs(np.cumsum(counts) / n - normal_cdf(EDGES[1:])).max()
    assert distance < 5e-4
    assert far / n == pytest.approx(math.erfc(4 / math.sqrt(2)), rel=0.1)


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name != "bernoulli-0.5"])
def test_directions_have_no_correlation_beyond_chance(distribution):
    """Of one basis, and of other steps, workers and compartments; n = 20,000, 1,800 directions, 1.6 million pairs."""
    n, each = 20_000, 300
    space = Subspace(Compartments.of([2 * n], "even:2", 2 * each), distribution)
    rows = []
    for step, worker in [(0, 0), (1, 0), (0, 1)]:
        P = space.directions(3, step, worker).numpy()
        rows += [P[:each, :n], P[each:, n:]]
    rows = np.concatenate(rows)
    cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)] * math.sqrt(n)
    # Of 1.6 million standard normals, the largest lies beyond 6.3 once in two thousand times.
    assert np.abs(cosines).max() < 6.3
    assert np.abs(cosines).mean() == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
    assert abs(cosines.mean()) < 5 / math.sqrt(cosines.size)


def test_a_biased_distribution_is_caught_by_that():
    """As first published, directions have cosine 0.2; the test above is able to fail."""
    P = rbd_ipu.RandomBasis(20_000, 50, "bernoulli-0.5").directions(0).numpy()
    cosines = (P @ P.T)[np.triu_indices(50, 1)]
    assert cosines.mean() == pytest.approx(0.2, abs=0.005)
