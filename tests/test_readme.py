"""The Python in the README runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import keras, tf

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks():
    if not README.is_file():
        return []
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.skipif(not README.is_file(), reason="the README is not beside the tests")
def test_there_are_blocks():
    assert len(blocks()) >= 3


@pytest.mark.parametrize("number", range(len(blocks())))
def test_a_block_runs(number, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28), dtype=np.uint8), rng.integers(0, 10, 64, dtype=np.uint8)
    # The images would be fetched from the net.
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (images, images))
    seen = {
        "rbd_ipu": rbd_ipu,
        "seed": rbd_ipu.fold_in(0),
        "gradient": tf.ones(101_770),
    }
    exec(compile(blocks()[number], str(README), "exec"), seen)
    if "history" in seen:
        assert seen["history"].history["val_accuracy"][-1] > 0.5
