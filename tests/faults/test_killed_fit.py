"""kill -9 in a fit with BackupAndRestore: the same program, started again, ends where an undisturbed one does."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat

import rbd_ipu
from rbd_ipu import hooks, methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.optimizers import OPTIMIZERS

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")
WAYS = ("Trainer", *OPTIMIZERS, "SubspaceOptimizer")
STEPS, EPOCHS, KILLED_AT = 6, 4, (2, 3)  # the epoch and the batch, counted from 0


class Kill(keras.callbacks.Callback):
    """Ends this process as an operator does, in the middle of an epoch."""

    epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def train(way, callbacks):
    """What a user's program does; the weights at its end, and the epochs that it trained."""
    x, y = blobs(16 * STEPS)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    options = {"learning_rate": 0.5, "dim": 30, "momentum": 0.5, "seed": 11}
    model = dense()
    if way == "Trainer":
        fit = rbd_ipu.Trainer(model, methods.create("rbd", **options), "cpu", loss=crossentropy()).fit
    else:
        if way == "SubspaceOptimizer":
            largest = {"select": "largest", "memory": 1.0, "second_moment": 0.9, "wire": "sign"}
            optimizer = rbd_ipu.SubspaceOptimizer(keras.optimizers.Adam(0.01), fraction=0.1, seed=11, **largest)
        else:
            optimizer = OPTIMIZERS.get(way)(**options)
        model.compile(optimizer=optimizer, loss=crossentropy())
        fit = functools.partial(model.fit, shuffle=False)
    epochs = fit(data, epochs=EPOCHS, verbose=0, callbacks=callbacks).epoch
    return flat(model), epochs


def program(folder, way, kill):
    """The child: trains, killed or not, and leaves the weights at its end."""
    (backup,) = hooks.of_keras("BackupAndRestore")
    weights, epochs = train(way, [backup(str(folder / way)), *([Kill()] if kill else [])])
    np.savez(folder / f"{way}.npz", weights=weights, epochs=epochs)


def start(folder, *words):
    """A real process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    code = "import sys, pathlib, test_killed_fit as t; folder, kill, *ways = sys.argv[1:]\n"
    code += "for way in ways: t.program(pathlib.Path(folder), way, bool(int(kill)))"
    command = [sys.executable, "-c", code, str(folder), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_same_program_started_again_ends_with_the_same_weights(tmp_path):
    killed = [start(tmp_path, "1", way) for way in WAYS]
    for process in killed:
        said = process.communicate()[0].decode(errors="replace")
        assert process.returncode == -signal.SIGKILL, said
    again = start(tmp_path, "0", *WAYS)
    said = again.communicate()[0].decode(errors="replace")
    assert again.returncode == 0, said
    for way in WAYS:
        found = np.load(tmp_path / f"{way}.npz")
        assert found["epochs"].tolist() == list(range(KILLED_AT[0], EPOCHS)), "the epochs before are not done again"
        np.testing.assert_array_equal(found["weights"], train(way, [])[0], err_msg=way)
