"""SubspaceOptimizer: as its inner optimizer where nothing is lost, as a hand-written loop where something is."""

import copy
import importlib
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from compression_reference import Worker
from nets import blobs, crossentropy, dense, flat, gradient, set_flat

import rbd_ipu
from rbd_ipu import presets
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.optimizers import projected

OPT = keras.optimizers
only_keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2.6 has none of these")
INNER = {
    "sgd": lambda: OPT.SGD(0.1),
    "nesterov": lambda: OPT.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": lambda: OPT.SGD(OPT.schedules.ExponentialDecay(0.1, 1, 0.9)),
    "adam": lambda: OPT.Adam(0.01),
    "rmsprop": lambda: OPT.RMSprop(0.01),
    "clipnorm": lambda: OPT.SGD(0.1, clipnorm=0.1),
    "clipvalue": lambda: OPT.SGD(0.1, clipvalue=0.001),
    "global_clipnorm": lambda: OPT.Adam(0.01, global_clipnorm=0.1),
}
if KERAS_3:
    INNER.update(
        adamw=lambda: OPT.AdamW(0.01, weight_decay=0.1),
        lion=lambda: OPT.Lion(0.01),
        adafactor=lambda: OPT.Adafactor(0.01),
        ema=lambda: OPT.SGD(0.1, use_ema=True, ema_momentum=0.5),
        ema_overwrite=lambda: OPT.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        accumulation=lambda: OPT.SGD(0.1, gradient_accumulation_steps=3),
        accumulation_schedule=lambda: OPT.SGD(
            OPT.schedules.ExponentialDecay(0.1, 1, 0.7), gradient_accumulation_steps=3
        ),
    )
BOLD = {"fraction": 1 / 16, "select": "largest", "memory": 1.0, "wire": "sign", "update": "sign", "redraw_every": 0}
KINDS = {
    "bold": BOLD,
    "redrawn": {**BOLD, "redraw_every": 2, "update": "mean", "wire": "int8"},
    "second moment": {**BOLD, "update": "mean", "second_moment": 0.9},
    "no memory": {"fraction": 1 / 16, "select": "largest", "wire": "bfloat16"},
    "groups": {"fraction": 0.25, "distribution": "groups", "memory": 0.5},
    "hadamard": {"dim": 20, "distribution": "hadamard", "wire": "sign-unbiased"},
    "coordinates": {"fraction": 0.25, "distribution": "groups", "state": "coordinates", "redraw_every": 2},
    "coordinates of all": {"state": "coordinates", "redraw_every": 0, "wire": "sign", "memory": 1.0},
    "reset": {"dim": 20, "distribution": "normal", "state": "coordinates", "redraw_every": 3, "on_redraw": "reset"},
}


def wrap(inner, **options):
    return rbd_ipu.SubspaceOptimizer(inner, **options)


def fitted(optimizer, epochs=2, model=None, **options):
    """Trained in eager mode, which takes a third of the time; in graphs by ``jit_compile`` or ``graph=True``."""
    x, y = blobs(96)
    model = model or dense()
    eager = not options.pop("graph", "jit_compile" in options)
    model.compile(optimizer=optimizer, loss=crossentropy(), run_eagerly=eager, **options)
    model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False, verbose=0)
    return model


def state(optimizer):
    return [np.asarray(v.numpy()) for v in (optimizer.variables if KERAS_3 else optimizer.weights)]


EVERYTHING = {"select": "largest", "fraction": 1.0, "memory": 1.0}
CASES = [(name, {}) for name in INNER]
CASES += [(name, EVERYTHING) for name in ("adam", "clipnorm", "accumulation") if name in INNER]


@pytest.mark.parametrize("name, options", CASES, ids=[f"{n}-{o.get('select', 'all')}" for n, o in CASES])
def test_with_all_coordinates_it_is_the_inner_optimizer(name, options):
    expected = flat(fitted(INNER[name]()))
    compiled = {"jit_compile": name in ("adam", "accumulation") and not options} if KERAS_3 else {}
    found = flat(fitted(wrap(INNER[name](), **options), **compiled))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k in ("redrawn", "no memory", "reset") else k for k in KINDS],
)
def test_a_saved_training_goes_on_as_if_it_had_not_stopped(kind, tmp_path):
    model = fitted(wrap(OPT.Adam(0.01), seed=3, **KINDS[kind]), 3)
    path = str(tmp_path / ("model.keras" if KERAS_3 else "model.h5"))
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one, other in zip(state(model.optimizer), state(loaded.optimizer)):
        np.testing.assert_array_equal(one, other)
    x, y = blobs(96)
    for each in (model, loaded):
        each.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(flat(model), flat(loaded))
    weights = state(model.optimizer)
    other = fitted(wrap(OPT.Adam(0.01), seed=3, **KINDS[kind]), 1)
    other.optimizer.set_weights(weights)
    for one, found in zip(weights, state(other.optimizer)):
        np.testing.assert_array_equal(one, found)


OFTEN = ("bold", "second moment", "coordinates")
COMPILED = [(kind, {"graph": True}) for kind in KINDS] + [(kind, {"jit_compile": True}) for kind in KINDS]
LONG = [pytest.mark.slow]


@pytest.mark.parametrize(
    "kind, way",
    [pytest.param(k, w, marks=LONG * ("jit_compile" in w and k not in OFTEN)) for k, w in COMPILED],
    ids=[f"{k}-{next(iter(w))}" for k, w in COMPILED],
)
def test_compiled_or_not_is_the_same(kind, way):
    if "jit_compile" in way and not KERAS_3:
        pytest.skip("Keras 2.6 has no jit_compile")
    runs = [fitted(wrap(OPT.SGD(0.1), seed=3, **KINDS[kind]), **options) for options in (way, {})]
    np.testing.assert_allclose(flat(runs[0]), flat(runs[1]), atol=1e-5)


def test_what_xla_costs_is_said_once(caplog):
    if not KERAS_3:
        pytest.skip("Keras 2.6 has no jit_compile")
    pytest.importorskip("numba")
    projected._say.cache_clear()
    for _ in range(2):
        fitted(wrap(OPT.SGD(0.1), **BOLD), 1, jit_compile=True)
    said = [record.getMessage() for record in caplog.records if record.name == "rbd_ipu"]
    assert len(said) == 1 and "jit_compile=False" in said[0]


@pytest.mark.parametrize("update", ["mean", "sign"])
@pytest.mark.parametrize("redraw_every, second_moment", [(0, None), (2, None), (0, 0.9)])
def test_steps_are_those_of_the_reference(update, redraw_every, second_moment):
    options = {"update": update, "redraw_every": redraw_every, "second_moment": second_moment}
    optimizer = wrap(OPT.SGD(0.1), seed=9, **{**BOLD, **options})
    x, y = blobs(96)
    model, twin = fitted(optimizer, 1), dense()
    sizes = [int(np.prod(v.shape)) for v in twin.trainable_variables]
    worker = Worker(sizes, 1 / 16, "sign", 1.0, 9, redraw_every > 0, second_moment)
    for step in range(3):  # few: two coordinates that are nearly equal change places when weights differ by 1e-8
        batch = slice(32 * step, 32 * step + 32)
        g = np.split(gradient(twin, x[batch], y[batch]), np.cumsum(sizes)[:-1])
        u = np.concatenate(worker.step(g, step // max(1, redraw_every)))
        set_flat(twin, flat(twin) - 0.1 * (np.sign(u) * (np.abs(u) > 1e-12) if update == "sign" else u))
    np.testing.assert_allclose(flat(model), flat(twin), atol=1e-5)


def test_a_state_in_coordinates_is_the_inner_optimizer_on_coordinates():
    """With a fixed basis: Adam, run by hand on c, moves the weights by P."""
    optimizer = wrap(OPT.Adam(0.05), dim=30, distribution="hadamard", state="coordinates", redraw_every=0, seed=4)
    model, twin = fitted(optimizer), dense()
    space = optimizer.sketch_of(model.trainable_variables).space
    P = space.directions(4, 0).numpy().astype(np.float64)  # [d, D]
    x, y = blobs(96)
    start, z = flat(twin), tf.Variable(np.zeros(30, np.float32))
    adam = OPT.Adam(0.05)
    for step in range(6):
        batch = slice(32 * (step % 3), 32 * (step % 3) + 32)
        c = P @ gradient(twin, x[batch], y[batch])
        adam.apply_gradients([(tf.constant(c, tf.float32), z)])
        set_flat(twin, start + P.T @ z.numpy())
    np.testing.assert_allclose(flat(model), flat(twin), atol=1e-5)
    slots = [value for value in state(optimizer) if value.shape == (30,)]
    assert len(slots) == 2  # both moments have d entries, and nothing has D


def test_on_redraw_reset_forgets_the_inner_state():
    runs = {
        on_redraw: flat(fitted(wrap(OPT.SGD(0.1, momentum=0.9), **{**KINDS["reset"], "on_redraw": on_redraw})))
        for on_redraw in ("keep", "reset")
    }
    assert np.abs(runs["keep"] - runs["reset"]).max() > 1e-4


def test_which_variables(capsys):
    model = dense()
    optimizer = wrap(OPT.SGD(0.1), include="*", exclude=["bias"], **BOLD)
    optimizer.summary(model)
    text = capsys.readouterr().out
    assert text.count(" no ") == 2 and text.count(" yes ") == 2 and text.splitlines()[0].startswith("variable")
    fitted(optimizer, model=model)
    plain, twin = dense(), fitted(wrap(OPT.SGD(0.1), exclude=lambda v: len(v.shape) == 1, **BOLD))
    np.testing.assert_array_equal(flat(model), flat(twin))
    # The excluded ones take the step of the inner optimizer: after one step they are those of plain SGD.
    x, y = blobs(32)
    one, two = dense(), dense()
    one.compile(optimizer=wrap(OPT.SGD(0.1), exclude="*/bias", **BOLD), loss=crossentropy())
    two.compile(optimizer=OPT.SGD(0.1), loss=crossentropy())
    for each in (one, two):
        each.fit(x, y, batch_size=32, epochs=1, verbose=0)
    for i in (1, 3):
        np.testing.assert_allclose(one.get_weights()[i], two.get_weights()[i], atol=1e-7)
    assert np.abs(one.get_weights()[0] - two.get_weights()[0]).max() > 1e-4
    assert optimizer.message_bytes == 14
    with pytest.raises(ValueError, match="exclude: no variable or layer matches 'head'; the variables are"):
        wrap(OPT.SGD(0.1), exclude="head", **BOLD).summary(plain)
    with pytest.raises(ValueError, match="leave none of the 4 variables in the subspace"):
        wrap(OPT.SGD(0.1), exclude="*", **BOLD).summary(plain)
    with pytest.raises(ValueError, match="there are no variables yet"):
        wrap(OPT.SGD(0.1), **BOLD).summary()


@pytest.mark.parametrize("kind", ["bold", "groups", "coordinates"])
def test_a_complex_variable_may_be_left_out(kind, capsys):
    optimizer = wrap(OPT.SGD(0.1), exclude="waves", **{**KINDS[kind], "fraction": 1.0, "memory": None})
    weights, waves = tf.Variable(tf.ones([32]), name="weights"), tf.Variable(tf.complex([1.0], [2.0]), name="waves")
    weights = keras.Variable(weights.numpy(), name="weights") if KERAS_3 else weights
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones([32]), weights), (tf.complex([1.0], [1.0]), waves)])
    np.testing.assert_allclose(waves.numpy(), [0.8 + 1.8j], rtol=1e-6)
    assert np.abs(weights.numpy() - 1).max() > 0.01
    optimizer.summary([weights, waves])
    assert re.search(r"waves +1 +no +4", capsys.readouterr().out)


@pytest.mark.skipif(KERAS_3, reason="a copy of an optimizer of Keras 3 has no state")
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_as_the_original(kind):
    optimizer, found = wrap(OPT.Adam(0.1), seed=3, **KINDS[kind]), []
    weights, g = tf.Variable(tf.ones([32, 3])), np.random.default_rng(0).standard_normal((4, 32, 3)).astype("f4")
    for step in range(2):
        optimizer.apply_gradients([(tf.constant(g[step]), weights)])
    start = weights.numpy()
    for own in (copy.deepcopy(optimizer), optimizer):
        weights.assign(start)
        for step in (2, 3):
            own.apply_gradients([(tf.constant(g[step]), weights)])
        found.append(weights.numpy())
    np.testing.assert_array_equal(*found)


def test_small_parts_share_what_is_sent():
    """Two biases of one entry each, of which one sends."""
    inputs = keras.Input((5,))
    trunk = keras.layers.Dense(8, "relu")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(1)(trunk), keras.layers.Dense(1)(trunk)])
    model.compile(optimizer=presets.small_messages(0.005, dim=4), loss=["mse", "mse"])
    before = model.get_weights()
    model.fit(np.ones((8, 5)), [np.ones((8, 1)), np.zeros((8, 1))], verbose=0)
    assert sum(not np.array_equal(a, b) for a, b in zip(before, model.get_weights())) > 2


def test_a_layer_is_matched_by_its_name():
    layers = keras.layers
    model = keras.Sequential([layers.InputLayer((4,)), layers.Dense(5, name="trunk"), layers.Dense(2, name="head")])
    optimizer = wrap(OPT.SGD(0.1), exclude="head", **BOLD)
    assert optimizer.inside(model.trainable_variables) == [True, True, False, False]
    assert wrap(OPT.SGD(0.1), include="head/kernel", **BOLD).inside(model.trainable_variables) == [
        False,
        False,
        True,
        False,
    ]


def test_odd_variables():
    """A scalar, a variable without entries, sparse gradients, one without a gradient."""
    scalar = tf.Variable(2.0, name="scalar")
    empty = tf.Variable(np.zeros((0, 3), np.float32), name="empty")
    table = tf.Variable(np.ones((5, 2), np.float32), name="table")
    idle = tf.Variable(np.ones(3, np.float32), name="idle")
    optimizer = wrap(OPT.SGD(0.5), fraction=1.0, select="largest", memory=1.0)
    with tf.GradientTape() as tape:
        loss = 3.0 * scalar + tf.reduce_sum(tf.gather(table, [1, 1, 3])) + tf.reduce_sum(empty)
    variables = [scalar, empty, table]
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    assert float(scalar) == 0.5
    np.testing.assert_array_equal(table.numpy()[:, 0], [1, 0, 1, 0.5, 1])
    np.testing.assert_array_equal(idle, np.ones(3))


@pytest.mark.parametrize("kind", ["bold", "groups"])
def test_gradients_of_unknown_shape(kind):
    """Those of layers behind a mask."""
    layers = keras.layers
    tokens = np.array([[1, 2, 0], [3, 0, 0]], np.int32)
    model = keras.Sequential([layers.Embedding(5, 4, mask_zero=True), layers.Dense(3), layers.Dense(2)])
    model.compile(optimizer=wrap(OPT.SGD(0.1), **KINDS[kind]), loss="mse")
    model.fit(tokens, np.ones((2, 3, 2), np.float32), epochs=2, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_half_precision_and_a_loss_scale_around_it():
    if not KERAS_3:
        model = dense()
        optimizer = keras.mixed_precision.LossScaleOptimizer(wrap(OPT.SGD(0.1), seed=1, **BOLD), dynamic=True)
    else:
        optimizer = OPT.LossScaleOptimizer(wrap(OPT.SGD(0.1), seed=1, **BOLD), initial_scale=4.0)
        model = dense()
    model = fitted(optimizer, model=model)
    np.testing.assert_allclose(flat(model), flat(fitted(wrap(OPT.SGD(0.1), seed=1, **BOLD))), atol=1e-5)


def test_a_gradient_that_is_not_finite_does_not_enter_the_memory():
    weights = tf.Variable(np.ones(64, np.float32), name="w")
    optimizer = wrap(OPT.SGD(0.1), fraction=1 / 8, select="largest", memory=1.0)
    optimizer.apply_gradients([(tf.ones([64]), weights)])
    (before,) = (value.copy() for value in state(optimizer) if value.shape == (64,))
    assert np.abs(before).max() > 0
    optimizer.apply_gradients([(tf.fill([64], np.nan), weights)])
    (after,) = (value for value in state(optimizer) if value.shape == (64,))
    np.testing.assert_array_equal(after, before)
    assert np.isnan(weights.numpy()).all()  # as without compression


def test_a_gradient_that_is_not_finite_does_not_enter_the_second_moment():
    weights = tf.Variable(np.ones(64, np.float32), name="w")
    optimizer = wrap(OPT.SGD(0.1), second_moment=0.5)
    optimizer.apply_gradients([(tf.ones([64]), weights)])
    optimizer.apply_gradients([(tf.fill([64], np.inf), weights)])
    (squares,) = (value for value in state(optimizer) if value.shape == (64,))
    np.testing.assert_array_equal(squares, np.full(64, 0.5))
    assert not np.isfinite(weights.numpy()).any()


def test_with_all_coordinates_a_second_moment_is_rmsprop_without_bias():
    """Adam without a first moment: v as in Adam, and nothing is lost on the way."""
    expected = flat(fitted(OPT.Adam(0.01, beta_1=0.0, beta_2=0.9, epsilon=1e-8)))
    found = flat(fitted(wrap(OPT.SGD(0.01), second_moment=0.9)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_around_another_wrapper():
    inner = wrap(OPT.Adam(0.01), seed=1)
    np.testing.assert_allclose(flat(fitted(wrap(inner, seed=2))), flat(fitted(OPT.Adam(0.01))), atol=1e-6)


def test_averages_of_weights_and_their_callback():
    if not KERAS_3:
        pytest.skip("the optimizers of Keras 2.6 keep no average")
    models = [fitted(make(), 3) for make in (INNER["ema"], lambda: wrap(INNER["ema"]()))]
    for one, other in zip(models[0].optimizer._model_variables_moving_average,
                          models[1].optimizer._model_variables_moving_average):  # fmt: skip
        np.testing.assert_allclose(one, other, atol=1e-6)
    x, y = blobs(96)
    swapped = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    models[1].fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[swapped])


@only_keras_3
@pytest.mark.parametrize("name", ["Adafactor", "Lamb", "ScheduleFreeAdamW"])
def test_an_inner_optimizer_that_looks_at_the_weights_has_no_state_in_coordinates(name):
    make = getattr(OPT, name)

    class Own(make):
        pass

    np.testing.assert_allclose(flat(fitted(wrap(make(0.01)))), flat(fitted(make(0.01))), atol=1e-6)
    for inner in (make(0.01), Own(0.01)):
        with pytest.raises(ValueError, match="depends on the values of the weights"):
            wrap(inner, state="coordinates", redraw_every=0)


@only_keras_3
def test_what_cannot_be_as_without_the_subspace_is_refused():
    with pytest.raises(ValueError, match="Muon treats variables by their shapes and paths"):
        wrap(OPT.Muon(0.01))
    averaging = OPT.SGD(0.1, use_ema=True, gradient_accumulation_steps=3)
    with pytest.raises(ValueError, match="Keras averages after each of the 3 steps"):
        fitted(wrap(averaging))


def test_a_layer_that_is_left_out_may_be_frozen_later(tmp_path):
    layers = [keras.layers.Dense(12, "relu", name="hidden"), keras.layers.Dense(10)]
    model = fitted(
        wrap(OPT.Adam(0.01), exclude="hidden", **BOLD), model=keras.Sequential([keras.Input((6,)), *layers])
    )
    model.get_layer("hidden").trainable = False
    fitted(model.optimizer, model=model)
    path = str(tmp_path / ("a.keras" if KERAS_3 else "a.h5"))
    model.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says that the slots of the layer are left behind
        loaded = keras.models.load_model(path)
    fitted(loaded.optimizer, model=loaded)
    with pytest.raises(ValueError, match="exclude: no variable or layer matches 'hidde'; the variables"):
        fitted(wrap(OPT.Adam(0.01), exclude="hidde", **BOLD))


def test_weights_in_float64_are_not_rounded():
    optimizer = wrap(OPT.SGD(0.0), state="coordinates", redraw_every=0)
    before = np.random.default_rng(0).normal(size=(7, 3))
    variable = (keras if KERAS_3 else tf).Variable(before, dtype="float64")
    optimizer.apply_gradients([(tf.ones((7, 3), tf.float64), variable)])
    np.testing.assert_array_equal(variable.numpy(), before)
    optimizer.learning_rate = 1.0
    optimizer.apply_gradients([(tf.ones((7, 3), tf.float64), variable)])
    np.testing.assert_allclose(variable.numpy(), before - 1.0, atol=1e-6)


def test_weight_decay_acts_on_the_weights_of_a_state_in_coordinates():
    if not KERAS_3:
        pytest.skip("the optimizers of Keras 2.6 decay no weights")
    options = {"state": "coordinates", "redraw_every": 0}
    # With all coordinates, and an inner optimizer that is linear, a rotation changes nothing.
    expected = flat(fitted(OPT.SGD(0.1, momentum=0.9, weight_decay=0.1)))
    found = flat(fitted(wrap(OPT.SGD(0.1, momentum=0.9, weight_decay=0.1), **options)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make, words", [
    (lambda: wrap("adam"), "inner_optimizer must be an optimizer of this Keras"),
    (lambda: wrap(rbd_ipu.RandomBasesDescent(0.1, dim=3)), "projects gradients itself"),
    (lambda: wrap(OPT.SGD(0.1), update="median"), "unknown update 'median'; accepted: 'mean', 'sign'"),
    (lambda: wrap(OPT.SGD(0.1), state="half"), "unknown state 'half'; accepted: 'full', 'coordinates'"),
    (lambda: wrap(OPT.SGD(0.1), **{**BOLD, "state": "coordinates"}), "needs select='all'"),
    (lambda: wrap(OPT.SGD(0.1), on_redraw="reset"), "on_redraw='reset' is for state='coordinates'"),
    (lambda: wrap(OPT.SGD(0.1), redraw_every=-1), "redraw_every must be an integer >= 0, where 0 keeps .* got -1"),
    (lambda: wrap(OPT.SGD(0.1), orthogonalize=True), "not 'blocks': its directions are orthonormal by construction"),
    (lambda: wrap(OPT.SGD(0.1), fraction=2.0), r"fraction must be a number in \[0, 1\], got 2.0"),
    (lambda: wrap(OPT.SGD(0.1), memory=1.5), r"memory must be a number in \[0, 1\], got 1.5"),
    (lambda: wrap(OPT.SGD(0.1), second_moment=-1), r"second_moment must be a number in \[0, 1\], got -1"),
    (lambda: wrap(OPT.SGD(0.1), second_moment=1.0), "second_moment must be below 1"),
    (lambda: wrap(OPT.SGD(0.1), dim=0), "dim must be an integer >= 1, got 0"),
    (lambda: wrap(OPT.SGD(0.1), nesterov=True), "does not take nesterov"),
    (lambda: wrap(OPT.SGD(0.1, clipnorm=1.0), clipnorm=2.0), "clipnorm=2.0 contradicts 1.0 of inner_optimizer"),
    (lambda: wrap(OPT.Ftrl(0.1), state="coordinates"), "inner_optimizer Ftrl depends on the values of the weights"),
])  # fmt: skip
def test_refusals(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_a_loss_scale_inside_is_refused():
    inner = (
        OPT.LossScaleOptimizer(OPT.SGD(0.1)) if KERAS_3 else keras.mixed_precision.LossScaleOptimizer(OPT.SGD(0.1))
    )
    with pytest.raises(ValueError, match="would let scaled gradients into the memory; put it around"):
        wrap(inner)


def test_other_variables_are_refused_where_the_state_is_theirs():
    model = fitted(wrap(OPT.Adam(0.01), **KINDS["coordinates"]))
    model.layers[-1].trainable = False
    with pytest.raises(ValueError, match="variable"):
        fitted(model.optimizer, model=model)


def test_a_state_in_coordinates_begins_within_a_replica():
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model, optimizer = dense(), wrap(OPT.Adam(0.01), **KINDS["coordinates"])

    @tf.function
    def step():
        variables = model.trainable_variables
        optimizer.apply_gradients([(tf.ones(v.shape), v) for v in variables])

    before = flat(model)
    for _ in range(2):
        strategy.run(step)
    assert not np.array_equal(flat(model), before)


def test_presets():
    small = fitted(presets.small_messages(0.01, fraction=1 / 16))
    np.testing.assert_array_equal(flat(small), flat(fitted(wrap(OPT.SGD(0.01), **BOLD))))
    assert presets.small_messages(0.01, second_moment=0.99).update == "mean"
    state_of = fitted(presets.small_state(0.02))
    assert sum(value.size for value in state(state_of.optimizer) if value.size > 1) == 2 * 54  # 214 / 4


TWO = textwrap.dedent(
    """
    import sys
    import numpy as np
    import rbd_ipu
    from rbd_ipu._compat import KERAS_3, keras, tf
    from nets import blobs, crossentropy, dense, flat, gradient
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from compression_reference import Worker
    x, y = blobs(64)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = dense()
        optimizer = rbd_ipu.SubspaceOptimizer(
            keras.optimizers.SGD(0.1), fraction=1 / 16, select="largest", memory=1.0, wire="sign", seed=9,
            exclude="*/bias",
        )
        variables = model.trainable_variables
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(64).repeat(3)
        data = strategy.experimental_distribute_dataset(batches)
        @tf.function
        def step(batch):
            def one(x, y):
                with tf.GradientTape() as tape:
                    losses = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
                    loss = tf.reduce_sum(losses) / 64
                optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            strategy.run(one, args=batch)
        for batch in data:
            step(batch)
    twin = dense()
    sizes = [int(np.prod(v.shape)) for v in twin.trainable_variables]
    workers = [Worker([72, 120], 1 / 16, "sign", 1.0, 9, True) for _ in range(2)]
    from nets import set_flat
    for t in range(3):
        parts, biases = [], []
        for worker, half in zip(workers, (slice(0, 32), slice(32, 64))):
            g = np.split(gradient(twin, x[half], y[half]) / 2, np.cumsum(sizes)[:-1])
            parts.append(worker.step([g[0], g[2]], t))
            biases.append((g[1], g[3]))
        kernels = [a + b for a, b in zip(*parts)]
        own = [a + b for a, b in zip(*biases)]
        set_flat(twin, flat(twin) - 0.1 * np.concatenate([kernels[0], own[0], kernels[1], own[1]]))
    error = np.abs(flat(model) - flat(twin)).max()
    assert error < 1e-5, error
    for v in variables:
        a, b = strategy.experimental_local_results(getattr(v, "value", v) if KERAS_3 else v)
        assert (a.numpy() == b.numpy()).all()
    print("alike")
    """
)


ONE = textwrap.dedent(
    """
    import numpy as np
    import test_subspace_optimizer as tests
    from nets import blobs, crossentropy, dense, flat
    from rbd_ipu._compat import KERAS_3, tf
    x, y = blobs(96)
    compiled = {"jit_compile": False} if KERAS_3 else {}
    for kind in ("bold", "coordinates", "reset", "no memory"):
        make = lambda: tests.wrap(tests.OPT.SGD(0.1), seed=3, **tests.KINDS[kind])
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = dense()
            model.compile(optimizer=make(), loss=crossentropy(), **compiled)
        model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
        np.testing.assert_allclose(flat(model), flat(tests.fitted(make(), **compiled)), atol=1e-5)
    print("alike")
    """
)


# Both replicas have the same examples, and so the gradient of one alone.
SAME = textwrap.dedent(
    """
    import numpy as np
    import rbd_ipu
    from rbd_ipu._compat import KERAS_3, keras, tf
    from nets import blobs, crossentropy, dense, flat
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    x, y = (np.concatenate([part, part]) for part in blobs(16))
    compiled = {"jit_compile": False} if KERAS_3 else {}

    def fitted(options, rate, inner):
        model = dense()
        optimizer = rbd_ipu.SubspaceOptimizer(keras.optimizers.SGD(rate, **inner), **options)
        model.compile(optimizer=optimizer, loss=crossentropy(), **compiled)
        model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
        kernel = model.trainable_variables[0]
        kept = [np.abs(np.asarray(tf.convert_to_tensor(optimizer.kept(name, kernel)))).sum()
                for name in optimizer._use.kept]
        return flat(model), kept

    largest = {"fraction": 1 / 16, "select": "largest", "memory": 1.0, "wire": "sign"}
    rows = [
        ({"second_moment": 0.9}, 0.01, {}),
        ({**largest, "second_moment": 0.9}, 0.01, {}),
        ({"distribution": "groups", "fraction": 0.25, "state": "coordinates"}, 0.1, {}),
    ]
    # Keras 3 clips what it has divided by the number of replicas, here as without the wrapper.
    rows += [] if KERAS_3 else [({"fraction": 0.5, "select": "largest"}, 1.0, {"clipnorm": 0.01})]
    for row in rows:
        one, of_one = fitted(*row)
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            two, of_two = fitted(*row)
        np.testing.assert_allclose(one, two, atol=1e-5, err_msg=str(row))
        np.testing.assert_allclose(of_one, of_two, rtol=1e-3, err_msg=str(row))
    print("alike")
    """
)


def alike(program, folder):
    """Runs a program in a process of its own: TensorFlow 2.6 leaves the pool of a strategy unclosed."""
    (folder / "program.py").write_text(program)
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(folder / "program.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and b"alike" in done.stdout, done.stdout.decode()


def test_a_strategy_of_one_replica_changes_nothing(tmp_path):
    alike(ONE, tmp_path)


def test_two_replicas_are_two_workers_of_the_reference(tmp_path):
    alike(TWO, tmp_path)


def test_replicas_with_the_same_examples_are_one(tmp_path):
    alike(SAME, tmp_path)


def zeros(shape):
    return (keras if KERAS_3 else tf).Variable(np.zeros(shape, np.float32))


@pytest.mark.parametrize("options", [{}, {"fraction": 0.5, "select": "largest"}])
def test_several_replicas_of_an_ipu_are_refused(options, monkeypatch):
    module = importlib.import_module("rbd_ipu.optimizers.subspace_optimizer")
    optimizer, variable = rbd_ipu.SubspaceOptimizer(OPT.SGD(0.1), **options), zeros(64)
    monkeypatch.setattr(module, "on_ipu", lambda: True)
    monkeypatch.setattr(module.projected, "alone", lambda: False)
    with pytest.raises(NotImplementedError, match="on several replicas of an IPU keeps a memory for each"):
        optimizer.apply_gradients([(tf.ones(64), variable)])
    assert not np.array(tf.convert_to_tensor(variable)).any()


def test_what_cancels_has_no_sign():
    """Of Hadamard blocks of one size, one entry in seven is 0: no weight may move by a rate for it."""
    H = np.ones((1, 1))
    while len(H) < 4096:
        H = np.block([[H, H], [H, -H]])
    optimizer = rbd_ipu.presets.small_messages(1.0)
    variable = zeros(4096)
    numbers, memory = np.random.default_rng(0), np.zeros(4096)
    for size in (0.011, 0.1, 0.7, 1.3, 2.0, 3.1):
        g = size * numbers.standard_normal(4096).astype(np.float32)
        before = np.array(tf.convert_to_tensor(variable))
        optimizer.apply_gradients([(tf.constant(g), variable)])
        step = before - np.array(tf.convert_to_tensor(variable))
        c = H @ (memory + g) / 64
        sent = np.argsort(-np.abs(c))[:32]
        q = np.zeros(4096)
        q[sent] = np.sign(c[sent])
        nothing = np.round(H @ q) == 0
        assert 0.05 < nothing.mean() < 0.3 and np.abs(step[nothing]).max() < 0.5
        memory = np.array(tf.convert_to_tensor(optimizer.kept("memory", variable)), np.float64)


@pytest.mark.parametrize("source", ["auto", "counter"])
def test_the_first_step_of_an_entry_is_one_rate_long_whenever_it_comes(source):
    options = {"fraction": 1.0, "select": "largest", "memory": 1.0} if source == "auto" else {}
    optimizer = rbd_ipu.SubspaceOptimizer(OPT.SGD(0.01), second_moment=0.99, source=source, **options)
    variable = zeros(64)
    g = np.repeat([1.0, 0.0], 32).astype(np.float32)
    for step in range(12):
        g[32:] = 3.0 if step == 10 else 0.0
        before = np.array(tf.convert_to_tensor(variable))
        optimizer.apply_gradients([(tf.constant(g), variable)])
        moved = (before - np.array(tf.convert_to_tensor(variable))) / 0.01
        np.testing.assert_allclose(moved, np.repeat([1.0, float(step == 10)], 32), atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_all_coordinates_leave_entries_without_a_gradient_alone(name):
    optimizer = rbd_ipu.SubspaceOptimizer(keras.optimizers.get(name))
    variable = zeros((50, 50))
    g = np.zeros((50, 50), "float32")
    g[3] = 100.0
    for _ in range(3):
        optimizer.apply_gradients([(tf.constant(g), variable)])
    assert np.abs(np.delete(np.array(tf.convert_to_tensor(variable)), 3, 0)).max() == 0.0


def test_an_inner_optimizer_that_has_given_its_clipping_away_is_refused():
    inner = OPT.SGD(1.0, clipnorm=0.01)
    first = wrap(inner)
    assert first.clipnorm == 0.01
    with pytest.raises(
        ValueError, match="has given clipnorm=0.01 to another SubspaceOptimizer: make an optimizer for"
    ):
        wrap(inner)
    wrap(first.inner_optimizer.__class__.from_config(first.inner_optimizer.get_config()))


def test_a_preset_takes_dim_in_place_of_its_fraction():
    for preset in (rbd_ipu.presets.small_messages, rbd_ipu.presets.small_state):
        config = preset(0.1, dim=100).get_config()
        assert (config["dim"], config["fraction"]) == (100, None)


def test_the_state_of_an_inner_optimizer_that_the_other_keras_keeps_otherwise_is_refused():
    model = fitted(wrap(OPT.Nadam(0.01), memory=1.0), 1)
    own, n = model.optimizer, len(model.trainable_variables)
    before = state(own)
    count = len(before) - 3 if KERAS_3 else len(before) + 3  # Keras 3 has the step twice, and two rates
    with pytest.raises(ValueError, match="of Nadam in a file of the other Keras does not cross, as that of SGD"):
        own.set_weights([np.zeros(3, np.float32)] * count)
    assert len(before) > 3 * n
    for one, other in zip(before, state(own)):
        np.testing.assert_array_equal(one, other)
