"""Cosine and Pearson correlation, against NumPy in float64."""

import numpy as np
import pytest

from rbd_ipu._compat import tf
from rbd_ipu.vectors import likeness


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("size", [2, 17, 10_000])
def test_against_numpy(size, shift):
    rng = np.random.default_rng(size)
    u, g = rng.standard_normal(size) + shift, rng.standard_normal(size) + shift
    cosine, pearson = likeness(tf.constant(u, tf.float32), tf.constant(g, tf.float32))
    np.testing.assert_allclose(cosine, u @ g / np.linalg.norm(u) / np.linalg.norm(g), atol=2e-6)
    np.testing.assert_allclose(pearson, np.corrcoef(u, g)[0, 1], atol=5e-6)


def test_no_update_is_like_nothing():
    cosine, pearson = likeness(tf.zeros(5), tf.constant([1.0, 2, 3, 4, 5]))
    assert float(cosine) == 0.0 and float(pearson) == 0.0
