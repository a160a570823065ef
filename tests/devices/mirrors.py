"""Trainings on two parts of the CPU, and by one process that simulates two workers.

Run as a module, in a process that has not started TensorFlow: FILE CASES writes what comes of the cases to FILE.
"""

import json
import sys
from pathlib import Path

import numpy as np
from nets import blobs, crossentropy

import rbd_ipu
from rbd_ipu import checkpoints, methods, training
from rbd_ipu._compat import keras, tensors, tf
from rbd_ipu.data import Batches

K, BATCH, EPOCHS = 2, 8, 2
WHERE = {"devices": lambda **plan: rbd_ipu.open_device(f"cpu:{K}", **plan)}
WHERE["simulated"] = lambda **plan: rbd_ipu.open_device("cpu", simulate_workers=K, **plan)


def case(name="rbd", data="batches", normalised=False, options=None, metrics=None, **plan):
    made = {"method": name, "data": data, "normalised": normalised, "options": options or {"dim": 5}, "plan": plan}
    return {**made, "metrics": metrics}


OWN = {"normalised": True, "options": {"dim": 5, "momentum": 0.5}}
# The first cases show every mode, exchange and kind of data; tracing them all takes long.
QUICK = {
    "own-coordinates": case(**OWN, exchange="coordinates"),
    "own-update": case(**OWN, exchange="update"),
    "shared-coordinates": case(parallel="shared", exchange="coordinates", data="arrays"),
    "split-update": case(parallel="split", exchange="update"),
    "sgd": case("sgd", data="weighted", options={"momentum": 0.5}, metrics=["accuracy"]),
    "nes": case("nes", normalised=True, options={"dim": 3}),
    "compressed": case("compressed", normalised=True, options={"fraction": 0.5}),
}
SLOW = {
    "shared-update": case(parallel="shared", exchange="update"),
    "split-coordinates": case(parallel="split", exchange="coordinates"),
    "same-data-coordinates": case(parallel="same-data", exchange="coordinates"),
    "same-data-update": case(parallel="same-data", exchange="update"),
    "int8": case(exchange="coordinates", wire="int8"),
    "counter": case(exchange="coordinates", options={"dim": 5, "source": "counter"}),
    "hybrid": case("hybrid", normalised=True, options={"dim": 3}),
}
CASES = {**QUICK, **SLOW}
#: An exchange of updates is one of coordinates, to rounding: one simulation serves both.
SAME_AS = {"own-update": "own-coordinates"}


def network(normalised):
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    between = [layers.BatchNormalization()] if normalised else []
    return keras.Sequential([layers.InputLayer((6,)), *between, layers.Dense(10, kernel_initializer=glorot(1))])


def data(kind, poisoned=False):
    x, y = blobs(8 * K * BATCH)
    batches = Batches((x, y), BATCH, seed=1)
    if poisoned:  # what worker 1 finds at step 3; worker 0 sees nothing but good numbers
        x = x.copy()
        x[np.asarray(batches.shard(1, K)._plan(0)[0])[3]] = 3e38
        batches = Batches((x, y), BATCH, seed=1)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True)
    weights = np.linspace(0.5, 1.5, len(x)).astype(np.float32)
    weighted = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(BATCH, drop_remainder=True)
    return {"batches": batches, "arrays": (x, y), "dataset": dataset, "weighted": weighted}[kind]


def trainer(one, device):
    with device:
        model = network(one["normalised"])
        if one["metrics"]:  # Keras' own, each replica's with variables of its own
            model.compile(loss=crossentropy(), metrics=one["metrics"], weighted_metrics=one["metrics"])
    method = methods.create(one["method"], learning_rate=0.25, **one["options"])
    return rbd_ipu.Trainer(model, method, device, loss=None if one["metrics"] else crossentropy())


def fit(trained, one, **options):
    return trained.fit(data(one["data"]), epochs=EPOCHS, batch_size=BATCH, verbose=0, **options).history


def variables(trained):
    optimizer = trained.model.optimizer
    known = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
    return tensors([*trained.model.variables, *known])


def values(trained):
    kept = [slot for _, slot in sorted(trained.method.saved().items())]
    return [np.asarray(variable.numpy()).tolist() for variable in [*variables(trained), *kept]]


def differing(trained):
    """Names of variables whose copies are not the same bits on all devices, and the least number of copies."""
    copies = [trained.device.strategy.experimental_local_results(variable) for variable in variables(trained)]
    unlike = [row[0].name for row in copies if len({copy.numpy().tobytes() for copy in row}) != 1]
    return {"unlike": unlike, "copies": min(map(len, copies))}


def resumed(trained, one, path):
    """Trained in calls of a step each, saved at step 3 of an epoch; gone on with from there, after other steps."""

    def save(*_, **__):
        if trained.progress[:2] == (0, 3):
            checkpoints.save(path, trained)

    call, training.CALL_SECONDS = training.CALL_SECONDS, 0.0
    fit(trained, one, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=save)])
    training.CALL_SECONDS = call
    whole, found = values(trained), checkpoints.load(path)
    fit(trained, one)
    other = values(trained)
    fit(trained, one, start=checkpoints.restore(trained, found))
    return {"same": values(trained) == whole, "changed": other != whole}


def stopped(trained):
    try:
        trained.fit(data("batches", poisoned=True), epochs=1, verbose=0)
    except rbd_ipu.NonFiniteError as error:
        return {"step": error.step, "said": str(error), "values": values(trained)}


def refusals(trained):
    """What is said where devices cannot be used, or have drifted apart."""
    said = []

    def refused(kind, call):
        try:
            call()
        except kind as error:
            said.append(str(error))

    refused(RuntimeError, lambda: rbd_ipu.open_device("cpu:3"))
    outside = network(False)
    refused(ValueError, lambda: rbd_ipu.Trainer(outside, trained.method, trained.device))
    refused(ValueError, lambda: rbd_ipu.Trainer(trained.model, trained.method, "cpu"))
    weights = trained.device.strategy.experimental_local_results(tensors(trained.model.trainable_variables)[0])
    weights[1].assign_add(tf.ones_like(weights[1]))
    refused(RuntimeError, trained.device.measured)
    return said


def outcome(name, where, folder):
    """What comes of a case in one of the two ways."""
    one = CASES[name]
    trained = trainer(one, WHERE[where](**one["plan"]))
    first = name == "own-coordinates"  # shows what has nothing to do with modes and methods
    history = fit(trained, one, **({"validation": data("arrays")} if first or name in ("own-update", "sgd") else {}))
    found = {"values": values(trained), "history": history, "step": trained.step}
    if where == "devices":
        found.update(differing(trained))
    if first:
        found["stopped"] = stopped(trained)
    if where == "devices" and (first or name == "compressed"):
        found["resumed"] = resumed(trained, one, folder / "state")
    if first and where == "devices":
        found["refusals"] = refusals(trained)
    return found


def main(path, names):
    found = {"workers": WHERE["devices"]().exchange.workers}
    for name in names:
        ways = ("devices",) if name in SAME_AS else ("devices", "simulated")
        found[name] = {where: outcome(name, where, path.parent) for where in ways}
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
