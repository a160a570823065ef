"""Callbacks in ``Trainer.fit``: how calls of the loop are cut for them, what is refused, and backups."""

import math

import numpy as np
import pytest
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu import hooks, methods, training
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.errors import ConfigError
from rbd_ipu.runs import callbacks as own

calls = keras.callbacks
(Backup,) = hooks.of_keras("BackupAndRestore")
DATA = blobs(320)  # 10 steps an epoch
NO_STEPS_BY_BATCH = pytest.mark.skipif(not KERAS_3, reason="BackupAndRestore of Keras 2 saves epochs only")


def trainer(**options):
    method = {"learning_rate": 0.5, "dim": 20, "momentum": 0.5, **options}
    t = rbd_ipu.Trainer(dense(), methods.create("rbd", **method), "cpu")
    t._rate = 1e9  # before it was measured
    return t


@pytest.fixture(autouse=True)
def _an_epoch_is_a_call(monkeypatch):
    """If nobody asks for less."""
    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)


def fit(t, callbacks=(), epochs=2, data=DATA, **options):
    return t.fit(data, epochs=epochs, verbose=0, callbacks=callbacks, **options)


def lengths(t, callbacks):
    """How many steps each call of the loop has."""
    found, run = [], t._run
    t._run = lambda iterator, n, *others: found.append(n) or run(iterator, n, *others)
    fit(t, callbacks)
    t._run = run
    return found


class Batches(calls.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)


class Seldom(Batches):
    every_batch = False


class Old(calls.Callback):
    def on_batch_end(self, batch, logs=None):
        pass


class Stop(calls.Callback):
    """Stops in a hook, or raises there, in an epoch or at a step of the run."""

    def __init__(self, hook, at=0, error=None):
        super().__init__()
        setattr(self, hook, self.hook)
        self.at, self.error, self.met = at, error, 0

    def hook(self, *_, **__):
        self.met += 1
        if self.met > self.at:
            if self.error is not None:
                raise self.error
            self.model.stop_training = True


def checkpoint(folder, **options):
    return calls.ModelCheckpoint(str(folder / "{epoch}.weights.h5"), save_weights_only=True, **options)


def test_calls_end_where_a_callback_has_to_see_a_batch(tmp_path):
    t = trainer()
    for i, (make, expected) in enumerate(
        [
            (lambda folder: [], [10, 10]),
            (lambda folder: [Batches()], [1] * 20),
            (lambda folder: [Old()], [1] * 20),
            (lambda folder: [Seldom()], [10, 10]),
            (lambda folder: [calls.LambdaCallback(on_epoch_end=lambda *_: None)], [10, 10]),
            (lambda folder: [calls.LambdaCallback(on_train_batch_end=lambda *_, **__: None)], [1] * 20),
            (lambda folder: [checkpoint(folder)], [10, 10]),
            (lambda folder: [checkpoint(folder, save_freq=4)], [4, 4, 2, 2, 4, 4]),
            (lambda folder: [checkpoint(folder, save_freq=4), checkpoint(folder, save_freq=10)], [2] * 10),
            (lambda folder: [checkpoint(folder, save_freq=50)], [10, 10]),
            (lambda folder: [calls.TensorBoard(str(folder), profile_batch=0)], [10, 10]),
            (lambda folder: [calls.TensorBoard(str(folder), profile_batch=0, update_freq=5)], [1] * 20),
            (lambda folder: [own.MetricsLog(folder / "m"), own.Events(folder), calls.TerminateOnNaN()], [10, 10]),
            (lambda folder: [Backup(str(folder / "b"))], [10, 10]),
        ]
    ):
        (tmp_path / str(i)).mkdir()
        assert lengths(t, make(tmp_path / str(i))) == expected, i


def test_a_callback_that_has_counted_already_is_met_where_it_saves():
    seen = calls.ModelCheckpoint("unused.h5", save_freq=8)
    seen._batches_seen_since_last_saving = 4  # of a fit before
    assert hooks._steps_between(seen) == 4


def test_checkpoints_by_batch_from_the_middle_of_an_epoch(tmp_path):
    """Gone on with at step 3: the batches before are not counted again."""
    t, other = trainer(), trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(t, [Stop("on_train_batch_end", 2, KeyboardInterrupt())], epochs=1)
    assert t.progress.step == 3
    path = str(tmp_path / "{batch}.weights.h5")
    saver = calls.ModelCheckpoint(path, save_weights_only=True, save_freq=3)
    fit(other, [saver], epochs=1, start=t.progress)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["6.weights.h5", "9.weights.h5"]


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_train_batch_begin"])
def test_a_training_that_is_stopped_at_once_makes_a_step(hook):
    """As in Keras."""
    t = trainer()
    history = fit(t, [Stop(hook)]).history
    assert len(history["loss"]) == 1 and math.isfinite(history["loss"][0])
    assert t.step == 1


@pytest.mark.parametrize("kind", ["one", "nested", "generator", "none"])
def test_forms_of_callbacks(kind):
    one = Batches()
    fit(trainer(), {"one": one, "nested": [[one]], "generator": (c for c in [one]), "none": None}[kind], epochs=1)
    assert one.seen == ([] if kind == "none" else list(range(10)))


class Validated(calls.Callback):
    def on_test_batch_end(self, batch, logs=None):
        pass


class Changed(Backup):
    pass


def scheduled():
    return keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)


@pytest.mark.parametrize(
    "make, rate, error, message",
    [
        (lambda: [7], 0.5, TypeError, "must be callbacks of Keras .*, got 7"),
        (lambda: 7, 0.5, TypeError, "must be a list of Keras callbacks, got 7"),
        (lambda: [Batches], 0.5, TypeError, "must be callbacks of Keras .*Batches"),
        (
            lambda: [Validated()],
            0.5,
            ValueError,
            "Validated.on_test_batch_end would never be called .*use on_test_begin",
        ),
        (
            lambda: [Changed("b")],
            0.5,
            ValueError,
            "Changed does not work .*use keras.callbacks.BackupAndRestore as it",
        ),
        (lambda: [Backup("b"), Backup("c")], 0.5, ValueError, "2 BackupAndRestore"),
        (
            lambda: [calls.LearningRateScheduler(lambda epoch: 0.1)],
            scheduled,
            ValueError,
            "LearningRateScheduler sets",
        ),
        (
            lambda: [calls.ReduceLROnPlateau()],
            scheduled,
            ValueError,
            "ReduceLROnPlateau sets .*, ExponentialDecay: give",
        ),
    ],
)
def test_what_does_not_work_is_refused_before_the_first_step(make, rate, error, message):
    t = trainer(learning_rate=rate() if callable(rate) else rate)
    with pytest.raises(error, match=message):
        fit(t, make())
    assert t.step == 0
    np.testing.assert_array_equal(flat(t.model), flat(dense()))


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 takes for lower what it does not know")
@pytest.mark.parametrize("make", [calls.EarlyStopping, calls.ReduceLROnPlateau])
def test_what_keras_cannot_judge_is_refused_before_the_first_step(make):
    t = trainer()
    with pytest.raises(ValueError, match="monitor=seconds.* Pass `mode='max'`"):
        fit(t, [make(monitor="seconds")])
    assert t.step == 0
    fit(t, [make(monitor="seconds", mode="min"), make(monitor="cosine"), make(monitor="accuracy")], epochs=1)


def poisoned(step):
    x, y = DATA[0].copy(), DATA[1]
    x[32 * step] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(32)


@pytest.mark.parametrize("step", [0, 4])
def test_terminate_on_nan_ends_the_training_before_the_step(step):
    t = trainer()
    history = fit(t, [calls.TerminateOnNaN()], data=poisoned(step)).history
    assert len(history["loss"]) == 1 and math.isnan(history["loss"][0]) and history["step"] == [step]
    assert t.step == step and np.isfinite(flat(t.model)).all()
    assert (t.progress.epoch, t.progress.step) == (0, step)  # a checkpoint is of here, not of the next epoch


@pytest.mark.skipif(
    "raise_error" not in calls.TerminateOnNaN.__init__.__code__.co_varnames, reason="not in this Keras"
)
def test_terminate_on_nan_with_an_error():
    with pytest.raises(RuntimeError, match="NaN or Inf loss"):
        fit(trainer(), [calls.TerminateOnNaN(raise_error=True)], data=poisoned(2))


# --- BackupAndRestore: a killed process is in tests/faults ---


def whole(epochs=3):
    """History and weights of a training that nothing has disturbed."""
    t = trainer()
    return fit(t, epochs=epochs).history, flat(t.model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")])
def test_a_backup_stays_after_an_error_and_is_gone_on_with(tmp_path, error):
    with pytest.raises(type(error)):
        fit(trainer(), [Stop("on_epoch_begin", 2, error), Backup(str(tmp_path / "b"))], epochs=3)
    t = trainer()
    history = fit(t, [Backup(str(tmp_path / "b"))], epochs=3)
    expected, weights = whole()
    assert history.epoch == [2] and history.history["loss"] == expected["loss"][2:]
    assert history.history["step"] == [30]
    np.testing.assert_array_equal(flat(t.model), weights)
    assert not (tmp_path / "b").exists()


@NO_STEPS_BY_BATCH
def test_a_backup_of_the_middle_of_an_epoch_is_exact(tmp_path):
    backup = {"save_freq": 3, "double_checkpoint": True}
    with pytest.raises(KeyboardInterrupt):
        fit(
            trainer(),
            [Stop("on_train_batch_end", 15, KeyboardInterrupt()), Backup(str(tmp_path), **backup)],
            epochs=3,
        )
    found = sorted(path.name for path in tmp_path.glob("step-*"))
    assert found == ["step-000000012.checkpoint", "step-000000015.checkpoint"]
    t = trainer()
    history = fit(t, [Backup(str(tmp_path), **backup)], epochs=3).history
    expected, weights = whole()
    assert [history[name] for name in ("loss", "cosine")] == [expected[name][1:] for name in ("loss", "cosine")]
    np.testing.assert_array_equal(flat(t.model), weights)


@NO_STEPS_BY_BATCH
def test_a_backup_that_is_to_stay_stays(tmp_path):
    fit(trainer(), [Backup(str(tmp_path), delete_checkpoint=False)])
    again = trainer()
    assert fit(again, [Backup(str(tmp_path), delete_checkpoint=False)]).epoch == []
    np.testing.assert_array_equal(flat(again.model), whole(2)[1])


def test_a_backup_of_something_else_is_refused_before_anything_changes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(), [Stop("on_epoch_begin", 1, KeyboardInterrupt()), Backup(str(tmp_path))])
    for t, data, message in (
        (trainer(dim=30), DATA, "written with another method"),
        (trainer(seed=9), DATA, "seed is 0 there and 9 here"),
        (trainer(), blobs(64), "they are not those that were trained on"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(t, [Backup(str(tmp_path))], data=data)
        assert t.step == 0
        np.testing.assert_array_equal(flat(t.model), flat(dense()))
    (tmp_path / "latest.weights.h5").touch()
    with pytest.raises(ValueError, match="is the backup of a model.fit"):
        fit(trainer(), [Backup(str(tmp_path))])


def test_two_fits_cannot_have_one_backup(tmp_path):
    class Second(calls.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with pytest.raises(ConfigError, match="another run is at work there"):
                fit(trainer(), [Backup(str(tmp_path / "b"))])

    fit(trainer(), [Second(), Backup(str(tmp_path / "b"))], epochs=1)
