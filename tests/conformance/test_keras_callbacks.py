"""Every callback of ``keras.callbacks``, in ``Trainer.fit`` and with an optimizer in ``model.fit``: docs/keras.md.

A row says ``works``, ``refused`` or ``fails``; its check here shows what the callback does, not only that it does not
crash. A class that a later Keras adds has no row, and the test of the table fails.
"""

import http.server
import inspect
import json
import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat

import rbd_ipu
from rbd_ipu import hooks, methods, training
from rbd_ipu._compat import KERAS_3, current_rate, keras, tf

calls = keras.callbacks
PAGE = Path(__file__).resolve().parents[2] / "docs" / "keras.md"
STEPS, BATCH, RATE, DIM = 8, 8, 0.5, 40
X, Y = blobs(STEPS * BATCH)
WAYS = ("Trainer.fit", "model.fit")
WRAPPED = "SubspaceOptimizer"  # in model.fit; for callbacks that meet the optimizer
MEET = {
    "BackupAndRestore", "CSVLogger", "EarlyStopping", "LambdaCallback", "LearningRateScheduler", "ModelCheckpoint",
    "ReduceLROnPlateau", "SwapEMAWeights", "TensorBoard", "TerminateOnNaN",
}  # fmt: skip
WEIGHTS = ".weights.h5"


@pytest.fixture(autouse=True)
def _an_epoch_is_a_call(monkeypatch):
    """In a Trainer, if no callback asks for less."""
    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)


class Training:
    """A training that can be had in both ways, with the same data in the same order and the same bases."""

    def __init__(self, way, rate=RATE, **options):
        self.way, self.model = way, dense()
        if way == "Trainer.fit":
            method = methods.create("rbd", learning_rate=rate, dim=DIM, seed=3, **options)
            self.trainer = rbd_ipu.Trainer(self.model, method, "cpu", loss=crossentropy())
            self.trainer._rate = 1e9  # before it was measured
        elif way == WRAPPED:
            inner = keras.optimizers.SGD(rate, **options)
            optimizer = rbd_ipu.SubspaceOptimizer(
                inner, fraction=1 / 4, select="largest", memory=1.0, wire="int8", seed=3
            )
            plain = {"jit_compile": False} if KERAS_3 else {}
            self.model.compile(optimizer=optimizer, loss=crossentropy(), metrics=["accuracy"], **plain)
        else:
            optimizer = rbd_ipu.RandomBasesDescent(rate, dim=DIM, seed=3, **options)
            self.model.compile(optimizer=optimizer, loss=crossentropy(), metrics=["accuracy"])

    def fit(self, callbacks=(), epochs=2, x=X, validation=True, **options):
        data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH)
        options = {"epochs": epochs, "verbose": 0, **options, "callbacks": callbacks}
        if self.way == "Trainer.fit":
            return self.trainer.fit(data, (X, Y) if validation else None, **options)
        return self.model.fit(data, validation_data=(X, Y) if validation else None, shuffle=False, **options)

    @property
    def weights(self):
        return flat(self.model)


class Watch(calls.Callback):
    """The weights at the end of every step and epoch, and what hooks are told."""

    every_batch = True

    def __init__(self):
        super().__init__()
        self.steps, self.epochs, self.told = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(flat(self.model))
        self.told.append((batch, dict(logs)))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(flat(self.model))


def watched(way, epochs=2, **options):
    """What an undisturbed training goes through."""
    watch = Watch()
    Training(way, **options).fit([watch], epochs=epochs)
    return watch


def with_weights_of(path):
    model = dense(7)
    model.load_weights(str(path))
    return flat(model)


class Not(Exception):
    """What became of a callback, in a word, if it does not work."""


# --- the checks, by the name of a class: check(way, tools), with tools.folder and tools.capsys ---


def check_callback(way, tools):
    """A user's subclass gets every batch in order, the model, the parameters and the logs."""

    class Mine(calls.Callback):
        def __init__(self):
            super().__init__()
            self.said = []

        def on_train_begin(self, logs=None):
            self.said.append("train")
            assert self.params["epochs"] == 2 and self.params["steps"] in (STEPS, None)

        def on_epoch_begin(self, epoch, logs=None):
            self.said.append(f"epoch {epoch}")

        def on_train_batch_begin(self, batch, logs=None):
            self.said.append(batch)

        def on_train_batch_end(self, batch, logs=None):
            assert self.said[-1] == batch and math.isfinite(logs["loss"]) and 0 <= logs["accuracy"] <= 1

        def on_test_begin(self, logs=None):
            self.said.append("test")

        def on_test_end(self, logs=None):
            self.found = dict(logs)

        def on_epoch_end(self, epoch, logs=None):
            assert logs["val_loss"] == pytest.approx(self.found["loss"])
            self.last = dict(logs)
            assert self.model.predict(X, verbose=0).shape == (len(X), 10)

        def on_train_end(self, logs=None):
            assert logs["loss"] == self.last["loss"]
            self.said.append("end")

    mine, t = Mine(), Training(way)
    t.fit([mine])
    assert mine.model is t.model
    epoch = [*range(STEPS), "test"]
    assert mine.said == ["train", "epoch 0", *epoch, "epoch 1", *epoch, "end"]


def check_callback_list(way, tools):
    """One that the user has made takes the place of a list."""
    t, watch = Training(way), Watch()
    params = {"verbose": 0, "epochs": 2, "steps": STEPS}
    t.fit(calls.CallbackList([watch], add_history=True, model=t.model, **params))
    assert len(watch.steps) == 2 * STEPS and len(watch.epochs) == 2


def check_backup_and_restore(way, tools):
    """Goes on after an interruption, with the bases of the steps that are left. (Killed: below.)"""
    (backup,) = hooks.of_keras("BackupAndRestore")

    class Interrupt(calls.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        Training(way, momentum=0.5).fit([backup(str(tools.folder / "b")), Interrupt()], epochs=4)
    t = Training(way, momentum=0.5)
    history = t.fit([backup(str(tools.folder / "b"))], epochs=4)
    assert history.epoch == [2, 3]
    np.testing.assert_array_equal(t.weights, watched(way, epochs=4, momentum=0.5).epochs[-1])
    assert not list((tools.folder / "b").glob("*")), "a finished fit removes its backup"


def check_model_checkpoint(way, tools):
    """Weights and whole models, by epoch, by batch, and the best only: each file holds what it says."""
    whole, best_file = ("{epoch}.keras", "best.keras") if KERAS_3 else ("{epoch}.whole", "best.h5")
    folder, batches = tools.folder, 3
    t = Training(way)
    history = t.fit(
        [
            calls.ModelCheckpoint(str(folder / ("e{epoch}" + WEIGHTS)), save_weights_only=True),
            calls.ModelCheckpoint(str(folder / ("b{epoch}-{batch}" + WEIGHTS)), save_weights_only=True, save_freq=3),
            calls.ModelCheckpoint(str(folder / whole)),
            calls.ModelCheckpoint(str(folder / best_file), monitor="val_accuracy", save_best_only=True),
        ],
        epochs=2,
    )
    seen = watched(way)
    for epoch in (1, 2):
        np.testing.assert_array_equal(with_weights_of(folder / f"e{epoch}{WEIGHTS}"), seen.epochs[epoch - 1])
        loaded = keras.models.load_model(str(folder / whole.format(epoch=epoch)))
        np.testing.assert_array_equal(flat(loaded), seen.epochs[epoch - 1])
        optimizer = getattr(loaded, "optimizer", None)
        if way == "Trainer.fit":
            assert optimizer is None
        else:
            assert type(optimizer) is type(t.model.optimizer) and int(optimizer.iterations) == epoch * STEPS
    saved = sorted(path.name for path in folder.glob("b*-*"))
    at = range(batches - 1, 2 * STEPS, batches)
    assert saved == sorted(f"b{n // STEPS + 1}-{n % STEPS + 1}{WEIGHTS}" for n in at)
    for n in at:
        path = folder / f"b{n // STEPS + 1}-{n % STEPS + 1}{WEIGHTS}"
        np.testing.assert_array_equal(with_weights_of(path), seen.steps[n])
    best = int(np.argmax(history.history["val_accuracy"]))  # the first of equals
    np.testing.assert_array_equal(flat(keras.models.load_model(str(folder / best_file))), seen.epochs[best])


def check_early_stopping(way, tools):
    """Stops, and puts the weights of the best epoch back."""
    worse = calls.LearningRateScheduler(lambda epoch: RATE if epoch == 0 else 20.0)
    watch, t = Watch(), Training(way)
    stop = calls.EarlyStopping("val_accuracy", patience=1, restore_best_weights=True)
    history = t.fit([worse, stop, watch], epochs=5).history
    assert history["val_accuracy"][1] < history["val_accuracy"][0] and len(history["loss"]) == 2
    np.testing.assert_array_equal(t.weights, watch.epochs[0])


def check_reduce_lr_on_plateau(way, tools):
    """A rate of 0 moves nothing any more."""
    watch, t = Watch(), Training(way)
    t.fit([calls.ReduceLROnPlateau("val_loss", factor=0.0, patience=1, min_delta=1e9), watch], epochs=3)
    assert np.abs(watch.epochs[1] - watch.epochs[0]).max() > 0
    np.testing.assert_array_equal(watch.epochs[2], watch.epochs[1])


def check_learning_rate_scheduler(way, tools):
    """Each epoch has its rate: a step at half of it moves by half."""
    half = watched(way, epochs=1, rate=RATE / 2)
    watch, t = Watch(), Training(way, rate=123.0)
    t.fit([calls.LearningRateScheduler(lambda epoch: [RATE / 2, 0.0][epoch]), watch])
    np.testing.assert_array_equal(watch.steps[0], half.steps[0])
    np.testing.assert_array_equal(watch.epochs[1], watch.epochs[0])
    assert current_rate(t.model.optimizer) == 0.0


def check_tensor_board(way, tools):
    """Scalars of each epoch and of every second batch, and histograms of the weights."""
    t = Training(way)
    history = t.fit([calls.TensorBoard(str(tools.folder), histogram_freq=1, update_freq=2, profile_batch=0)]).history
    train, validation = events(tools.folder / "train"), events(tools.folder / "validation")
    assert train["epoch_loss"] == pytest.approx(dict(enumerate(history["loss"])))
    assert validation["epoch_loss"] == pytest.approx(dict(enumerate(history["val_loss"])))
    seen = watched(way)
    told = {n + 1: logs["loss"] for n, (_, logs) in enumerate(seen.told)}
    assert train["batch_loss"] == pytest.approx({n: told[n] for n in range(2, 2 * STEPS + 1, 2)}, rel=1e-5)
    assert len(train["histograms"]) == len(t.model.weights)


def events(folder):
    """{tag: {step: value}}, and the tags of histograms."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {"histograms": set()}
    for path in Path(folder).glob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "histograms":
                    found["histograms"].add(value.tag)
                elif value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def check_terminate_on_nan(way, tools):
    """Stops after the batch. The Trainer has not applied it, and says nothing; Keras has applied it."""
    x = X.copy()
    x[3 * BATCH, 0] = np.inf  # some kernels make 0 of a NaN
    t = Training(way)
    history = t.fit([calls.TerminateOnNaN()], epochs=3, x=x).history
    assert len(history["loss"]) == 1 and math.isnan(history["loss"][0])
    assert "Batch 3: Invalid loss" in tools.capsys.readouterr().out
    if way == "Trainer.fit":
        np.testing.assert_array_equal(t.weights, watched(way, epochs=1).steps[2])
    else:
        assert not np.isfinite(t.weights).all()


def check_csv_logger(way, tools):
    t, path = Training(way), tools.folder / "log.csv"
    history = t.fit([calls.CSVLogger(str(path))], epochs=3).history
    head, *rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [row[head.index("epoch")] for row in rows] == ["0", "1", "2"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [float(row[head.index(name)]) for row in rows] == pytest.approx(history[name])


def check_remote_monitor(way, tools):
    """A server of this process gets the logs of each epoch."""
    got = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monitor = calls.RemoteMonitor(f"http://127.0.0.1:{server.server_port}", send_as_json=True)
            history = Training(way).fit([monitor]).history
        finally:
            server.shutdown()
            thread.join()
    assert [row["epoch"] for row in got] == [0, 1]
    assert [row["val_loss"] for row in got] == pytest.approx(history["val_loss"])


def check_lambda_callback(way, tools):
    said = []
    one = calls.LambdaCallback(
        on_train_begin=lambda logs: said.append("train"),
        on_epoch_begin=lambda epoch, logs: said.append(f"epoch {epoch}"),
        on_train_batch_end=lambda batch, logs: said.append(batch),
        on_epoch_end=lambda epoch, logs: said.append(sorted(logs)),
        on_train_end=lambda logs: said.append("end"),
    )
    history = Training(way).fit([one])
    logs = sorted(history.history)
    assert said == ["train", "epoch 0", *range(STEPS), logs, "epoch 1", *range(STEPS), logs, "end"]


def check_swap_ema_weights(way, tools):
    """The validation is of the moving average of the weights, and the training goes on with the weights."""
    if way == "Trainer.fit":
        refuse(way, calls.SwapEMAWeights())
    momentum, seen = 0.5, watched(way)
    found = []
    tested = calls.LambdaCallback(on_test_begin=lambda logs: found.append(t.weights))
    t, watch = Training(way, use_ema=True, ema_momentum=momentum), Watch()
    t.fit([calls.SwapEMAWeights(), tested, watch])
    np.testing.assert_allclose(watch.steps, seen.steps, rtol=1e-4, atol=1e-6)
    average = flat(dense())
    for n, weights in enumerate(watch.steps):
        average = weights if n == 0 else momentum * average + (1 - momentum) * weights
        if n + 1 in (STEPS, 2 * STEPS):
            np.testing.assert_allclose(found[n // STEPS], average, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(t.weights, average, rtol=1e-4, atol=1e-6)  # where Keras leaves a training with use_ema


def check_base_logger(way, tools):
    """Of the time of TensorFlow 1: no fit of Keras 2.6 gives it what it needs."""
    if way == "Trainer.fit":
        refuse(way, calls.BaseLogger())
    model = dense()
    model.compile(optimizer=keras.optimizers.SGD(), loss=crossentropy())
    with pytest.raises(KeyError, match="metrics"):
        model.fit(X, Y, verbose=0, callbacks=[calls.BaseLogger()])
    with pytest.raises(KeyError, match="metrics"):
        Training(way).fit([calls.BaseLogger()])
    raise Not("refused")


def check_orbax_checkpoint(way, tools):
    if way == "Trainer.fit":
        refuse(way, calls.OrbaxCheckpoint.__new__(calls.OrbaxCheckpoint))  # made without the package that it needs
    pytest.importorskip("orbax.checkpoint", reason="the package orbax-checkpoint is not installed")
    whole = []
    for optimizer in (rbd_ipu.RandomBasesDescent(RATE, dim=DIM), keras.optimizers.SGD(RATE)):
        t, folder = Training(way), str(tools.folder / optimizer.name)
        t.model.compile(optimizer=optimizer, loss=crossentropy())
        t.fit([calls.OrbaxCheckpoint(folder, save_on_background=False)])
        loaded = keras.saving.load_model(folder)
        assert type(loaded.optimizer) is type(optimizer) and int(loaded.optimizer.iterations) == 2 * STEPS
        whole.append(np.array_equal(flat(loaded), t.weights))
    assert whole[0] == whole[1]
    if not whole[0]:
        raise Not("fails")


def check_history(way, tools):
    mine, t = calls.History(), Training(way)
    history = t.fit([mine])
    assert mine.history == history.history and mine.epoch == history.epoch == [0, 1]


def check_progbar_logger(way, tools):
    Training(way).fit([calls.ProgbarLogger()], verbose=1)
    said = tools.capsys.readouterr().out
    assert "Epoch 2/2" in said and f"{STEPS}/{STEPS}" in said and "val_loss" in said
    assert len(re.findall("Epoch 2/2", said)) == 1


def refuse(way, callback):
    """Refused by name, before the first step."""
    t = Training(way)
    before = t.weights
    with pytest.raises(ValueError, match=f"^{type(callback).__name__} does not work in Trainer.fit: .*use|leave"):
        t.fit([callback])
    np.testing.assert_array_equal(t.weights, before)
    raise Not("refused")


# --- the table ---


def public():
    """The classes of ``keras.callbacks`` and its submodules, by name."""
    modules = [calls, *(module for _, module in inspect.getmembers(calls, inspect.ismodule))]
    shown = [module for module in modules if "callbacks" in module.__name__]
    return {name for module in shown for name, value in vars(module).items() if inspect.isclass(value)}


def rows():
    """{callback: {way: the word it begins with}}, of the page."""
    text = PAGE.read_text(encoding="utf-8").split("## Callbacks")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.split("`")[1]: dict(zip(WAYS, cells)) for name, *cells in lines}


ROWS = rows()
CHECKS = {name[len("check_") :].replace("_", ""): value for name, value in globals().items() if name[:6] == "check_"}


def test_every_callback_of_this_keras_has_a_row():
    assert public() - set(ROWS) == set()


def test_every_row_has_a_check():
    assert {name.lower() for name in ROWS} == set(CHECKS)


CASES = [(name, way) for name in ROWS for way in (*WAYS, WRAPPED) if way in WAYS or name in MEET]


@pytest.mark.parametrize("name, way", CASES)
def test_a_row(name, way, tmp_path, capsys):
    if name not in public():
        pytest.skip(f"Keras {keras.__version__} has no {name}")
    try:
        CHECKS[name.lower()](way, type("Tools", (), {"folder": tmp_path, "capsys": capsys}))
        said = "works"
    except Not as word:
        said = str(word)
    assert ROWS[name]["model.fit" if way == WRAPPED else way].split()[0].strip(".,:;") == said
