"""Trainings that two workers and their simulation must agree on; run as a module, the life of a real worker.

Started with FOLDER NAMES it trains the named cases and writes what comes of each to FOLDER/<case>-<worker>.json: as a
rank of MPI, as a process of TF_CONFIG, or, on as many cores as one of them, as all workers in turn.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from nets import blobs, crossentropy, dense

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tensors
from rbd_ipu.data import Batches
from rbd_ipu.errors import WorkersError
from rbd_ipu.methods import METHODS
from rbd_ipu.parallel import ranks
from rbd_ipu.parallel.plan import MODES, WIRES, plan
from rbd_ipu.parallel.workers import task
from rbd_ipu.process import divided, keep_to, usable

OPTIONS = {
    "sgd": {},
    "compressed": {"fraction": 0.1},
    "nes": {"dim": 3},
    "switch": {"dim": 20, "sgd_learning_rate": 0.25, "switch_step": 3},
}
ONE_WORKER_ONLY = ("gradients", "switch")
WORKERS = int(os.environ.get("WORKERS", "2"))


def case(name="rbd", model="dense", options=None, **plan):
    return {"method": name, "model": model, "plan": plan, "options": options or {}}


# Every mode both ways, every method that can be shared, every wire; and what is not a weight.
CASES = {
    **{f"{mode}-{way}": case(parallel=mode, exchange=way) for mode in MODES for way in ("coordinates", "update")},
    **{f"method-{name}": case(name) for name in METHODS if name not in ("rbd", *ONE_WORKER_ONLY)},
    **{f"wire-{wire}": case(exchange="coordinates", wire=wire) for wire in WIRES if wire != "float32"},
    "batch-norm": case(model="normalised", exchange="coordinates"),
    "keras-metrics": case(model="measured", exchange="coordinates"),
    "not-finite": case("nan", exchange="coordinates"),
    "groups": case("compressed", options={"group_size": 2}),
}
# Of four workers.
LEVELS = {
    "groups": CASES["groups"],
    "levels": case("compressed", options={"group_size": 2, "group_levels": 2, "redraw_every": 2}),
}
# What befalls real workers only: the weights of worker 1 change by themselves.
APART = {"apart": case(model="apart", exchange="coordinates")}


class Apart(keras.callbacks.Callback):
    """Changes a bit of a weight of worker 1 after the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0 and task().index == 1:
            weights = tensors(self.model.trainable_variables)[0]
            weights.assign(np.nextafter(weights.numpy(), np.float32(9.0)))


def normalised():
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    stack = [layers.InputLayer((6,)), layers.Dense(8, kernel_initializer=glorot(1)), layers.BatchNormalization()]
    return keras.Sequential([*stack, layers.Dense(10, kernel_initializer=glorot(2))])


def data(poisoned):
    x, y = blobs(96)
    batches = Batches((x, y), 8, seed=1)
    if poisoned:  # the batch of worker 1 at step 3; worker 0 sees nothing but good numbers
        indices = np.asarray(batches.shard(1, WORKERS)._plan(0)[0])[3]
        x = x.copy()
        x[indices] = 3e38
        batches = Batches((x, y), 8, seed=1)
    return batches


def train(one, device):
    """What a case comes to: weights, losses, the state beside the weights."""
    name, poisoned = one["method"].replace("nan", "rbd"), one["method"] == "nan"
    model = normalised() if one["model"] == "normalised" else dense()
    if one["model"] == "measured":  # by variables that each worker has for itself
        model.compile(
            loss=crossentropy(), metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3, "top")]
        )
    device.exchange.plan = plan(**one["plan"])
    method = methods.create(name, learning_rate=0.5, **OPTIONS.get(name, {"dim": 20}), **one["options"])
    trainer = rbd_ipu.Trainer(model, method, device, loss=crossentropy())
    found = {"stopped": None}
    try:
        callbacks = [Apart()] if one["model"] == "apart" else []
        history = trainer.fit(data(poisoned), epochs=2, verbose=0, callbacks=callbacks).history
        found["loss"], found["columns"] = history["loss"], sorted(history)
        found["metrics"] = [history[name] for name in ("accuracy", "top") if name in history]
        found["bytes"] = history.get("exchange_bytes", [None])[-1]
        found["bytes_sgd"] = history.get("exchange_bytes_sgd", [None])[-1]
    except rbd_ipu.NonFiniteError as error:
        found["stopped"] = [error.step, str(error)]
    except WorkersError as error:
        found["stopped"] = [trainer.step, str(error)]
    found["weights"] = [np.asarray(v.numpy()).tolist() for v in tensors(model.trainable_variables)]
    found["beside"] = [np.asarray(v.numpy()).tolist() for v in tensors(model.non_trainable_variables)]
    found["memory"] = {k: np.asarray(v.numpy()).tolist() for k, v in method.saved().items() if method.packed}
    found["d"], found["D"], found["message_bytes"] = method.dim, method.size, method.message_bytes
    return found


def main():
    folder, names = Path(sys.argv[1]), sys.argv[2].split(",")
    if task() is None:
        # The number of threads decides the last bits: as many as a rank has.
        keep_to(divided(usable(), WORKERS)[0])
        device = rbd_ipu.open_device("cpu", simulate_workers=WORKERS)
    else:
        device = rbd_ipu.open_device("cpu", worker_timeout=60.0)
    index = 0 if task() is None else task().index
    for name in names:
        (folder / f"{name}-{index}.json").write_text(json.dumps(train({**CASES, **APART, **LEVELS}[name], device)))
    ranks.end(0)
    os._exit(0)  # as the command does: a server of TensorFlow 2.6 may abort a process that takes itself down


if __name__ == "__main__":
    main()
