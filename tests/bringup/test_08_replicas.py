"""Several replicas: they gather in order, and their weights stay equal, without which training is silently wrong.

TensorFlow reads the weights of replica 0 and drops the others.
"""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import data, methods, models
from rbd_ipu._compat import tf
from rbd_ipu.step import flatten

pytestmark = pytest.mark.ipu


def test_replicas_know_who_they_are(on_device, device, several):
    """replication_index counts from 0, and all_gather keeps its order."""

    def run(one):
        return device.exchange.gather(tf.reshape(tf.cast(device.exchange.worker(), tf.float32) * one, [1]))

    np.testing.assert_array_equal(np.ravel(on_device(run, np.float32(1))), np.arange(several))


def test_a_mean_over_replicas_is_the_mean(on_device, device, several):
    """The mean of the indices is (R - 1) / 2, the same everywhere."""

    def run(one):
        mean = device.exchange.mean(tf.reshape(tf.cast(device.exchange.worker(), tf.float32) * one, [1]))
        return device.exchange.gather(mean)

    np.testing.assert_allclose(np.ravel(on_device(run, np.float32(1))), (several - 1) / 2)


@pytest.mark.parametrize("name", ["sgd", "rbd", "fpd"])
def test_the_weights_of_all_replicas_stay_bit_equal(on_device, device, several, name):
    """After an epoch in which every replica had other data and other directions."""
    digits = data.load("digits")
    with device:
        model = models.build("fc", digits.shape, seed=0)
    options = {} if name == "sgd" else {"dim": 64}
    method = methods.create(name, learning_rate=0.5, **options)
    rbd_ipu.Trainer(model, method, device=device).fit(digits.batches(32, seed=0), epochs=1, verbose=0)
    weights = on_device(lambda: device.exchange.gather(flatten(model.trainable_variables)))
    assert len(weights) == several
    for other in weights[1:]:
        np.testing.assert_array_equal(other, weights[0])
