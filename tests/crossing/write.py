"""Writes the files of this folder: ``python tests/crossing/write.py`` on each stack, with tests/ on PYTHONPATH.

A model with its optimizer after one epoch (.h5), and its weights after one epoch more (.npy). Files that are there
are kept.
"""

from pathlib import Path

import numpy as np
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu._compat import KERAS_3, keras
from rbd_ipu.optimizers import OPTIMIZERS

HERE = Path(__file__).parent
STACK = "keras_3" if KERAS_3 else "keras_2"


def _around(inner, **options):
    return rbd_ipu.SubspaceOptimizer(inner, seed=4, source="counter", **options)


_LARGEST = {"fraction": 0.25, "select": "largest", "memory": 1.0, "second_moment": 0.9, "wire": "sign"}

#: What has a file -> the optimizer.
CASES = {
    **{
        name: lambda name=name: OPTIMIZERS.get(name)(0.5, dim=10, momentum=0.5, seed=4, source="counter")
        for name in OPTIMIZERS
    },
    "largest": lambda: _around(keras.optimizers.SGD(0.05, momentum=0.5), **_LARGEST),
    "adam": lambda: _around(keras.optimizers.Adam(0.01, amsgrad=True), memory=0.9, wire="int8"),
    "coordinates": lambda: _around(
        keras.optimizers.Adam(0.01), fraction=0.5, distribution="groups", state="coordinates", redraw_every=3,
        exclude="*bias*",
    ),
}  # fmt: skip


def train(model):
    x, y = blobs()
    model.fit(x, np.eye(10, dtype=np.float32)[y], batch_size=32, epochs=1, shuffle=False, verbose=0)


def write():
    for name, make in CASES.items():
        path = HERE / f"{STACK}_{name}.h5"
        if path.exists():
            continue
        model = dense()
        model.compile(optimizer=make(), loss="mean_squared_error")
        train(model)
        model.save(str(path))
        train(model)
        np.save(path.with_suffix(".npy"), flat(model).astype(np.float32))


if __name__ == "__main__":
    write()
