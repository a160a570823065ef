"""What the generator draws: the moments and the range of each distribution.

The bounds of the normal are those of Poplar's own model of the hardware, a sum of twelve coarse uniforms: kurtosis
2.9, nothing beyond 5.81, few distinct values. It need not be exactly normal for random bases: what matters is that
directions are isotropic, of which the first two moments decide.
"""

import numpy as np
import pytest

from rbd_ipu import fold_in
from rbd_ipu._compat import tf
from rbd_ipu.directions.poprand import DRAWS

pytestmark = pytest.mark.ipu

BLOCKS, SHAPE = 8, [64, 4096]


@pytest.fixture(scope="module")
def sample(on_device):
    """``sample(distribution)``: some million entries, float64, of eight blocks with a seed each; drawn once."""
    kept = {}

    def draw(distribution):
        if distribution not in kept:

            def blocks(seed):
                return tf.stack([DRAWS[distribution](SHAPE, fold_in(seed, b)) for b in range(BLOCKS)])

            # The seed is an argument: what a constant one gives could be computed by the compiler.
            kept[distribution] = np.ravel(on_device(blocks, np.array([1, 2], np.int32))).astype(np.float64)
        return kept[distribution]

    return draw


def test_the_normal_has_mean_0_and_variance_1(sample, measured):
    """The mean is 0 to five standard errors, the variance 1 to one percent."""
    x = sample("normal")
    measured["normal"] = {
        "count": len(x),
        "mean": float(x.mean()),
        "variance": float(x.var()),
        "kurtosis": float((x**4).mean() / x.var() ** 2),
        "largest": float(np.abs(x).max()),
        "distinct": len(np.unique(x)),
        "beyond 3": float((np.abs(x) > 3).mean()),
    }
    assert abs(x.mean()) < 5 / np.sqrt(len(x))
    assert abs(x.var() - 1) < 0.01


def test_the_normal_has_the_shape_of_one(sample):
    """No skew, a kurtosis of 2.85 to 3.1, tails within a third of the normal's, nothing beyond 6.

    Poplar's model has kurtosis 2.9 and 0.83 of the normal's entries beyond 3.
    """
    x = sample("normal")
    assert abs((x**3).mean()) < 0.01
    assert 2.85 < (x**4).mean() / x.var() ** 2 < 3.1
    for bound, share in ((1, 0.31731), (2, 0.04550), (3, 0.00270)):
        assert 2 / 3 < (np.abs(x) > bound).mean() / share < 4 / 3
    assert 4 < np.abs(x).max() < 6


def test_the_uniform_stays_in_its_closed_interval(sample, measured):
    """All of [-1, 1] and nothing else; its ends may be drawn, and are counted."""
    x = sample("uniform")
    measured["uniform"] = {"at -1": int((x == -1).sum()), "at 0": int((x == 0).sum()), "at 1": int((x == 1).sum())}
    assert x.min() >= -1 and x.max() <= 1
    assert x.min() < -0.999 and x.max() > 0.999
    assert abs(x.mean()) < 5 / np.sqrt(3 * len(x))
    assert abs(x.var() - 1 / 3) < 0.0033
    counts, _ = np.histogram(x, bins=64, range=(-1, 1))
    assert abs(counts / (len(x) / 64) - 1).max() < 6 / np.sqrt(len(x) / 64)


def test_signs_are_fair(sample):
    """rademacher is +1 or -1, never 0, half of each to five standard errors; bernoulli-0.5 is half below."""
    x = sample("rademacher")
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert abs(x.mean()) < 5 / np.sqrt(len(x))
    assert set(np.unique(sample("bernoulli-0.5"))) == {-1.5, 0.5}


@pytest.mark.parametrize("distribution", DRAWS)
def test_neighbours_are_not_correlated(sample, distribution):
    """Entries one, two, 64 and 4,096 places apart have no correlation, to five standard errors."""
    x = sample(distribution)
    x = (x - x.mean()) / x.std()
    for lag in (1, 2, 64, 4096):
        assert abs((x[lag:] * x[:-lag]).mean()) < 5 / np.sqrt(len(x))
