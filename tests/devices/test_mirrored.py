"""A worker on each of two devices, in one process: the numbers of a process that simulates two workers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from devices.mirrors import BATCH, EPOCHS, QUICK, SAME_AS, SLOW, K

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.config import resolve
from rbd_ipu.devices import mirrored
from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.workers import tf_config

TIMES = ("seconds", "images_per_second")


def by_a_new_process(folder, cases):
    """The CPU can be cut up only before TensorFlow has started, which here it has."""
    path = folder / "found.json"
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "devices.mirrors", str(path), ",".join(cases)]
    run = subprocess.run(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return by_a_new_process(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def found_slowly(tmp_path_factory):
    return by_a_new_process(tmp_path_factory.mktemp("slow"), SLOW)


def check_like_simulated(found, name):
    devices, simulated = found[name]["devices"], found[SAME_AS.get(name, name)]["simulated"]
    assert devices["step"] == simulated["step"] > 0
    assert sorted(devices["history"]) == sorted(simulated["history"])
    for one, other in zip(devices["values"], simulated["values"]):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for column in set(devices["history"]) - set(TIMES):
        np.testing.assert_allclose(
            devices["history"][column], simulated["history"][column], rtol=1e-5, atol=1e-6, err_msg=column
        )


@pytest.mark.parametrize("name", QUICK)
def test_it_is_the_simulated_training(found, name):
    """Weights, velocities, moving statistics, counts of steps, and every column of the history."""
    check_like_simulated(found, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_it_is_the_simulated_training_slowly(found_slowly, name):
    check_like_simulated(found_slowly, name)


@pytest.mark.parametrize("name", QUICK)
def test_all_copies_are_the_same_bits(found, name):
    """Of each variable of the model and of its optimizer, one on each device."""
    assert found["workers"] == K
    assert found[name]["devices"]["unlike"] == [] and found[name]["devices"]["copies"] == K


def test_a_validation_is_made(found):
    assert {"val_loss", "val_accuracy"} <= set(found["own-coordinates"]["devices"]["history"])


@pytest.mark.parametrize("name", ["own-coordinates", "compressed"])
def test_resuming_is_exact(found, name):
    """Saved within an epoch, restored after other steps: weights, all that is kept, counts, bit for bit."""
    resumed = found[name]["devices"]["resumed"]
    assert resumed["same"] and resumed["changed"]


def test_a_number_that_is_not_finite_on_one_device_stops_all(found):
    """That of worker 1; nobody has applied the step, nor counted it."""
    devices, simulated = (found["own-coordinates"][where]["stopped"] for where in ("devices", "simulated"))
    before = found["own-coordinates"]["devices"]["step"]
    assert devices["step"] == simulated["step"] == before + 3
    assert f"not finite at step {before + 3} " in devices["said"]
    for one, other in zip(devices["values"], simulated["values"]):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_said(found):
    few, elsewhere, copies, apart = found["own-coordinates"]["devices"]["refusals"]
    assert f"cpu:3 needs 3 CPU devices; TensorFlow sees {K} on this machine; it cuts a CPU up before it starts" in few
    assert all("was built elsewhere: build it inside `with device:`" in said for said in (elsewhere, copies))
    assert "the weights of replicas [1] differ from those of replica 0" in apart


# --- without devices -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("gpu:4", {"simulate_workers": 2}, "gpu:4 is 4 workers, one on each device; simulate_workers must be 1"),
        ("cpu:2", {"workers": 3}, "cpu:2 is 2 workers, one on each device; workers must be 1, not 3"),
        ("ipu:2", {}, "the workers of an IPU are its replicas: give replicas in a description, not ipu:2"),
        ("gpu:0", {}, "unknown device 'gpu:0'; accepted: 'cpu', 'gpu', 'ipu'"),
        ("tpu:2", {}, "unknown device 'tpu'; accepted: 'cpu', 'gpu', 'ipu'"),
    ],
)
def test_what_does_not_go_together_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        rbd_ipu.open_device(name, **options)


def test_a_process_of_a_cluster_has_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(0, ["localhost:1", "localhost:2"]))
    for given in ({}, {"workers": 2}):
        with pytest.raises(ValueError, match="gpu:2 is 2 workers, one on each device; workers must be 1, not 2"):
            rbd_ipu.open_device("gpu:2", **given)


def test_too_few_devices_are_counted():
    there = {kind: len(tf.config.list_logical_devices(kind)) for kind in ("CPU", "GPU")}  # starts TensorFlow
    for kind, count in there.items():
        with pytest.raises(RuntimeError, match=f"needs {count + 2} {kind} devices; TensorFlow sees {count} on this"):
            mirrored.find(kind.lower(), count + 2)


def test_one_device_is_a_device():
    assert rbd_ipu.open_device("cpu:1").exchange.workers == 1


def test_settings():
    config = resolve({"device": "gpu:5", "parallel": "split", "dim": 250})
    assert config.all_workers == 5 and config.options()["dim"] == 50
    assert resolve({"device": "cpu:1"}).all_workers == 1
    for settings, message in [
        ({"device": "gpu:4", "workers": 2}, "gpu:4 is 4 workers, one on each device; workers must be 1, not 2"),
        ({"device": "cpu:2", "simulate_workers": 3}, "simulate_workers must be 1, not 3"),
        ({"device": "gpu:4", "parallel": "split"}, "dim must be a multiple of 4, not 250"),
        ({"device": "ipu:2"}, "must be one of cpu, gpu, ipu, cpu:N, gpu:N or a path that ends in .yaml"),
        ({"device": "gpu:1000"}, "must be one of cpu, gpu, ipu, cpu:N, gpu:N"),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve(settings)


def test_an_epoch_is_shared(found):
    """Each worker has 1/K of the batches."""
    assert found["own-coordinates"]["devices"]["step"] == EPOCHS * 8 * K * BATCH // (K * BATCH)
