"""The table of docs/keras.md, row by row: what a Keras model says, in the Trainer and with our optimizers in fit.

"yes": three epochs end where Keras' own fit with plain SGD does, to 1e-6, weights and logs. "no": refused by name
before the first step.
"""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import KERAS_3, keras, tf

PAGE = Path(__file__).resolve().parents[2] / "docs" / "keras.md"
L = keras.layers
RATE, EPOCHS, N, BATCH = 0.05, 3, 20, 8  # the last batch of an epoch is of 4
RNG = np.random.default_rng(0)
X, Z = RNG.standard_normal((2, N, 5)).astype(np.float32)
Y = RNG.standard_normal((N, 2)).astype(np.float32)
CLASSES = RNG.integers(0, 3, N).astype(np.int32)
W = RNG.random(N).astype(np.float32) + 0.1
TOKENS = RNG.integers(0, 6, (N, 4)).astype(np.int32)
TOKENS[:, 2:] *= RNG.integers(0, 2, (N, 2))
SERIES = RNG.standard_normal((N, 4, 3)).astype(np.float32) * (TOKENS > 0)[..., None]
STEPS = RNG.standard_normal((N, 4, 2)).astype(np.float32)

ROWS = {}  # by the name in the table


def row(name):
    """Registers a case: (model, arguments of compile, data); data are arrays for a tf.data.Dataset."""
    return lambda case: ROWS.setdefault(name, case)


def net(*layers, inputs=(5,)):
    return keras.Sequential([L.InputLayer(inputs), *layers])


def two_outputs(as_dict=False):
    x = keras.Input((5,))
    a, b = L.Dense(2, name="a")(x), L.Dense(3, name="b")(x)
    return keras.Model(x, {"a": a, "b": b} if as_dict else [a, b])


@row("`Masking`, in loss and metrics")
def _():
    model = net(L.Masking(), L.Dense(3, "tanh"), L.Dense(2), inputs=(4, 3))
    return model, {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mse"]}, (SERIES, STEPS)


@row("`Embedding(mask_zero=True)`, in loss and metrics")
def _():
    model = net(L.Embedding(6, 3, mask_zero=True), L.Dense(3, "tanh"), L.Dense(2), inputs=(4,))
    return model, {"loss": "mse", "metrics": ["mae"]}, (TOKENS, STEPS)


@row("masks and weights together")
def _():
    model = net(L.Masking(), L.Dense(3, "tanh"), L.Dense(2), inputs=(4, 3))
    return model, {"loss": "mse", "weighted_metrics": ["mae"]}, (SERIES, STEPS, np.tile(W[:, None], (1, 4)))


@row("several outputs, in a list")
def _():
    return two_outputs(), {"loss": ["mse", "mae"], "metrics": [["mae"], ["mse"]]}, (X, (Y, Y[:, :1]))


@row("several outputs, in a dict")
def _():
    loss = {"a": "mse", "b": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    return two_outputs(as_dict=True), {"loss": loss, "metrics": {"b": ["accuracy"]}}, (X, {"a": Y, "b": CLASSES})


@row("`loss_weights`")
def _():
    return two_outputs(), {"loss": ["mse", "mae"], "loss_weights": [0.3, 2.0]}, (X, (Y, Y[:, :1]))


@row("several inputs, in a list")
def _():
    inputs = [keras.Input((5,)), keras.Input((5,))]
    return keras.Model(inputs, L.Dense(2)(L.Add()(inputs))), {"loss": "mse"}, ((X, Z), Y)


@row("several inputs, in a dict")
def _():
    inputs = {"p": keras.Input((5,), name="p"), "q": keras.Input((5,), name="q")}
    model = keras.Model(inputs, L.Dense(2)(L.Subtract()([inputs["p"], inputs["q"]])))
    return model, {"loss": "mse"}, ({"p": X, "q": Z}, Y)


@row("sample weights, as `(x, y, weights)`")
def _():
    return net(L.Dense(2)), {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mae"]}, (X, Y, W)


@row("sample weights for each output")
def _():
    return two_outputs(), {"loss": ["mse", "mae"]}, (X, (Y, Y[:, :1]), (W, W[::-1].copy()))


@row("class weights, as `(x, y, weights)`")
def _():
    weights = np.array([0.5, 1.0, 3.0], np.float32)[CLASSES]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return net(L.Dense(3)), {"loss": loss}, (X, CLASSES, weights)


class Priced(L.Layer):
    """Costs what its inputs' squares are."""

    def call(self, inputs):
        self.add_loss(0.1 * tf.reduce_mean(tf.square(inputs)))
        return inputs


@row("`add_loss`")
def _():
    return net(L.Dense(3), Priced(), L.Dense(2)), {"loss": "mse"}, (X, Y)


@row("`add_loss` alone, without a loss")
def _():
    return net(L.Dense(3), Priced()), {"loss": None}, (X, Y)


@row("regularizers")
def _():
    dense = L.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1), bias_regularizer=keras.regularizers.L1(0.1))
    return net(dense), {"loss": "mse"}, (X, Y)


@row("activity regularizers")
def _():
    return net(L.Dense(2, activity_regularizer=keras.regularizers.L2(0.1))), {"loss": "mse"}, (X, Y)


@row("a loss by its name")
def _():
    return net(L.Dense(1, "sigmoid")), {"loss": "binary_crossentropy"}, (X, (CLASSES > 1).astype(np.int32))


@row("a loss object")
def _():
    return net(L.Dense(2)), {"loss": keras.losses.Huber(0.5)}, (X, Y)


@row('a loss object with `reduction="sum"`')
def _():
    return net(L.Dense(2)), {"loss": keras.losses.MeanSquaredError(reduction="sum")}, (X, Y)


@row('a loss object with `reduction="none"`')
def _():
    return net(L.Dense(2)), {"loss": keras.losses.MeanSquaredError(reduction="none")}, (X, Y)


def cubed(y, outputs):
    return tf.reduce_mean(tf.abs(tf.cast(y, tf.float32) - outputs) ** 3, axis=-1)


@row("a loss function")
def _():
    return net(L.Dense(1)), {"loss": cubed}, (X, CLASSES)


class Own(keras.losses.Loss):
    """A subclass."""

    def call(self, y, outputs):
        return cubed(y, outputs)


@row("a subclass of `Loss`")
def _():
    return net(L.Dense(2)), {"loss": Own()}, (X, Y)


@row("`metrics`")
def _():
    metrics = ["mae", keras.metrics.MeanSquaredError(name="squares"), cubed]
    return net(L.Dense(2)), {"loss": "mse", "metrics": metrics}, (X, Y)


@row("metrics with a state of their own: `AUC`, `Precision`")
def _():
    metrics = [
        keras.metrics.AUC(num_thresholds=20, name="auc"),
        keras.metrics.Precision(name="precision"),
        "accuracy",
    ]
    return net(L.Dense(1, "sigmoid")), {"loss": "binary_crossentropy", "metrics": metrics}, (X, CLASSES > 1)


@row("`weighted_metrics`")
def _():
    return net(L.Dense(2)), {"loss": "mse", "weighted_metrics": ["mae"]}, (X, Y, W)


@row("`run_eagerly=True`")
def _():
    return net(L.Dense(2)), {"loss": "mse", "run_eagerly": True}, (X, Y)


class Stepping(keras.Sequential):
    """Weights changed by twice the gradient."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients((2.0 * g, v) for g, v in zip(gradients, self.trainable_variables))
        return {"loss": loss}


@row("`train_step` of its own")
def _():
    return Stepping([L.InputLayer((5,)), L.Dense(2)]), {"loss": "mse"}, (X, Y)


class Judging(keras.Sequential):
    """Another validation."""

    def test_step(self, data):
        return {"loss": tf.constant(3.0)}


@row("`test_step` of its own")
def _():
    return Judging([L.InputLayer((5,)), L.Dense(2)]), {"loss": "mse"}, (X, Y)


class Losing(keras.Model):
    """Keras 3's way to another loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean(tf.abs(y - y_pred)) + tf.reduce_mean(tf.square(y_pred)) * (2.0 if training else 1.0)


@row("`compute_loss` of its own")
def _():
    x = keras.Input((5,))
    return Losing(x, L.Dense(2)(x)), {"metrics": ["mse"]}, (X, Y)


class Measuring(keras.Model):
    """Keras 3's way to other metrics."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.largest = keras.metrics.Mean(name="largest")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.largest.update_state(tf.reduce_max(y_pred, axis=-1))
        return super().compute_metrics(x, y, y_pred, sample_weight)


@row("`compute_metrics` of its own, by metrics that the model keeps")
def _():
    x = keras.Input((5,))
    return Measuring(x, L.Dense(2)(x)), {"loss": "mse"}, (X, Y)


class Telling(keras.Model):
    """Metrics out of nothing."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "seven": 7.0}


@row("`compute_metrics` of its own, by other numbers")
def _():
    x = keras.Input((5,))
    return Telling(x, L.Dense(2)(x)), {"loss": "mse"}, (X, Y)


@row("`steps_per_execution`")
def _():
    return net(L.Dense(2)), {"loss": "mse", "steps_per_execution": 2}, (X, Y)


@row("`jit_compile`")
def _():
    return net(L.Dense(2)), {"loss": "mse", "jit_compile": True}, (X, Y)


def of_policy(name):
    """A network under a global policy."""
    set_policy = keras.config.set_dtype_policy if KERAS_3 else keras.mixed_precision.set_global_policy
    set_policy(name)
    try:
        return net(L.Dense(4, "relu"), L.Dense(2, dtype="float32"))
    finally:
        set_policy("float32")


@row("`mixed_bfloat16`")
def _():
    return of_policy("mixed_bfloat16"), {"loss": "mse"}, (X, Y)


@row("`mixed_float16`, loss scaling")
def _():
    return of_policy("mixed_float16"), {"loss": "mse"}, (X, Y)


@row("`trainable = False`")
def _():
    model = net(L.Dense(3), L.BatchNormalization(), L.Dense(2))
    model.layers[0].trainable = False
    return model, {"loss": "mse"}, (X, Y)


@row("`Dropout`")
def _():
    return net(L.Dense(8), L.Dropout(0.5, seed=3), L.Dense(2)), {"loss": "mse"}, (X, Y)


@row("`BatchNormalization`")
def _():
    return net(L.Dense(3), L.BatchNormalization(), L.Dense(2)), {"loss": "mse"}, (X, Y)


@row("constraints")
def _():
    return net(L.Dense(2, kernel_constraint=keras.constraints.NonNeg())), {"loss": "mse"}, (X, Y)


@row("`clipnorm` and other settings of the compiled optimizer")
def _():
    return net(L.Dense(2)), {"loss": "mse", "clipnorm": 0.1}, (X, Y)


class Called(keras.Model):
    """A subclass whose call knows nothing of training."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@row("a subclass of `Model`")
def _():
    model = Called()
    model(X[:2])
    return model, {"loss": "mse", "metrics": ["mae"]}, (X, Y)


# --- walking the table -----------------------------------------------------------------------------------


def table():
    """{feature: (Trainer, fit)} as the page has it."""
    section = PAGE.read_text().split("## Features of a model")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.M)
    return {name: (trainer, fit) for name, trainer, fit in rows[1:]}


TABLE = table()


def test_the_table_and_the_cases_have_the_same_rows():
    assert list(TABLE) == list(ROWS)


def prepared(name):
    """(model with weights of its own, arguments of compile, data): the same at every call."""
    keras.backend.clear_session(**({"free_memory": False} if KERAS_3 else {}))  # layers are named anew
    keras.utils.set_random_seed(1) if KERAS_3 else tf.random.set_seed(1)
    model, options, data = ROWS[name]()
    rng = np.random.default_rng(3)
    for variable in [*model.trainable_variables, *(model.layers[0].weights if name == "`trainable = False`" else [])]:
        variable.assign(0.5 * rng.standard_normal(tuple(variable.shape)))
    return model, dict(options), tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def by_keras(name, optimizer, **clip):
    """(weights, history)"""
    model, options, data = prepared(name)
    options.pop("clipnorm", None)
    model.compile(optimizer(model, **clip), **options)
    history = model.fit(data, validation_data=data, epochs=EPOCHS, shuffle=False, verbose=0).history
    return model.get_weights(), history


@functools.lru_cache(maxsize=None)
def expected(name, **clip):
    return by_keras(name, lambda model, **options: keras.optimizers.SGD(RATE, **options), **clip)


def by_trainer(name):
    model, options, data = prepared(name)
    model.compile(keras.optimizers.SGD(RATE, clipnorm=options.pop("clipnorm", None)), **options)
    trainer = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=RATE), "cpu")
    history = trainer.fit(data, data, epochs=EPOCHS, verbose=0).history
    return model.get_weights(), history


def in_all_directions(model, **clip):
    """As many orthogonal directions as there are parameters: P P^T = 1, the descent is SGD's."""
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return rbd_ipu.RandomBasesDescent(RATE, dim=size, orthogonalize=True, **clip)


def check_alike(found, expected, tolerance):
    (weights, history), (their_weights, their_history) = found, expected
    assert len(weights) == len(their_weights)
    for one, other in zip(weights, their_weights):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    for name, values in their_history.items():
        assert name in history, (name, sorted(history))
        np.testing.assert_allclose(history[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def skip_without_keras_3(cell):
    if "Keras 3" in cell and not KERAS_3:
        pytest.skip("of Keras 3")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_in_the_trainer(name):
    cell = TABLE[name][0]
    skip_without_keras_3(cell)
    if cell.startswith("no"):
        with pytest.raises(ValueError, match=re.search(r"`(.+?)`", cell)[1]) as caught:
            by_trainer(name)
        assert "use " in str(caught.value) or "model.fit" in str(caught.value)
        return
    assert cell.startswith("yes")
    check_alike(by_trainer(name), expected(name), 1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_in_fit(name):
    cell = TABLE[name][1]
    skip_without_keras_3(cell)
    clip = {"clipnorm": 0.1} if "clipnorm" in name else {}
    if cell.startswith("no"):
        with pytest.raises(ValueError, match=re.search(r"`(.+?)`", cell)[1]):
            by_keras(name, in_all_directions, **clip)
        return
    assert cell.startswith("yes")
    check_alike(by_keras(name, in_all_directions, **clip), expected(name, **clip), 2e-6)


# The rows that an optimizer meets; the others are about losses and data.
MET = (
    "`Embedding(mask_zero=True)`, in loss and metrics",
    "`run_eagerly=True`",
    "`train_step` of its own",
    "`steps_per_execution`",
    "`mixed_bfloat16`",
    "`mixed_float16`, loss scaling",
    "`trainable = False`",
    "constraints",
    "`clipnorm` and other settings of the compiled optimizer",
)


@pytest.mark.parametrize("name", MET)
def test_a_row_with_any_optimizer_in_a_subspace(name):
    """All coordinates, in a memory and out of it again: constraints work, everything else is as in the table."""
    clip = {"clipnorm": 0.1} if "clipnorm" in name else {}

    def whole(model, **options):
        inner = keras.optimizers.SGD(RATE, **options)
        return rbd_ipu.SubspaceOptimizer(inner, fraction=1.0, select="largest", memory=1.0)

    assert TABLE[name][1] == ("no: `constraint`" if name == "constraints" else "yes")
    check_alike(by_keras(name, whole, **clip), expected(name, **clip), 2e-6)
