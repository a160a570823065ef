"""What Keras' metrics keep: over workers, calls of the loop, checkpoints, steps that are not applied."""

import numpy as np
import pytest
from nets import blobs, crossentropy, dense

import rbd_ipu
from rbd_ipu import checkpoints, methods
from rbd_ipu._compat import keras, tf

X, Y = blobs(96)


def trainer(device="cpu", rate=0.1, metrics=True):
    if isinstance(device, int):
        device = rbd_ipu.open_device("cpu", simulate_workers=device)
    model = dense()
    top = keras.metrics.SparseTopKCategoricalAccuracy(3, name="top")
    model.compile(loss=crossentropy(), metrics=["accuracy", top] if metrics else None)
    return rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=rate), device)


def dataset(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)


@pytest.mark.parametrize("workers", [1, 3])
def test_they_see_every_batch_of_every_worker(workers):
    history = trainer(workers, rate=0.0).fit(dataset(), dataset(), epochs=2, verbose=0).history
    for name in ("accuracy", "top"):
        assert 0 < history[name][0] < 1
        np.testing.assert_allclose(history[name], history[f"val_{name}"], rtol=1e-6)
    np.testing.assert_allclose(history["loss"], history["val_loss"], rtol=1e-6)


@pytest.mark.parametrize("name", ["nes", "hybrid", "rbd"])
def test_passes_that_do_not_count_leave_no_trace(name):
    """Losses along directions, and the gradient that an update is compared with."""
    model = dense()
    model.compile(loss=crossentropy(), metrics=["accuracy"])
    t = rbd_ipu.Trainer(model, methods.create(name, learning_rate=0.0, dim=3), "cpu")
    history = t.fit(dataset(), epochs=1, verbose=0).history
    own = dense()
    seen = Y[np.arange(len(Y)) // 8 % t.method.batches == 0]  # the first batch of each step
    x = X[np.arange(len(X)) // 8 % t.method.batches == 0]
    assert history["accuracy"][0] == pytest.approx(np.mean(np.argmax(own(x).numpy(), 1) == seen), abs=1e-6)


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_ends_with_the_same_metrics(monkeypatch, tmp_path):
    monkeypatch.setattr(rbd_ipu.training, "CALL_SECONDS", 0.0)

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if one.progress[:2] == (1, 5):
                checkpoints.save(tmp_path / "a", one)

    one, other = trainer(), trainer()
    expected = one.fit(dataset(), epochs=2, verbose=0, callbacks=[Save()]).history
    start = checkpoints.restore(other, checkpoints.load(tmp_path / "a"))
    found = other.fit(dataset(), epochs=2, verbose=0, start=start).history
    assert [found[name] for name in ("loss", "accuracy", "top")] == [
        expected[name][1:] for name in ("loss", "accuracy", "top")
    ]
    with pytest.raises(ValueError, match="start keeps 4 numbers of metrics, and the metrics here have 0"):
        trainer(metrics=False).fit(dataset(), epochs=2, verbose=0, start=start)


def test_a_step_that_is_not_applied_is_not_measured():
    x = X.copy()
    x[40] = np.nan  # in batch 5
    t = trainer()
    with pytest.raises(rbd_ipu.NonFiniteError, match="at step 5 "):
        t.fit(dataset(x), epochs=1, verbose=0)
    assert t.progress.sums[0] == 5
    t.objective.reset()  # what the variables hold is not what was kept
    logs = t._logs()
    good = trainer().fit(dataset(X[:40], Y[:40]), epochs=1, verbose=0).history
    for name in ("loss", "accuracy", "top"):
        assert logs[name] == pytest.approx(good[name][0], rel=1e-6)


def test_constraints_are_for_sgd():
    dense_layer = keras.layers.Dense(2, kernel_constraint="non_neg")
    model = keras.Sequential([keras.layers.InputLayer((6,)), dense_layer])
    with pytest.raises(
        ValueError, match="constraint of .* out of the subspace of method 'rbd': leave it out, or use"
    ):
        rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=0.1, dim=2), "cpu")


def test_layers_frozen_later_need_another_trainer():
    t = trainer()
    t.model.layers[-1].trainable = False
    with pytest.raises(ValueError, match="had 4 trainable variables .* has 2 or others now: make a new Trainer"):
        t.fit(dataset(), epochs=1, verbose=0)


def test_accuracy_is_that_of_classes_only():
    """Outputs and targets of one shape [B, C] are a regression, unless the loss says otherwise."""
    one_hot = np.eye(10, dtype=np.float32)[Y]

    def columns(loss, y):
        t = rbd_ipu.Trainer(dense(), methods.create("sgd", learning_rate=0.01), "cpu", loss=loss)
        return set(t.fit((X, y), (X, y), epochs=1, verbose=0).history)

    assert "accuracy" not in columns("mse", one_hot) and "accuracy" not in columns(keras.losses.Huber(), one_hot)
    assert {"accuracy", "val_accuracy"} <= columns(keras.losses.CategoricalCrossentropy(from_logits=True), one_hot)


def test_arrays_of_several_inputs_and_outputs_are_shuffled_together():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    model = keras.Model({"a": a, "b": b}, [keras.layers.Dense(2)(a), keras.layers.Dense(1)(b)])
    model.compile(loss=["mse", "mse"], loss_weights=[1.0, 0.5])
    t = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.0), "cpu")
    data = ({"a": X, "b": -X}, (X[:, :2], X[:, :1]), (np.abs(X[:, 0]), np.abs(X[:, 1])))
    history = t.fit(data, data, epochs=2, batch_size=8, verbose=0).history
    np.testing.assert_allclose(history["loss"], history["val_loss"], rtol=1e-5)
    with pytest.raises(ValueError, match="96 inputs but 95 weights"):
        t.fit((*data[:2], np.ones(95)), epochs=1, verbose=0)
