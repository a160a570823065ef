"""Losses and targets of all kinds: a step of the Trainer with SGD is a step of Keras' own fit."""

import numpy as np
import pytest
from nets import blobs, flat
from reference import close

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.data import Batches
from rbd_ipu.objective import per_batch

LAYERS, LOSSES = keras.layers, keras.losses
CLASSES = np.arange(24, dtype=np.int32) % 3


def network(outputs, activation=None):
    initial = keras.initializers.GlorotUniform(1)
    return keras.Sequential([LAYERS.InputLayer((6,)), LAYERS.Dense(outputs, activation, kernel_initializer=initial)])


def absolute(y, outputs):
    return tf.abs(tf.cast(y, tf.float32) - outputs)


def numbers(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "outputs, activation, y, loss",
    [
        (1, None, numbers(24), "mse"),  # [B] against [B, 1] must not become [B, B]
        (1, None, CLASSES, "mse"),
        (1, None, numbers(24), absolute),
        (2, None, numbers(24, 2), LOSSES.Huber()),
        (1, "sigmoid", (CLASSES > 1).astype(np.int32), "binary_crossentropy"),
        (1, "sigmoid", CLASSES > 1, LOSSES.BinaryCrossentropy()),
        (3, None, np.eye(3, dtype=np.int32)[CLASSES], LOSSES.CategoricalCrossentropy(from_logits=True)),
        (3, "softmax", CLASSES[:, None], "sparse_categorical_crossentropy"),
        (2, None, numbers(24, 2), LOSSES.MeanSquaredError(reduction="sum")),
    ],
)
def test_the_loss_is_what_keras_makes_of_it(outputs, activation, y, loss):
    x = blobs(24)[0]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    theirs = network(outputs, activation)
    theirs.compile(keras.optimizers.SGD(0.01), loss)
    theirs.fit(data, shuffle=False, verbose=0)
    method = methods.create("sgd", learning_rate=0.01)
    trainer = rbd_ipu.Trainer(network(outputs, activation), method, "cpu", loss=loss)
    trainer.fit(data, verbose=0)
    np.testing.assert_allclose(flat(trainer.model), flat(theirs), atol=1e-6)
    assert np.abs(flat(theirs) - flat(network(outputs))).max() > 1e-4
    theirs_now = theirs.evaluate(x, y, batch_size=24, verbose=0)
    assert trainer.evaluate((x, y), batch_size=24)["loss"] == pytest.approx(theirs_now, rel=1e-4)


class Branching(LAYERS.Layer):
    """Code of a user's, with a branch that AutoGraph must see."""

    def call(self, x):
        if tf.reduce_sum(x) > 0.0:
            return x
        return -x


class BranchingMetric(keras.metrics.Mean):
    def update_state(self, y, outputs, sample_weight=None):
        value = tf.reduce_mean(outputs)
        if value > 0.0:
            value = -value
        return super().update_state(value)


def branching(y, outputs):
    value = tf.reduce_mean(absolute(y, outputs))
    if value > 0.5:
        value = 2.0 * value
    return value


class BranchingLoss(LOSSES.Loss):
    def call(self, y, outputs):
        return branching(y, outputs)


class BranchingModel(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return branching(y, y_pred)


def branches(where):
    """A model and its loss, with a branch on a tensor in one of them."""
    inputs = keras.Input((6,))
    outputs = LAYERS.Dense(1)(inputs)
    model = (BranchingModel if where == "compute_loss" else keras.Model)(
        inputs, Branching()(outputs) if where == "layer" else outputs
    )
    metrics = [BranchingMetric()] if where == "metric" else None
    model.compile("sgd", {"function": branching, "loss": BranchingLoss()}.get(where, "mse"), metrics=metrics)
    return model


@pytest.mark.parametrize("where", ["function", "loss", "compute_loss", "layer", "metric"])
def test_a_branch_of_the_users_code_is_a_branch_of_the_graph_and_ours_is_not_rewritten(where, rewritten):
    """As in Keras 2's fit. That of Keras 3 has no AutoGraph; the Trainer has it for losses."""
    if where in (("layer", "metric") if KERAS_3 else ("compute_loss",)):
        pytest.skip("Keras 3 keeps it from AutoGraph" if KERAS_3 else "Keras 2.6 does not call it")
    data = tf.data.Dataset.from_tensor_slices((blobs(24)[0], numbers(24, 1))).batch(8)
    trainer = rbd_ipu.Trainer(branches(where), methods.create("rbd", learning_rate=0.1, dim=3), "cpu")
    rewritten.clear()
    trainer.fit(data, data, epochs=1, verbose=0)
    assert rewritten and {module for module, _ in rewritten} == {__name__}


class BranchingMethod(methods.RBD):
    """One of the user's own, with a branch in what the steps of one and of several workers call."""

    def expand(self, message, step, worker=0):
        return every_other(super().expand(message, step, worker), step)

    def join(self, messages, step):
        return every_other(super().join(messages, step), step)


def every_other(update, step):
    if step % 2 == 1:
        update = 0.0 * update
    return update


@pytest.mark.parametrize("workers", [1, 2])
def test_a_branch_in_a_method_of_the_users(workers):
    """Every other step moves nothing."""
    data = tf.data.Dataset.from_tensor_slices((blobs(48)[0], numbers(48, 1))).batch(8)
    device = rbd_ipu.open_device("cpu", simulate_workers=workers)
    method = BranchingMethod(learning_rate=0.1, dim=3, source="counter", orthogonalize=True, top_k=2)
    trainer, found = rbd_ipu.Trainer(network(1), method, device, loss="mse"), []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: found.append(flat(trainer.model)))
    trainer.fit(data, epochs=1, verbose=0, callbacks=[seen])
    moved = [not np.array_equal(*pair) for pair in zip([flat(network(1)), *found], found)]
    assert moved == [True, False] * (len(found) // 2) + [True] * (len(found) % 2) and len(found) == 6 // workers


def test_autograph_rewrites_nothing_of_a_run(rewritten):
    x, y = blobs(64)
    data = Batches((x, y), 8)
    trainer = rbd_ipu.Trainer(network(10), methods.create("rbd", learning_rate=0.1, dim=3), "cpu")
    trainer.fit(data, (x, y), epochs=1, verbose=0)
    assert rewritten == []


@pytest.mark.parametrize("y", [numbers(24), numbers(24, 1), CLASSES > 1, CLASSES[:, None], numbers(24).astype("f8")])
def test_arrays_may_hold_other_targets_than_classes(y):
    x = blobs(24)[0]
    trainer = rbd_ipu.Trainer(network(1), methods.create("sgd", learning_rate=0.1), "cpu", loss=absolute)
    history = trainer.fit((x, y), validation=(x, y), batch_size=8, verbose=0).history
    assert np.isfinite(history["val_loss"][-1]) and "accuracy" not in history


def test_a_loss_is_no_half_precision():
    """65,504 is the largest float16: a mean of squares of 300 would be infinite."""
    outputs = tf.fill([4, 2], tf.constant(300.0, tf.float16))
    loss = per_batch("mse")(tf.zeros([4, 2]), outputs)
    assert loss.dtype == tf.float32 and float(loss) == 90000.0


def test_several_inputs_and_a_function_of_all_outputs():
    inputs = [keras.Input((6,)), keras.Input((6,))]
    hidden = LAYERS.Concatenate()(inputs)
    model = keras.Model(inputs, [LAYERS.Dense(2)(hidden), LAYERS.Dense(1)(hidden)])
    method = methods.create("sgd", learning_rate=0.001)
    with pytest.raises(ValueError, match="has 2 outputs and no loss: compile it with one for each"):
        rbd_ipu.Trainer(model, method, "cpu")

    def loss(y, outputs):
        return sum(tf.reduce_mean(tf.square(output - y)) for output in outputs)

    x, y = blobs(24)[0], numbers(24, 1)
    trainer = rbd_ipu.Trainer(model, method, "cpu", loss=loss)
    history = trainer.fit(tf.data.Dataset.from_tensor_slices(((x, -x), y)).batch(8), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] and "accuracy" not in history
    with pytest.raises(ValueError, match="no place for sample weights"):
        trainer.fit(((x, -x), y, y[:, 0]), batch_size=8, verbose=0)


def test_ragged_arrays_are_refused_before_training():
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    trained = rbd_ipu.Trainer(network(3), methods.create("sgd", learning_rate=0.1))
    with pytest.raises(TypeError, match="data have a RaggedTensor"):
        trained.fit((ragged, CLASSES[:2]))


def test_data_without_labels_are_refused_before_training():
    x, y = blobs(24)
    trainer = rbd_ipu.Trainer(network(10), methods.create("sgd", learning_rate=0.1), "cpu")
    with pytest.raises(TypeError, match="tf.data.Dataset of such tuples"):
        trainer.fit((x, y), validation=tf.data.Dataset.from_tensor_slices(x).batch(8), batch_size=8, verbose=0)
    assert trainer.step == 0


def test_half_precision_trains_with_regularisers():
    set_policy = keras.config.set_dtype_policy if KERAS_3 else keras.mixed_precision.set_global_policy
    set_policy("mixed_bfloat16")
    try:
        dense = LAYERS.Dense(3, kernel_regularizer="l2")
        model = keras.Sequential([LAYERS.InputLayer((6,)), dense])
        trainer = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), "cpu")
        x, y = blobs(24, classes=3)
        assert np.isfinite(trainer.fit((x, y), batch_size=8, verbose=0).history["loss"][-1])
    finally:
        set_policy("float32")


def two_outputs(as_dict=False):
    x = keras.Input((6,))
    outputs = [keras.layers.Dense(2, name=name, kernel_initializer="ones")(x) for name in "ab"]
    return keras.Model(x, dict(zip("ab", outputs)) if as_dict else outputs)


def loss_of(model, data, **options):
    """Of the first epoch of a Trainer that moves nothing."""
    trainer = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.0), "cpu", **options)
    return trainer.fit(tf.data.Dataset.from_tensors(data), epochs=1, verbose=0).history["loss"][0]


def test_loss_weights_of_the_model_go_with_losses_that_are_passed():
    x, y = numbers(12, 6), (numbers(12, 2), numbers(12, 2) + 1.0)
    model = two_outputs()
    model.compile("sgd", ["mse", "mse"], loss_weights=[0.25, 2.0])
    parts = [np.mean((x.sum(axis=1, keepdims=True) - own) ** 2) for own in y]
    np.testing.assert_allclose(
        loss_of(model, (x, y), loss=["mse", "mse"]), 0.25 * parts[0] + 2.0 * parts[1], rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"loss_weights=\[0.25, 2.0\], for which a loss function of all outputs"):
        loss_of(model, (x, y), loss=lambda y, outputs: 0.0)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_function_of_keras_is_the_loss_of_each_output(as_dict):
    x, y = numbers(12, 6), {"a": numbers(12, 2), "b": numbers(12, 2) + 1.0}
    found = [loss_of(two_outputs(as_dict), (x, y), loss=loss) for loss in ("mse", keras.losses.mean_squared_error)]
    assert found[0] == found[1] > 0


def test_targets_of_an_output_that_there_is_not():
    x = numbers(12, 6)
    with pytest.raises(ValueError, match=r"has the outputs \['a', 'b'\], and the targets are of \['a', 'c'\]"):
        loss_of(two_outputs(as_dict=True), (x, {"a": numbers(12, 2), "c": numbers(12, 2)}), loss="mse")


@pytest.mark.skipif(KERAS_3, reason="arguments of the optimizers of Keras 2")
@pytest.mark.parametrize("name", ["gradient_transformers", "gradient_aggregator"])
def test_what_an_optimizer_of_keras_2_does_to_gradients_is_refused(name):
    model = network(10)
    value = [lambda pairs: pairs] if name == "gradient_transformers" else (lambda pairs: pairs)
    model.compile(keras.optimizers.SGD(0.1, **{name: value}), "mse")
    with pytest.raises(ValueError, match=f"an optimizer of {name}="):
        rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), "cpu")


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has no ignore_class")
@pytest.mark.parametrize("kind", ["mean", "sum", "function"])
@pytest.mark.parametrize("passed", [False, True])
def test_classes_that_a_loss_ignores_do_not_count(kind, passed):
    """The values of such a loss have a mask of their own; three epochs, the last batch of each short."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 5, 3)).astype(np.float32), generator.integers(0, 3, (20, 5)).astype(np.int32)
    options = {"from_logits": True, "ignore_class": 0}
    loss = keras.losses.SparseCategoricalCrossentropy(
        **options, reduction="sum" if kind == "sum" else "sum_over_batch_size"
    )
    if kind == "function":
        loss = lambda y, outputs: keras.losses.sparse_categorical_crossentropy(y, outputs, **options)  # noqa: E731

    def data():
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)

    def model_of():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((5, 3)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.05), loss=loss)
        return model

    model, other = model_of(), model_of()
    losses = model.fit(data(), epochs=3, shuffle=False, verbose=0).history["loss"]
    method = methods.create("sgd", learning_rate=0.05)
    trained = rbd_ipu.Trainer(other, method, loss=loss if passed else None)
    close(trained.fit(data(), epochs=3, verbose=0).history["loss"], losses, 1e-6)
    close(flat(other), flat(model), 1e-6)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 knows nothing of the kind")
@pytest.mark.parametrize("method", [("sgd", {}), ("rbd", {"dim": 4})])
def test_a_variable_that_keras_sets_to_its_gradient_is_refused(method):
    model = network(10)
    model.trainable_variables[1].overwrite_with_gradient = True
    with pytest.raises(ValueError, match=f"overwrite_with_gradient.*where method '{method[0]}' subtracts"):
        rbd_ipu.Trainer(model, methods.create(method[0], learning_rate=0.1, **method[1]), "cpu")
