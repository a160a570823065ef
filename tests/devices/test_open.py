"""Devices: a context that places what is built in it."""

import pytest

import rbd_ipu
from rbd_ipu._compat import tf


def test_the_cpu_is_always_there():
    with rbd_ipu.open_device("cpu") as device:
        assert device.name == "cpu" and device.strategy.num_replicas_in_sync == 1
        assert "CPU:0" in tf.Variable(1.0).device
        with device:  # a context can be entered again
            assert "CPU:0" in tf.constant(1.0).device


def test_a_missing_gpu_is_said_plainly():
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="TensorFlow sees no GPU on this machine; it sees: CPU"):
        rbd_ipu.open_device("gpu")


@pytest.mark.parametrize("name", ["CPU", "tpu", "", None, 0])
def test_unknown_names_are_quoted(name):
    with pytest.raises(ValueError, match="unknown device .*accepted: 'cpu', 'gpu'"):
        rbd_ipu.open_device(name)
