"""The configuration is accepted, and the device answers."""

import numpy as np
import pytest

from rbd_ipu._compat import tf

pytestmark = pytest.mark.ipu


def test_the_configuration_is_accepted(device, description):
    """Every option of the file is one that this SDK knows, and there are as many free IPUs as it asks for."""
    assert device.strategy.num_replicas_in_sync in (1, description.replicas)


def test_a_sum_is_computed_on_the_device(on_device):
    """A program is compiled, loaded and run, and its result comes back."""
    x = np.arange(1000, dtype=np.float32)
    assert on_device(tf.reduce_sum, x) == x.sum()


def test_a_loop_of_constant_length_runs_to_its_end(on_device):
    """A bare loop, which should become a Poplar Repeat, makes all of its trips, the first and the last included."""

    def run(x):
        def body(i, total):
            return i + 1, total + x * tf.cast(i, tf.float32)

        return tf.while_loop(lambda i, _: i < 1000, body, (tf.constant(0), tf.zeros([3])), parallel_iterations=1)[1]

    np.testing.assert_array_equal(on_device(run, np.array([1, 2, 4], np.float32)), [499500, 999000, 1998000])
