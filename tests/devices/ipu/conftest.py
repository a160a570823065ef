"""The stand-in as a fixture: the package's own IPU path, run on a CPU. On Python 3.8 with TensorFlow 2.6 alone."""

import contextlib

import pytest

from rbd_ipu._compat import tf

REASON = "the stand-in plays TensorFlow 2.6, which Graphcore's is built on"


@pytest.fixture
def standin(monkeypatch):
    """The package of that name, where TensorFlow is the one that it plays."""
    monkeypatch.setenv("TF_POPLAR_FLAGS", "")  # opening a device adds to them: they are put back
    if not tf.__version__.startswith("2.6."):
        pytest.skip(REASON)
    import standin

    return standin


@pytest.fixture
def open_ipu(standin):
    """``open_ipu(replicas=1, popdist=False, index=0, **settings) -> (device, machine)``; once a test."""
    from rbd_ipu.devices.ipu.description import check
    from rbd_ipu.devices.ipu.device import IPUDevice
    from rbd_ipu.parallel.plan import plan

    with contextlib.ExitStack() as stack:

        def make(replicas=1, popdist=False, index=0, parallel="own", wire="float32", **settings):
            among = (replicas, index, settings.get("instances", 1)) if popdist else ()
            machine = stack.enter_context(standin.installed(*among))
            settings = {"steps_per_execution": 5, **settings}
            description = check({"device": "ipu", "replicas": replicas, **settings})
            return IPUDevice(description, plan(parallel=parallel, wire=wire)), machine

        yield make
