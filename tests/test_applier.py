"""A model that a Trainer has trained: however it is saved, it never goes on with another method by itself."""

import gc
import warnings

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import KERAS_3, current_rate, keras, tf

FILES = ("model.h5", "model.keras") if KERAS_3 else ("model.h5", "folder")
WEIGHTS = ("own.weights.h5",) if KERAS_3 else ("own.weights.h5", "own")
DATA = blobs(64)


def trainer(model=None):
    return rbd_ipu.Trainer(model or dense(), methods.create("rbd", learning_rate=2.0, dim=20), "cpu")


def compiled(model, optimizer):
    model.compile(optimizer=optimizer, loss=crossentropy(), metrics=["accuracy"])
    return model


class Save(keras.callbacks.Callback):
    def __init__(self, save):
        super().__init__()
        self.save = save

    def on_epoch_end(self, epoch, logs=None):
        self.save(self.model)


@pytest.fixture(params=["not compiled", "compiled and fitted"])
def model(request):
    """As users bring it."""
    brought = dense()
    if request.param == "compiled and fitted":
        compiled(brought, "adam").fit(*DATA, verbose=0)
    return brought


@pytest.mark.parametrize("when", ["inside", "after"])
@pytest.mark.parametrize("file", FILES)
def test_a_saved_model_loads_uncompiled(tmp_path, model, file, when):
    path = str(tmp_path / file)
    t = trainer(model)
    save = Save(lambda model: model.save(path) if when == "inside" else None)
    t.fit(DATA, epochs=1, verbose=0, callbacks=[save])
    if when == "after":
        model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(flat(loaded), flat(model))
    assert getattr(loaded, "optimizer", None) is None
    with pytest.raises((RuntimeError, ValueError), match="compile"):
        loaded.fit(*DATA, verbose=0)


def test_an_exported_model_has_no_optimizer(tmp_path):
    path = str(tmp_path / "served")
    t = trainer()
    export = (
        (lambda model: model.export(path, verbose=False)) if KERAS_3 else (lambda m: tf.saved_model.save(m, path))
    )
    t.fit(DATA, epochs=1, verbose=0, callbacks=[Save(export)])
    loaded = tf.saved_model.load(path)
    assert not hasattr(loaded, "optimizer")
    serve = loaded.serve if KERAS_3 else loaded
    np.testing.assert_allclose(serve(DATA[0]), t.model(DATA[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("named", [False, True])
def test_a_checkpoint_of_tensorflow_brings_no_learning_rate(named, tmp_path):
    model, other = dense(), compiled(dense(), keras.optimizers.SGD(0.125))
    trainer(model).fit(DATA, epochs=1, verbose=0)
    one, two = (tf.train.Checkpoint(model=m, **({"optimizer": m.optimizer} if named else {})) for m in (model, other))
    two.restore(one.save(str(tmp_path / "a"))).expect_partial()
    np.testing.assert_array_equal(flat(other), flat(model))
    other.fit(*DATA, verbose=0)
    assert current_rate(other.optimizer) == 0.125 and int(other.optimizer.iterations) == 2


@pytest.mark.parametrize("file", WEIGHTS)
def test_saved_weights_bring_no_learning_rate(tmp_path, file):
    """Else an SGD at 0.01 would go on at the rate of the subspace, and nobody would be told."""
    path = str(tmp_path / file)
    t = trainer()
    t.fit(DATA, epochs=1, verbose=0, callbacks=[Save(lambda model: model.save_weights(path))])
    other = compiled(dense(5), keras.optimizers.SGD(0.01))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")  # Keras says so
        other.load_weights(path)
    np.testing.assert_array_equal(flat(other), flat(t.model))
    other.fit(*DATA, batch_size=64, verbose=0)  # Keras 2 restores an optimizer when it is first used
    assert current_rate(other.optimizer) == pytest.approx(0.01) and int(other.optimizer.iterations) == 1


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_load_into_the_model_of_another_trainer(tmp_path, file):
    t = trainer()
    t.fit(DATA, epochs=1, verbose=0)
    t.model.save_weights(str(tmp_path / file))
    other = trainer()
    other.model.load_weights(str(tmp_path / file))
    np.testing.assert_array_equal(flat(other.model), flat(t.model))
    assert current_rate(other.model.optimizer) == 2.0


def test_fit_is_refused_until_the_model_is_compiled_anew(model):
    t = trainer(model)
    t.fit(DATA, epochs=1, verbose=0)
    before = flat(model)
    with pytest.raises(RuntimeError, match="compile it with an optimizer for that"):
        model.fit(*DATA, verbose=0)
    np.testing.assert_array_equal(flat(model), before)
    compiled(model, rbd_ipu.RandomBasesDescent(0.5, dim=20)).fit(*DATA, verbose=0)
    assert np.abs(flat(model) - before).max() > 0


@pytest.mark.parametrize("file", FILES)
def test_a_model_compiled_after_the_training_is_saved_with_its_optimizer(tmp_path, file):
    model = dense()
    trainer(model).fit(DATA, epochs=1, verbose=0)
    compiled(model, rbd_ipu.RandomBasesDescent(0.5, dim=20)).fit(*DATA, batch_size=16, verbose=0)
    model.save(str(tmp_path / file))
    loaded = keras.models.load_model(str(tmp_path / file))
    assert isinstance(loaded.optimizer, rbd_ipu.RandomBasesDescent)
    assert int(loaded.optimizer.iterations) == 4


def test_the_trainer_takes_the_model_back_from_another_compile_and_another_trainer():
    """Each trainer goes on at its own step and rate, and not with what the model was compiled for in between."""
    x, y = blobs(64)
    model = dense()
    one, other = trainer(model), rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), "cpu")
    one.fit((x, y), epochs=2, verbose=0)
    other.fit((x, y), epochs=1, verbose=0)
    compiled(model, "adam").fit(x, y, verbose=0)
    one.fit((x, y), epochs=3, initial_epoch=2, verbose=0)
    assert (one.step, other.step) == (6, 2)
    assert model.optimizer is one.optimizer and current_rate(one.optimizer) == 2.0
    with pytest.raises(RuntimeError, match="rbd_ipu.Trainer"):
        model.fit(x, y, verbose=0)


def test_a_model_compiled_with_another_loss_meanwhile_is_refused():
    """Its own loss is what the Trainer descends, and so would others think; one that was passed is the Trainer's."""
    y = np.eye(10, dtype=np.float32)[DATA[1]]
    model = dense()
    model.compile("sgd", "mse", loss_weights=[2.0])
    method = methods.create("rbd", learning_rate=0.1, dim=20)
    own, passed = rbd_ipu.Trainer(model, method, "cpu"), trainer(model)
    own.fit((DATA[0], y), epochs=1, verbose=0)
    for options in ({"loss": "mae", "loss_weights": [2.0]}, {"loss": "mse"}):
        model.compile("sgd", **options)
        with pytest.raises(ValueError, match="after this Trainer was made for loss.*make a new Trainer"):
            own.fit((DATA[0], y), epochs=2, initial_epoch=1, verbose=0)
    model.compile("adam", "mse", loss_weights=[2.0])
    gc.collect()  # what was compiled before must outlive it
    own.fit((DATA[0], y), epochs=2, initial_epoch=1, verbose=0)
    assert own.step == 4 and passed.objective.check_compiled() is None
    model.compile("adam", "mse", loss_weights=[2.0], metrics=["mae"])
    with pytest.raises(ValueError, match="after this Trainer was made for metrics=None"):
        own.fit((DATA[0], y), epochs=3, initial_epoch=2, verbose=0)


class Scaled(keras.losses.Loss):
    """Has a setting that its configuration does not say, as most losses of people's own."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def call(self, y, outputs):
        return self.scale * tf.reduce_mean(tf.square(y - outputs), axis=-1)


def test_an_evaluation_after_another_compile_has_the_same_metrics_or_is_refused():
    y = np.eye(10, dtype=np.float32)[DATA[1]]
    model = dense()
    model.compile("sgd", "mse", metrics=["mae"])
    trained = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), "cpu")
    trained.fit((DATA[0], y), (DATA[0], y), epochs=1, verbose=0)
    wanted = trained.evaluate((DATA[0], y))
    model.compile("adam", "mse", metrics=["mae"])
    gc.collect()
    model.evaluate(DATA[0], y, verbose=0)
    for _ in range(2):
        assert trained.evaluate((DATA[0], y)) == wanted
    model.compile("adam", "mae", metrics=["mae"])
    with pytest.raises(ValueError, match="after this Trainer was made for loss"):
        trained.evaluate((DATA[0], y))


def test_a_loss_of_ones_own_with_other_settings_is_another_loss():
    y = np.eye(10, dtype=np.float32)[DATA[1]]
    model = dense()
    model.compile("sgd", Scaled(1.0))
    trained = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), "cpu")
    trained.fit((DATA[0], y), epochs=1, verbose=0)
    model.compile("sgd", Scaled(5.0))
    with pytest.raises(ValueError, match="after this Trainer was made for loss"):
        trained.fit((DATA[0], y), epochs=2, initial_epoch=1, verbose=0)


def test_a_callback_can_evaluate_the_model():
    found = []
    t = trainer()
    t.fit(
        DATA,
        DATA,
        epochs=1,
        verbose=0,
        callbacks=[Save(lambda model: found.append(model.evaluate(*DATA, verbose=0)))],
    )
    assert found[0] == pytest.approx(t.evaluate(DATA)["loss"], rel=1e-5)
