"""Models that were built, trained and dropped leave nothing behind that grows."""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import keras

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "memory_growth.py"


@pytest.mark.parametrize("kind", [rbd_ipu.RandomBasesDescent, rbd_ipu.FixedProjectionDescent])
@pytest.mark.parametrize("compartments", ["global", "variable"])
def test_nothing_of_this_package_keeps_a_model(kind, compartments):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile(optimizer=kind(0.1, dim=4, compartments=compartments, momentum=0.5), loss="mse")
    model.fit(np.ones((8, 4), np.float32), np.ones((8, 2), np.float32), verbose=0)
    left = [weakref.ref(model), weakref.ref(model.optimizer), weakref.ref(model.layers[0])]
    del model
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in left] == [None] * 3


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.is_file(), reason="no benchmarks beside the tests")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("source", ["native", "counter"])
def test_memory_grows_no_faster_than_with_the_sgd_of_keras(tmp_path, source):
    if source == "native":
        pytest.importorskip("numba")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    words = ["--models", "50", "--source", source, "--output", str(tmp_path / "growth.json")]
    words += ["--optimizers", "SGD", "RandomBasesDescent", "FixedProjectionDescent"]
    subprocess.run([sys.executable, str(SCRIPT), *words], env=environment, check=True)
    sgd, rbd, fpd = (row["mb_a_model"] for row in json.loads((tmp_path / "growth.json").read_text())["rows"])
    assert max(rbd, fpd) <= sgd + 0.2  # MB; 2.3 with seeds hashed by ops, 1.9 with nested ones
