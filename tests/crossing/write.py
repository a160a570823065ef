"""Writes the files of this folder: ``python tests/crossing/write.py`` on each stack, with tests/ on PYTHONPATH.

A model with its optimizer after one epoch (.h5), and its weights after one epoch more (.npy).
"""

from pathlib import Path

import numpy as np
from nets import blobs, dense, flat

from rbd_ipu._compat import KERAS_3
from rbd_ipu.optimizers import OPTIMIZERS

HERE = Path(__file__).parent
STACK = "keras_3" if KERAS_3 else "keras_2"


def train(model):
    x, y = blobs()
    model.fit(x, np.eye(10, dtype=np.float32)[y], batch_size=32, epochs=1, shuffle=False, verbose=0)


def write():
    for name in OPTIMIZERS:
        model = dense()
        optimizer = OPTIMIZERS.get(name)(0.5, dim=10, momentum=0.5, seed=4, source="counter")
        model.compile(optimizer=optimizer, loss="mean_squared_error")
        train(model)
        model.save(str(HERE / f"{STACK}_{name}.h5"))
        train(model)
        np.save(HERE / f"{STACK}_{name}.npy", flat(model).astype(np.float32))


if __name__ == "__main__":
    write()
