"""The Trainer: against NumPy step by step, its metrics, its callbacks, and what it refuses."""

import math
import subprocess
import sys

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat, gradient, set_flat
from reference import close

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.data import Batches
from rbd_ipu.data.inputs import feed
from rbd_ipu.methods import METHODS

OPTIONS = {
    "sgd": {"learning_rate": 0.25},
    "rbd": {"learning_rate": 2.0, "dim": 20},
    "fpd": {"learning_rate": 0.5, "dim": 20},
    "nes": {"learning_rate": 0.25, "dim": 3, "antithetic": True},
    "hybrid": {"learning_rate": 2.0, "dim": 20, "antithetic": True},
    "gradients": {"learning_rate": 0.125, "dim": 2},
    "compressed": {"learning_rate": 0.02, "fraction": 0.1},
    "switch": {"learning_rate": 2.0, "sgd_learning_rate": 0.25, "dim": 20, "switch_step": 15},
}


def trainer(name="rbd", model=None, **options):
    return rbd_ipu.Trainer(model or dense(), methods.create(name, **{**OPTIONS[name], **options}), "cpu")


def dataset(x, y, batch=32):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)


def simulate(model, method, x, y, steps, momentum=0.0, batch=32):
    """Keras' SGD with momentum on P P^T g, in float64."""
    velocity = 0.0
    for t in range(steps):
        xb, yb = x[t * batch : (t + 1) * batch], y[t * batch : (t + 1) * batch]
        update = gradient(model, xb, yb)
        if method.name != "sgd":
            index = int(method.basis_index(tf.constant(t)))
            P = method.subspace.directions(method.seed, index).numpy().astype(np.float64)
            update = P.T @ (P @ update)
        velocity = momentum * velocity - method.learning_rate * update
        set_flat(model, flat(model) + velocity)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sgd", "rbd", "fpd"])  # the others: tests/methods
def test_an_epoch_is_what_numpy_makes_of_it(name, momentum):
    x, y = blobs()
    t = trainer(name, momentum=momentum)
    t.fit(dataset(x, y), epochs=1, verbose=0)
    other = dense()
    simulate(other, t.method, x, y, 10, momentum)
    assert t.step == 10
    close(flat(t.model) - flat(dense()), flat(other) - flat(dense()), 1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "nes"])  # which takes longer: tests/methods
def test_every_method_learns(name):
    x, y = blobs()
    history = trainer(name).fit((x, y), (x, y), epochs=8, verbose=0).history
    assert history["val_loss"][-1] < 0.7 * history["val_loss"][0]
    assert history["val_accuracy"][-1] > 0.5


@pytest.mark.parametrize("name", ["rbd", "fpd"])
def test_same_seed_same_bits_other_seed_other_bits(name):
    x, y = blobs()

    def weights(seed):
        t = trainer(name, seed=seed)
        t.fit((x, y), epochs=2, verbose=0, seed=3)
        return flat(t.model)

    first = weights(1)
    np.testing.assert_array_equal(first, weights(1))
    assert np.abs(first - weights(2)).max() > 1e-3


def test_the_length_of_calls_changes_nothing():
    """Epochs of many calls of the loop and of one end at the same bits, in the metrics too."""
    x, y = blobs()

    def trained(rate):
        t = trainer()
        t._rate, t._traced = rate, True
        history = t.fit((x, y), epochs=1, verbose=0).history
        return flat(t.model), [history[name] for name in ("loss", "accuracy", "cosine", "correlation")]

    (weights, metrics), (others, other_metrics) = trained(1e-3), trained(1e9)
    np.testing.assert_array_equal(weights, others)
    assert metrics == other_metrics


def test_metrics_of_an_epoch():
    x, y = blobs()
    t = trainer(dim=21)
    history = t.fit((x, y), (x, y), epochs=2, verbose=0).history
    names = "accuracy correlation cosine images_per_second loss seconds step val_accuracy val_loss"
    assert sorted(history) == names.split()
    assert history["step"] == [10, 20]
    assert all(math.isfinite(v) for row in history.values() for v in row)
    # Unit directions that are nearly orthogonal catch a fraction d / D of the squared norm.
    assert 0.5 * math.sqrt(21 / 214) < history["cosine"][-1] < 1.7 * math.sqrt(21 / 214)
    assert history["val_loss"][-1] == pytest.approx(t.evaluate((x, y))["loss"], rel=1e-5)


def test_sgd_follows_the_gradient_exactly():
    x, y = blobs()
    history = trainer("sgd").fit((x, y), epochs=1, verbose=0).history
    assert history["correlation"] == [1.0] and history["cosine"] == [1.0]


def test_loss_and_accuracy_against_keras():
    x, y = blobs()
    t = trainer("sgd", learning_rate=0.0)
    logs = t.fit(dataset(x, y), epochs=1, verbose=0).history
    reference = dense()
    expected = float(crossentropy()(y, reference(x)))
    right = float(np.mean(np.argmax(reference(x).numpy(), axis=1) == y))
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert logs["accuracy"][0] == pytest.approx(right, abs=1e-6)
    found = t.evaluate((x, y))
    assert found["loss"] == pytest.approx(expected, rel=1e-5) and found["accuracy"] == pytest.approx(right)


def test_a_non_finite_step_stops_the_run_and_is_not_applied():
    x, y = blobs()
    x[100] = np.nan  # in batch 3 of each epoch
    t = trainer("rbd", learning_rate=0.5)
    with pytest.raises(rbd_ipu.NonFiniteError, match="not finite at step 3 .*learning rate 0.5") as caught:
        t.fit(dataset(x, y), epochs=3, verbose=0)
    assert caught.value.step == 3 and caught.value.epoch == 0
    model = dense()
    simulate(model, t.method, x, y, 3)
    close(flat(t.model) - flat(dense()), flat(model) - flat(dense()), 1e-4)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_is_not_applied_leaves_moving_statistics_alone(workers):
    def run(x):
        with rbd_ipu.open_device("cpu", simulate_workers=workers) as device:
            layers = [keras.layers.InputLayer((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(10)]
            model = keras.Sequential(layers)
        t = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), device)
        return t, lambda: t.fit(dataset(x, y[: len(x)]), epochs=1, verbose=0)

    x, y = blobs(256)
    x[200] = np.nan
    t, fit = run(x)
    with pytest.raises(rbd_ipu.NonFiniteError) as caught:
        fit()
    good, fit_good = run(x[: 32 * workers * caught.value.step])
    fit_good()
    statistics = [[v.numpy() for v in one.model.non_trainable_variables] for one in (t, good)]
    assert len(statistics[0]) == 2
    for found, expected in zip(*statistics):
        np.testing.assert_array_equal(found, expected)


def test_a_diverging_run_keeps_the_epochs_before():
    x, y = blobs()
    good = dataset(x, y)
    t = trainer("sgd")
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 2 else 1e38)
    with pytest.raises(rbd_ipu.NonFiniteError) as caught:
        t.fit(good, epochs=5, verbose=0, callbacks=[schedule])
    assert len(caught.value.history.history["loss"]) == 2 and caught.value.epoch == 2
    assert np.isfinite(flat(t.model)).all()


def test_callbacks_are_keras_callbacks(tmp_path):
    x, y = blobs()
    calls = keras.callbacks
    rates = []
    suffix = ".weights.h5"
    t = trainer("rbd")
    history = t.fit(
        (x, y),
        (x, y),
        epochs=6,
        verbose=0,
        callbacks=[
            calls.CSVLogger(str(tmp_path / "log.csv")),
            calls.ModelCheckpoint(str(tmp_path / f"best{suffix}"), save_weights_only=True),
            calls.TensorBoard(str(tmp_path / "events"), write_graph=False, profile_batch=0),
            calls.LearningRateScheduler(lambda epoch: 1.0 / (1 + epoch)),
            calls.LambdaCallback(on_epoch_end=lambda *_: rates.append(float(t.model.optimizer.learning_rate))),
            calls.EarlyStopping("val_loss", patience=1, min_delta=1e9),
        ],
    ).history
    assert len(history["loss"]) == 2  # stopped early: nothing improves by 1e9
    assert rates == pytest.approx([1.0, 0.5])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert list((tmp_path / "events").rglob("events.*"))
    restored = dense()
    restored.load_weights(str(tmp_path / f"best{suffix}"))
    np.testing.assert_array_equal(flat(restored), flat(t.model))


def test_a_callback_can_stop_within_an_epoch():
    x, y = blobs()
    t = trainer("sgd")

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            t.model.stop_training = True

    t.fit((x, y), epochs=3, verbose=0, callbacks=[Stop()])
    assert 1 <= t.step < 10


def test_a_schedule_is_followed():
    x, y = blobs()
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.25, 0.0])
    t = trainer("sgd", learning_rate=rate)
    t.fit(dataset(x, y), epochs=1, verbose=0)
    model = dense()
    simulate(model, methods.create("sgd", learning_rate=0.25), x, y, 5)  # steps 0 ... 4
    close(flat(t.model), flat(model), 1e-5)


def test_the_progress_bar_shows_the_metrics(capsys):
    x, y = blobs()
    trainer("sgd").fit((x, y), (x, y), epochs=2, verbose=1)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed and "10/10" in printed and "val_accuracy" in printed


def test_epochs_go_on_where_they_stopped():
    x, y = blobs()
    whole, parts = trainer(), trainer()
    whole.fit((x, y), epochs=3, verbose=0)
    parts.fit((x, y), epochs=1, verbose=0)
    parts.fit((x, y), epochs=3, initial_epoch=1, verbose=0)
    np.testing.assert_array_equal(flat(whole.model), flat(parts.model))


def test_kinds_of_data():
    x, y = blobs(64)
    t = trainer("sgd")
    t.fit(Batches((x, y), 16, seed=0), epochs=1, verbose=0)
    assert t.step == 4
    t.fit(dataset(x, y, 16).repeat(), epochs=1, verbose=0, steps_per_epoch=3)
    assert t.step == 7
    t.fit(dataset(x, y, 16).filter(lambda *_: True), epochs=1, verbose=0, steps_per_epoch=2)
    assert t.step == 9


def test_one_hot_labels_and_other_losses():
    x, y = blobs(64)
    model = dense(outputs=10)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    t = trainer("rbd", model)
    history = t.fit(dataset(x, np.eye(10, dtype=np.float32)[y]), epochs=1, verbose=0).history
    assert "accuracy" in history
    regression = rbd_ipu.Trainer(dense(outputs=1), methods.create("sgd", learning_rate=0.01), loss="mse")
    history = regression.fit(dataset(x, y[:, None].astype(np.float32)), epochs=1, verbose=0).history
    assert "accuracy" not in history and math.isfinite(history["loss"][0])


def test_batch_normalisation_and_regularisers_train():
    x, y = blobs()
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((6,)),
            layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1)),
            layers.BatchNormalization(),
            layers.Dense(10),
        ]
    )
    before = [w.copy() for w in model.get_weights()]
    t = trainer("rbd", model)
    t.fit((x, y), epochs=1, verbose=0)
    assert t.method.size == 6 * 8 + 8 + 2 * 8 + 8 * 10 + 10
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights()))
    cost = float(crossentropy()(y, model(x, training=False))) + 0.1 * np.square(model.get_weights()[0]).sum()
    assert t.evaluate((x, y))["loss"] == pytest.approx(cost, rel=1e-5)  # as Keras' own evaluate


def test_a_dataset_that_ends_early_is_named():
    spec = (tf.TensorSpec([32, 6], tf.float32), tf.TensorSpec([32], tf.int32))
    unknown = tf.data.Dataset.from_generator(lambda: iter(()), output_signature=spec)
    with pytest.raises(ValueError, match="the dataset ended within epoch 1, before its step 9"):
        trainer("sgd").fit(unknown, epochs=1, verbose=0, steps_per_epoch=9)


@pytest.mark.parametrize(
    "data, error, message",
    [
        ((np.zeros((4, 6)),), TypeError, r"arrays \(x, y\) or \(x, y, weights\)"),
        (np.zeros((4, 6)), TypeError, "got ndarray"),
        (None, TypeError, "got NoneType"),
        ((np.zeros((64, 6)), np.zeros(32, int)), ValueError, "32"),
        ((np.zeros((8, 6)), np.zeros(8, int)), ValueError, "batch_size 32 is more than the 8"),
    ],
)
def test_bad_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        trainer("sgd").fit(data, epochs=1, verbose=0)


@pytest.mark.parametrize("kind", ["endless", "longer than an epoch", "of unknown length"])
def test_steps_per_epoch_cut_one_stream_as_in_keras(kind):
    seen = []

    def batch(i):
        i = tf.numpy_function(lambda i: seen.append(int(i)) or i, [i], tf.int64)
        return tf.ones([4, 6]) * tf.reshape(tf.cast(i, tf.float32), [1, 1]), tf.zeros([4], tf.int32)

    numbers = tf.data.Dataset.range(5)
    numbers = {"endless": numbers.repeat(), "of unknown length": numbers.filter(lambda i: i >= 0)}.get(kind, numbers)
    data = numbers.map(batch)
    trainer("sgd").fit(data, epochs=4, verbose=0, steps_per_epoch=3)
    assert seen[:12] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    found = next(feed(data, 4, 0, steps_per_epoch=3).iterators(2, 1))  # seven steps were before it
    assert [int(next(found)[0][0, 0]) for _ in range(4)] == [2, 3, 4, 0]


def test_many_trainers_are_no_reason_for_a_warning(caplog):
    x, y = blobs(64)
    for _ in range(7):  # TensorFlow warns at the fifth of eight traces of the same code
        trainer("sgd").fit(dataset(x, y), dataset(x, y), epochs=1, verbose=0)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_endless_and_unknown_lengths_need_steps():
    x, y = blobs(64)
    with pytest.raises(ValueError, match="endless: pass steps_per_epoch"):
        trainer("sgd").fit(dataset(x, y).repeat(), epochs=1, verbose=0)
    with pytest.raises(ValueError, match="unknown length: pass steps_per_epoch"):
        trainer("sgd").fit(dataset(x, y).filter(lambda *_: True), epochs=1, verbose=0)
    nothing = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: False).batch(8)
    with pytest.raises(ValueError, match="the dataset is empty"):
        trainer("sgd").fit(nothing, epochs=1, verbose=0, steps_per_epoch=3)
    with pytest.raises(ValueError, match="but the dataset has 2 batches"):
        trainer("sgd").fit(dataset(x, y), epochs=1, verbose=0, steps_per_epoch=3)
    with pytest.raises(ValueError, match="endless dataset cannot be evaluated"):
        trainer("sgd").evaluate(dataset(x, y).repeat())


def test_models_that_cannot_be_trained_are_refused():
    method = methods.create("sgd", learning_rate=0.1)
    with pytest.raises(TypeError, match="must be a Keras model, got 'fc'"):
        rbd_ipu.Trainer("fc", method)
    with pytest.raises(TypeError, match="must come from rbd_ipu.methods.create"):
        rbd_ipu.Trainer(dense(), "sgd")
    with pytest.raises(ValueError, match="is not built yet"):
        rbd_ipu.Trainer(keras.Sequential([keras.layers.Dense(3)]), method)
    frozen = dense()
    frozen.trainable = False
    with pytest.raises(ValueError, match="no trainable variables"):
        rbd_ipu.Trainer(frozen, method)
    with pytest.raises(ValueError, match="unknown device 'tpu'; accepted: 'cpu', 'gpu'"):
        rbd_ipu.Trainer(dense(), method, "tpu")
    with pytest.raises(TypeError, match="loss must be a Keras loss"):
        rbd_ipu.Trainer(dense(), method, loss=3)


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_epochs_are_positive_integers(epochs):
    with pytest.raises((TypeError, ValueError), match="epochs must be an integer >= 1"):
        trainer("sgd").fit(blobs(), epochs=epochs, verbose=0)


@pytest.mark.parametrize("name", METHODS)
def test_no_second_trace(name, monkeypatch):
    x, y = blobs()
    t = trainer(name)
    traces = []
    step = t.method.step  # called by Python only while the loop is traced
    monkeypatch.setattr(t.method, "step", lambda *arguments: traces.append(1) or step(*arguments))
    t.fit((x, y), epochs=1, verbose=0)
    once = len(traces)
    t.fit((x, y), epochs=3, verbose=0)
    assert len(traces) == once > 0


@pytest.mark.parametrize("name", METHODS)
def test_goes_on_in_the_middle_of_an_epoch(name, monkeypatch):
    """A trainer that takes over weights, step and progress ends where an undisturbed one does."""
    monkeypatch.setattr(rbd_ipu.training, "CALL_SECONDS", 0.0)  # one step a call
    x, y = blobs()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if taken.progress.epoch == 1 and taken.progress.step == 2:
                raise KeyboardInterrupt

    whole, taken, resumed = trainer(name), trainer(name), trainer(name)
    expected = whole.fit((x, y), epochs=3, verbose=0, seed=5).history
    with pytest.raises(KeyboardInterrupt):
        taken.fit((x, y), epochs=3, verbose=0, seed=5, callbacks=[Stop()])
    assert (taken.progress.epoch, taken.progress.step) == (1, 2)
    resumed.model.set_weights(taken.model.get_weights())
    resumed.model.optimizer.iterations.assign(taken.step)
    for name, slot in resumed.method.slots.items():
        slot.assign(taken.method.slots[name])
    history = resumed.fit((x, y), epochs=3, verbose=0, seed=5, start=taken.progress).history
    assert history["loss"] == expected["loss"][1:]
    assert history["step"] == expected["step"][1:]
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
@pytest.mark.parametrize("source", ["counter", "auto"])
def test_memory_does_not_grow_with_the_dimension(source):
    """d = 10,000 directions of the CIFAR-10 CNN are 4.9 GB; a step may take 100 MB more than one with d = 10."""
    program = """
import resource, sys, numpy as np, rbd_ipu
from rbd_ipu import methods, models
source, dim = sys.argv[1], int(sys.argv[2])
method = methods.create("rbd", learning_rate=0.1, dim=dim, source=source)
trainer = rbd_ipu.Trainer(models.build("cnn", (32, 32, 3)), method, "cpu")
rng = np.random.default_rng(0)
trainer.fit((rng.random((32, 32, 32, 3), np.float32), rng.integers(0, 10, 32)), epochs=1, verbose=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", program, source]
    peaks = [int(subprocess.check_output([*command, dim]).split()[-1]) for dim in ("10", "10000")]
    assert peaks[1] - peaks[0] < 100_000, peaks


def test_a_model_of_the_legacy_keras_is_refused_as_such():
    legacy = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential", "name": "old"})
    with pytest.raises(TypeError, match="model 'old' is of tf_keras, the legacy Keras 2"):
        rbd_ipu.Trainer(legacy(), methods.create("sgd", learning_rate=0.1), "cpu")
