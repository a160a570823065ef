"""Save, load, restore: a training that goes on ends at the bits of one that was never disturbed."""

import math

import numpy as np
import pytest
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu import checkpoints, methods, training
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.checkpoints import CheckpointError, file
from rbd_ipu.checkpoints.state import variables
from rbd_ipu.data import Batches

X, Y = blobs()
TIMES = ("seconds", "images_per_second")


def trainer(name="rbd", model=None, **options):
    options = {"learning_rate": 0.25, **({} if name == "sgd" else {"dim": 20}), **options}
    return rbd_ipu.Trainer(model or dense(), methods.create(name, **options), "cpu")


def normalised():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.InputLayer((6,)),
            layers.Dense(8, kernel_initializer=keras.initializers.GlorotUniform(1)),
            layers.BatchNormalization(),
            layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(2)),
        ]
    )


class StopAt(keras.callbacks.Callback):
    """Ends a training at a place, as Ctrl-C does."""

    def __init__(self, trainer, epoch, step):
        super().__init__()
        self.trainer, self.place = trainer, (epoch, step)

    def on_train_batch_end(self, batch, logs=None):
        if (self.trainer.progress.epoch, self.trainer.progress.step) == self.place:
            raise KeyboardInterrupt


def values(t):
    return [np.asarray(v.numpy()) for members in variables(t).values() for _, v in members]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name, options, make",
    [
        ("rbd", {"momentum": 0.5, "redraw_every": 3}, dense),
        ("fpd", {"compartments": "layer"}, dense),
        ("rbd", {"inner": "adam", "state": "coordinates", "redraw_every": 4}, dense),
        ("sgd", {"momentum": 0.9}, normalised),
    ],
)
@pytest.mark.parametrize("place", [(1, 3), (1, 10)])  # in the middle of an epoch, and before its validation
def test_a_run_that_goes_on_is_one_that_was_never_disturbed(tmp_path, monkeypatch, name, options, make, place):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)  # a step a call
    data = {"train": Batches((X, Y), 32, seed=3), "validation": (X, Y), "epochs": 3, "verbose": 0}
    taken, resumed = trainer(name, make(), **options), trainer(name, make(), **options)
    with pytest.raises(KeyboardInterrupt):
        taken.fit(callbacks=[StopAt(taken, *place)], **data)
    checkpoints.save(tmp_path / "a", taken)
    resumed.model.set_weights([np.zeros_like(w) for w in resumed.model.get_weights()])
    start = checkpoints.restore(resumed, checkpoints.load(tmp_path / "a"))
    assert start == taken.progress and resumed.step == taken.step
    same(values(resumed), values(taken))
    history = resumed.fit(start=start, **data).history

    monkeypatch.setattr(training, "CALL_SECONDS", 60.0)  # and an epoch a call
    whole = trainer(name, make(), **options)
    expected = whole.fit(**data).history
    same(values(whole), values(resumed))
    for column in set(expected) - set(TIMES):
        assert history[column] == expected[column][1:], column


def test_where_a_data_set_is_asked_for_its_next_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    whole, taken, resumed = trainer(), trainer(), trainer()
    whole.fit(data, epochs=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        taken.fit(data, epochs=2, verbose=0, callbacks=[StopAt(taken, 1, 4)])
    checkpoints.save(tmp_path / "a", taken)
    resumed.fit(data, epochs=2, verbose=0, start=checkpoints.restore(resumed, checkpoints.load(tmp_path / "a")))
    same(values(whole), values(resumed))


def test_everything_of_a_checkpoint(tmp_path):
    t = trainer(momentum=0.5)
    t.fit((X, Y), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", t, about={"note": "two\nlines", "seed": 7})
    found = checkpoints.load(tmp_path / "a")
    assert found.path == tmp_path / "a"
    assert (found.step, found.place) == (10, "step 10, after 1 epochs")
    assert (found.progress.epoch, found.progress.step, found.progress.steps_per_epoch) == (1, 0, 10)
    assert found.method["name"] == "rbd" and (found.method["d"], found.method["D"]) == (20, 214)
    assert found.method["seed"] == 0 and found.method["momentum"] == 0.5
    assert found.about == {"note": "two\nlines", "seed": 7}
    assert found.versions["tensorflow"] == tf.__version__
    assert [row[1:] for row in found.variables["model"]] == [
        ["float32", [6, 12]],
        ["float32", [12]],
        ["float32", [12, 10]],
        ["float32", [10]],
    ]
    # Number of steps, learning rate, and a velocity for each weight.
    assert sorted(len(row[2]) for row in found.variables["optimizer"]) == [0, 0, 1, 1, 2, 2]


def test_a_learning_rate_that_a_callback_has_set_is_kept(tmp_path):
    one, other = trainer(), trainer()
    one.model.optimizer.learning_rate.assign(0.125)
    checkpoints.save(tmp_path / "a", one)
    checkpoints.restore(other, checkpoints.load(tmp_path / "a"))
    assert float(other.model.optimizer.learning_rate) == 0.125


def test_a_schedule_goes_on_where_it_was(tmp_path):
    def make():
        return trainer("sgd", learning_rate=keras.optimizers.schedules.ExponentialDecay(0.5, 4, 0.5))

    one, other, whole = make(), make(), make()
    one.fit((X, Y), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", one)
    other.fit((X, Y), epochs=2, verbose=0, start=checkpoints.restore(other, checkpoints.load(tmp_path / "a")))
    whole.fit((X, Y), epochs=2, verbose=0)
    same(values(whole), values(other))


def test_the_slots_of_a_method_are_kept(tmp_path):
    one, other = trainer(), trainer()
    for t, value in ((one, 3.0), (other, 0.0)):
        t.method.slots = {"mean": tf.Variable([value, -value]), "count": tf.Variable(int(value))}
    checkpoints.save(tmp_path / "a", one)
    checkpoints.restore(other, checkpoints.load(tmp_path / "a"))
    assert other.method.slots["mean"].numpy().tolist() == [3.0, -3.0]
    assert int(other.method.slots["count"]) == 3


@pytest.mark.skipif(not KERAS_3, reason="random layers of Keras 2 keep their state inside the operation")
def test_the_states_of_random_layers_are_kept(tmp_path):
    def make():
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.InputLayer((6,)),
                layers.Dense(9, kernel_initializer=keras.initializers.GlorotUniform(1)),
                layers.Dropout(0.5, seed=4),
                layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(2)),
            ]
        )
        return trainer("sgd", model)

    one, other, whole = make(), make(), make()
    one.fit((X, Y), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", one)
    other.fit((X, Y), epochs=2, verbose=0, start=checkpoints.restore(other, checkpoints.load(tmp_path / "a")))
    whole.fit((X, Y), epochs=2, verbose=0)
    same(values(whole), values(other))


def test_weights_in_bfloat16(tmp_path):
    def make():
        layer = keras.layers.Dense(10, dtype="bfloat16", kernel_initializer=keras.initializers.GlorotUniform(1))
        return trainer("sgd", keras.Sequential([keras.layers.InputLayer((6,)), layer]))

    one, other = make(), make()
    one.model.set_weights([np.asarray(w, np.float32) + 0.3 for w in one.model.get_weights()])
    checkpoints.save(tmp_path / "a", one)
    found = checkpoints.load(tmp_path / "a")
    assert found.variables["model"][0][1] == "bfloat16"
    checkpoints.restore(other, found)
    np.testing.assert_array_equal(flat(one.model), flat(other.model))


def test_sums_that_are_not_numbers_come_back(tmp_path):
    """Outputs that are no classes have no accuracy: its sum is NaN, which JSON has no word for."""
    t = rbd_ipu.Trainer(dense(outputs=1), methods.create("sgd", learning_rate=0.01), loss="mse")
    t.progress = t.progress._replace(step=1, sums=(1.0, 1.0, 0.1, math.nan, 1.0, 1 / 3), seconds=0.1)
    checkpoints.save(tmp_path / "a", t)
    found = checkpoints.load(tmp_path / "a").progress
    assert repr(found) == repr(t.progress)


# --- what does not fit is refused, and nothing is changed ---------------------------------------


@pytest.mark.parametrize(
    "other, reason",
    [
        (lambda: trainer(dim=30), "another method: d is 20 there and 30 here$"),
        (lambda: trainer(seed=5), "seed is 0 there and 5 here"),
        (lambda: trainer("fpd"), "name is 'rbd' there and 'fpd' here"),
        (lambda: trainer("sgd"), "name is 'rbd' there and 'sgd' here"),
        (lambda: trainer(learning_rate=0.5), "learning_rate is 0.25 there and 0.5 here"),
        (lambda: trainer(distribution="uniform"), "distribution is 'normal' there and 'uniform' here"),
        (lambda: trainer(model=dense(outputs=11)), "D is 214 there and 227 here"),
        (lambda: trainer(momentum=0.5), "momentum is 0.0 there and 0.5 here"),
        (lambda: trainer(top_k=3), "top_k is None there and 3 here"),
        (lambda: trainer(transform="rank"), "transform is 'none' there and 'rank' here"),
        (lambda: trainer(inner="adam", state="coordinates"), "inner is None there and 'adam' here"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, other, reason):
    checkpoints.save(tmp_path / "a", trainer())
    t = other()
    before, place = values(t), t.progress
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.restore(t, checkpoints.load(tmp_path / "a"))
    same(before, values(t))
    assert t.progress is place


def _shape(facts, arrays):
    arrays["model/1"] = np.zeros(13, np.float32)


def _dtype(facts, arrays):
    facts["variables"]["model"][0][1] = "float64"


def _fewer(facts, arrays):
    del facts["variables"]["model"][3]


def _no_optimizer(facts, arrays):
    del facts["variables"]["optimizer"]


def _no_array(facts, arrays):
    del arrays["model/2"]


def _no_step(facts, arrays):
    del facts["step"]


def _unknown_progress(facts, arrays):
    facts["progress"]["luck"] = 1


@pytest.mark.parametrize(
    "damage, reason",
    [
        (_shape, r"of another shape: .*\[12\] here and float32 \[12\] there"),
        (_dtype, "of another shape: .*float32 .* here and float64"),
        (_fewer, "it has 3 variables of the model, and there are 4 here"),
        (_no_optimizer, "it has no variables of the optimizer"),
        (_no_array, "does not hold the state of a training: KeyError"),
        (_no_step, "does not hold the state of a training: KeyError"),
        (_unknown_progress, "does not hold the state of a training: TypeError"),
    ],
)
def test_a_file_that_is_whole_and_holds_something_else(tmp_path, damage, reason):
    t = trainer()
    checkpoints.save(tmp_path / "a", t)
    facts, arrays = file.read(tmp_path / "a")
    arrays = dict(arrays)
    damage(facts, arrays)
    file.write(tmp_path / "a", facts, arrays)
    before = values(t)
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.restore(t, checkpoints.load(tmp_path / "a"))
    same(before, values(t))


def test_data_with_other_epochs_are_refused(tmp_path):
    one, other = trainer("sgd"), trainer("sgd")
    one.fit((X, Y), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", one)
    start = checkpoints.restore(other, checkpoints.load(tmp_path / "a"))
    with pytest.raises(ValueError, match="of 10 steps, but the data give 5 steps an epoch"):
        other.fit((X, Y), epochs=2, verbose=0, start=start, batch_size=64)


def test_a_step_that_is_not_in_the_epoch_is_refused():
    t = trainer("sgd")
    with pytest.raises(ValueError, match=r"start is at step 11 of an epoch of \(unknown\) steps"):
        t.fit((X, Y), epochs=2, verbose=0, start=t.progress._replace(step=11))
