"""Every way into SubspaceOptimizer: a gradient is compressed before a weight changes, or there is an error first."""

import json
import logging

import numpy as np
import pytest
from nets import blobs, crossentropy, dense, flat, gradient, set_flat
from optimizers.test_subspace_optimizer import BOLD, KINDS, OPT, state, wrap
from optimizers.test_ways_in import around, gradients, only_keras_2, only_keras_3, pairs, refused

import rbd_ipu
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.optimizers import projected

L = keras.layers
SOME = ("bold", "groups", "coordinates")
PLAIN = {"jit_compile": False} if KERAS_3 else {}
X, Y = blobs(64)


def sgd(kind="bold", rate=0.1, **options):
    return wrap(OPT.SGD(rate), seed=3, **KINDS[kind], **options)


def adam(kind="bold"):
    return wrap(OPT.Adam(0.01), seed=3, **KINDS[kind])


def compiled(optimizer, model=None):
    model = model or dense()
    model.compile(optimizer=optimizer, loss=crossentropy(), **PLAIN)
    return model


def fit(model, epochs=1, **options):
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def alike(one, other):
    np.testing.assert_array_equal(flat(one), flat(other))


def moved(*optimizers, part=slice(None), **options):
    """What a step of each does to a network, by the same gradients."""
    found = []
    for optimizer in optimizers:
        model = dense()
        start = flat(model)
        optimizer.apply_gradients(pairs(model)[part], **options)
        found.append(flat(model) - start)
    return found


# --- subclasses and wrappers ---


@pytest.mark.parametrize("kind", SOME)
def test_an_optimizer_around_it_that_works_variable_by_variable_is_refused(kind):
    model, outer = dense(), around(sgd(kind))
    refused(model, lambda: outer.apply_gradients(pairs(model)), ValueError, "given the gradient of .* alone")
    table = keras.Sequential([L.InputLayer((2,)), L.Embedding(5, 3)])
    sparse = tf.IndexedSlices(tf.ones([1, 3]), tf.constant([1]), tf.constant([5, 3]))
    outer = around(sgd())
    refused(table, lambda: outer.apply_gradients([(sparse, table.trainable_variables[0])]), ValueError, "alone")


WRITE = ("update_step", "assign_sub", "_backend_update_step", "_all_reduce_sum_gradients")
WRITE_2 = ("_resource_apply_dense", "_resource_apply_sparse", "_distributed_apply")


@pytest.mark.parametrize("method", WRITE if KERAS_3 else WRITE_2)
def test_a_subclass_with_its_own_way_to_write_is_refused(method):
    own = {method: lambda self, *args, **kwargs: getattr(rbd_ipu.SubspaceOptimizer, method)(self, *args, **kwargs)}
    model, opt = dense(), type("Own", (rbd_ipu.SubspaceOptimizer,), own)(OPT.SGD(0.1), **BOLD)
    refused(model, lambda: opt.apply_gradients(pairs(model)), TypeError, f"its {method} has been replaced")


@only_keras_2
@pytest.mark.parametrize("kind", SOME)
def test_who_changes_gradients_before_the_compression_is_heard(kind):
    """Transformers and aggregators, of the inner optimizer too, and methods of subclasses: the doubled gradient."""

    def double(pairs):
        return [(2.0 * g, v) for g, v in pairs]

    names = ("_transform_gradients", "_transform_unaggregated_gradients", "_aggregate_gradients")
    methods = [{name: lambda self, pairs: double(pairs)} for name in names]
    optimizers = [
        wrap(OPT.SGD(0.1, gradient_transformers=[double]), seed=3, **KINDS[kind]),
        wrap(OPT.SGD(0.1, gradient_aggregator=double), seed=3, **KINDS[kind]),
        *[type("Own", (rbd_ipu.SubspaceOptimizer,), m)(OPT.SGD(0.1), seed=3, **KINDS[kind]) for m in methods],
    ]
    (expected,) = moved(sgd(kind, 0.1 if kind == "bold" else 0.2))  # signs do not grow
    for found in moved(*optimizers):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    (found,) = moved(sgd(kind), experimental_aggregate_gradients=False)
    np.testing.assert_array_equal(found, moved(sgd(kind))[0])


@only_keras_3
def test_apply_without_variables_and_without_state():
    model, twin = dense(), dense()
    for kind in SOME:
        one, other = sgd(kind), sgd(kind)
        one.build(model.trainable_variables)
        one.apply(gradients(model))
        other.apply_gradients(pairs(twin))
        alike(model, twin)
        values = [v.numpy() for v in one.variables], gradients(model), [v.numpy() for v in model.trainable_variables]
        refused(model, lambda one=one, values=values: one.stateless_apply(*values), ValueError, "not supported")


@only_keras_3
def test_optimizers_for_parts():
    multi = getattr(OPT, "MultiOptimizer", None)
    if multi is None:
        pytest.skip("this Keras has no MultiOptimizer")
    own, other = sgd(), OPT.SGD(0.1)
    (found,) = moved(multi(lambda v: own if len(v.shape) == 2 else other))
    (expected,) = moved(sgd(exclude="bias"))
    np.testing.assert_allclose(found, expected, atol=1e-7)
    with pytest.raises(ValueError, match="put it around"):
        wrap(multi(lambda v: other), **BOLD)


# --- settings ---


def late(optimizer, **settings):
    for name, value in settings.items():
        setattr(optimizer, name, value)
    return optimizer


@pytest.mark.parametrize("kind", SOME)
def test_settings_of_the_inner_optimizer_that_would_act_too_late_are_refused(kind):
    named = [{"clipnorm": 0.5}, {"clipvalue": 0.5}, {"global_clipnorm": 0.5}]
    named += [{"gradient_accumulation_steps": 2}, {"loss_scale_factor": 2.0}] if KERAS_3 else []
    named += [] if KERAS_3 else [{"gradient_transformers": [lambda pairs: pairs]}]
    for setting in named:
        model, opt = dense(), sgd(kind)
        late(opt.inner_optimizer, **setting)
        words = f"{list(setting)[0]}=.* of inner_optimizer would act on what was compressed"
        refused(model, lambda opt=opt, model=model: opt.apply_gradients(pairs(model)), ValueError, words)


@only_keras_3
def test_settings_that_belong_to_the_inner_optimizer_arrive_there():
    opt = late(sgd(), weight_decay=0.5, ema_overwrite_frequency=2)
    assert opt.inner_optimizer.weight_decay == opt.weight_decay == 0.5
    assert opt.inner_optimizer.ema_overwrite_frequency == 2 and opt.ema_overwrite_frequency is None
    a, b = moved(opt, sgd())
    np.testing.assert_allclose(a - b, -0.1 * 0.5 * flat(dense()), atol=1e-6)
    model, opt = dense(), late(sgd("coordinates"), use_ema=True)
    refused(model, lambda: opt.apply_gradients(pairs(model)), ValueError, "average coordinates of different bases")
    opt = wrap(OPT.SGD(0.1, use_ema=True), **BOLD)
    opt.build(dense().trainable_variables)
    assert sum("average" in v.path for v in opt.variables) == 4  # once


@pytest.mark.parametrize("kind", SOME)
def test_the_learning_rate_is_that_of_the_inner_optimizer(kind):
    """A number, a schedule, a function, on Keras 2 a variable; and what a callback or a user sets."""
    schedule = OPT.schedules.PiecewiseConstantDecay([100], [0.2, 0.3])
    rates = [0.2, schedule, lambda: 0.2] + ([] if KERAS_3 else [tf.Variable(0.2)])
    optimizers = [sgd(kind, rate) for rate in rates]
    optimizers += [late(sgd(kind), learning_rate=0.2), late(sgd(kind), **({} if KERAS_3 else {"lr": 0.2}))]
    (once,) = moved(sgd(kind))
    for found in moved(*optimizers[: -1 if KERAS_3 else None]):
        np.testing.assert_allclose(found, 2 * once, atol=1e-6)
    model = compiled(sgd(kind))
    fit(model)
    before = flat(model)
    fit(model, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)])
    np.testing.assert_array_equal(flat(model), before)


@pytest.mark.parametrize("kind", SOME)
def test_a_constraint_acts_once(kind):
    weights = np.ones((6, 8), np.float32)
    for optimizer in (OPT.SGD(0.0), sgd(kind, 0.0)):
        half = L.Dense(8, use_bias=False, kernel_constraint=lambda w: 0.5 * w)
        model = keras.Sequential([L.InputLayer((6,)), half])
        model.set_weights([weights])
        optimizer.apply_gradients([(tf.ones([6, 8]), model.trainable_variables[0])])
        np.testing.assert_array_equal(model.get_weights()[0], 0.5 * weights)


# --- variables ---


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("kind", SOME)
def test_variables_without_a_gradient(kind):
    """Patterns may mean them; those in the subspace stay as they are, or a state in coordinates refuses."""
    opt, model = sgd(kind, exclude="bias"), dense()
    opt.apply_gradients([(None if len(v.shape) == 1 else g, v) for g, v in pairs(model)])
    twin = dense()
    sgd(kind, exclude=lambda v: len(v.shape) == 1).apply_gradients(pairs(twin)[::2])
    alike(model, twin)
    opt, model = sgd(kind), dense()
    opt.apply_gradients(pairs(model))
    less = [(None if i == 1 else g, v) for i, (g, v) in enumerate(pairs(model))]
    if kind == "coordinates":
        refused(model, lambda: opt.apply_gradients(less), ValueError, "coordinates of")
    else:
        before = model.get_weights()
        opt.apply_gradients(less)
        same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
        assert same == [False, True, False, False]


@pytest.mark.parametrize("kind", SOME)
def test_a_layer_frozen_between_two_fits(kind):
    """Its memory waits for it, by variable; a state in coordinates refuses."""
    model = compiled(sgd(kind))
    fit(model)
    model.layers[-1].trainable = False
    compiled(model.optimizer, model)
    if kind == "coordinates":
        refused(model, lambda: fit(model), ValueError, "coordinates of")
        return
    frozen, waits = model.layers[-1].get_weights(), memories(model)
    fit(model)
    for one, other in zip(frozen, model.layers[-1].get_weights()):
        np.testing.assert_array_equal(one, other)
    now = memories(model)
    assert [np.array_equal(a, b) for a, b in zip(waits, now)] == [False, False, True, True]
    model.layers[-1].trainable = True
    compiled(model.optimizer, model)
    for one, other in zip(now, memories(model)):
        np.testing.assert_array_equal(one, other)
    fit(model)
    assert not any(np.array_equal(a, b) for a, b in zip(now, memories(model)))


def memories(model):
    return [np.array(tf.convert_to_tensor(model.optimizer.kept("memory", v))) for v in model.variables]


@pytest.mark.parametrize("kind", ["bold", "coordinates"])
def test_odd_variables_and_sparse_gradients(kind):
    """One entry, none, a scalar, an embedding."""
    shapes = [(1,), (0, 3), (), (5, 4)]
    values = [np.ones(shape, np.float32) for shape in shapes]
    variables = [tf.Variable(value, name=f"v{i}") for i, value in enumerate(values)]
    sparse = tf.IndexedSlices(tf.ones([3, 4]), tf.constant([1, 1, 3]), tf.constant([5, 4]))
    grads = [tf.ones([1]), tf.zeros([0, 3]), tf.constant(2.0), sparse]
    twins = [tf.Variable(value, name=f"w{i}") for i, value in enumerate(values)]
    sgd(kind).apply_gradients(zip(grads, variables))
    sgd(kind).apply_gradients(zip([tf.convert_to_tensor(g) for g in grads], twins))
    for one, other in zip(variables, twins):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert any((np.asarray(v.numpy()) != 1.0).any() for v in variables)


# --- loss scale ---


def scaled(inner):
    if KERAS_3:
        return OPT.LossScaleOptimizer(inner, initial_scale=4.0)
    return keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=4.0)


@pytest.mark.parametrize("kind", SOME)
def test_a_step_that_a_loss_scale_skips_leaves_no_trace(kind):
    model = compiled(scaled(adam(kind)))
    fit(model)
    inner = model.optimizer.inner_optimizer
    before, weights = [*state(inner)], flat(model)
    x = X.copy()
    x[:] = np.inf
    model.fit(x, Y, batch_size=64, epochs=1, verbose=0)
    np.testing.assert_array_equal(flat(model), weights)
    for one, other in zip(before, state(inner)):
        if KERAS_3 or one.ndim:  # Keras 2 counts the step that it skips
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["bold", "coordinates"])
def test_mixed_float16(kind):
    """Keras puts its LossScaleOptimizer around; what trains is float32."""
    set_policy = keras.config.set_dtype_policy if KERAS_3 else keras.mixed_precision.set_global_policy
    set_policy("mixed_float16")
    try:
        model = keras.Sequential([L.InputLayer((6,)), L.Dense(12, "relu"), L.Dense(10, dtype="float32")])
        compiled(sgd(kind), model)
    finally:
        set_policy("float32")
    assert "LossScale" in type(model.optimizer).__name__
    loss = fit(model, 3).history["loss"]
    assert loss[-1] < loss[0]
    assert int(model.optimizer.inner_optimizer.iterations) > 0


# --- files ---


@pytest.mark.parametrize("kind", ["bold", "reset"])
def test_a_tensorflow_checkpoint_is_exact(kind, tmp_path):
    whole = compiled(adam(kind))
    fit(whole, 2)
    path = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(str(tmp_path / "c"))
    fit(whole, 2)
    for built in (False, True):
        other = compiled(adam(kind))
        if built:
            fit(other)
        restored = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
        restored.assert_existing_objects_matched()
        fit(other, 2)
        restored.assert_existing_objects_matched()  # what was made since, too
        alike(other, whole)


@only_keras_3
@pytest.mark.parametrize("kind", ["bold", "reset"])
def test_an_h5_file_of_keras_3_is_exact(kind, tmp_path):
    whole = compiled(adam(kind))
    fit(whole, 2)
    whole.save(str(tmp_path / "model.h5"))
    other = keras.models.load_model(str(tmp_path / "model.h5"))
    assert int(other.optimizer.iterations) == 8
    stranger = compiled(adam(kind))
    stranger.optimizer.set_weights([np.int64(8), np.zeros(3, np.float32)])  # before there are variables
    refused(stranger, lambda: fit(stranger), ValueError, "it is the state of another optimizer")
    for model in (whole, other):
        fit(model, 2)
    alike(other, whole)


@only_keras_2
@pytest.mark.parametrize("kind", ["bold", "coordinates"])
def test_a_saved_model_says_what_it_does_not_hold(kind, tmp_path, caplog):
    model = compiled(adam(kind))
    fit(model, 2)
    assert "iterations" not in model.optimizer.get_config()
    model.save(str(tmp_path / "model"))
    assert "iterations" not in model.optimizer.get_config()
    projected._say.cache_clear()
    with caplog.at_level(logging.WARNING, "rbd_ipu"):
        loaded = keras.models.load_model(str(tmp_path / "model"))
    assert int(loaded.optimizer.iterations) == 8
    said = [record.getMessage() for record in caplog.records if record.name == "rbd_ipu"]
    assert len(said) == 1 and "holds the step" in said[0] and "begin anew" in said[0]
    alike(loaded, model)


# --- one step, many ways to call it ---


def taped(model, opt, loss):
    """A step of a loop of one's own."""
    variables = model.trainable_variables

    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        opt.apply_gradients(zip(tape.gradient(value, variables), variables))

    return step


@pytest.mark.parametrize("kind", ["bold", "coordinates"])
def test_loops_take_the_same_steps(kind):
    """fit, fit eagerly, fit by several steps a call, a tape alone, a tape in a tf.function: the same bits."""
    whole = compiled(adam(kind))
    fit(whole, 2)
    for options in ({"run_eagerly": True}, {"steps_per_execution": 2}):
        model = dense()
        model.compile(optimizer=adam(kind), loss=crossentropy(), **PLAIN, **options)
        fit(model, 2)
        alike(model, whole)
    for way in (lambda step: step, tf.function):
        model, opt, loss = dense(), adam(kind), crossentropy()
        if KERAS_3:
            opt.build(model.trainable_variables)
        step = way(taped(model, opt, loss))
        for i in range(8):
            part = slice(16 * (i % 4), 16 * (i % 4) + 16)
            step(tf.constant(X[part]), tf.constant(Y[part]))
        alike(model, whole)


def by_hand(inner, optimizer, steps, reset):
    """The weights after some steps of an inner optimizer on c = P g, in float64."""
    model = dense()
    space = optimizer.sketch_of(model.trainable_variables).space
    every = optimizer.get_config()["redraw_every"]
    m, v = np.zeros((2, space.dim))
    for t in range(steps):
        P = space.directions(3, t // every if every else 0).numpy().astype(np.float64)  # [d, D]
        part = slice(16 * (t % 4), 16 * (t % 4) + 16)
        c = P @ gradient(model, X[part], Y[part])
        if reset and t and t % every == 0:
            m, v = np.zeros((2, space.dim))
        if inner == "momentum":
            m = 0.9 * m - 0.1 * c
            step = m
        else:
            m, v = m + 0.1 * (c - m), v + 0.001 * (c * c - v)
            step = -0.01 * np.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1)) * m / (np.sqrt(v) + 1e-7)
        set_flat(model, flat(model) + P.T @ step)
    return flat(model)


@pytest.mark.parametrize("inner", ["momentum", "adam"])
@pytest.mark.parametrize("redraw_every, on_redraw", [(0, "keep"), (3, "keep"), (3, "reset")])
def test_a_state_in_coordinates_by_hand(inner, redraw_every, on_redraw):
    options = {"dim": 20, "distribution": "hadamard", "state": "coordinates", "seed": 3}
    made = OPT.SGD(0.1, momentum=0.9) if inner == "momentum" else OPT.Adam(0.01)
    opt = wrap(made, redraw_every=redraw_every, on_redraw=on_redraw, **options)
    model = compiled(opt)
    fit(model, 2)
    np.testing.assert_allclose(flat(model), by_hand(inner, opt, 8, on_redraw == "reset"), atol=2e-6)


@keras.utils.register_keras_serializable("tests")
def of_vectors_registered(variable):
    return len(variable.shape) == 1


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_function_of_a_variable_never_becomes_a_pattern(tmp_path):
    """A function called ``kernel`` would come back as the pattern 'kernel'."""

    def kernel(variable):
        return len(variable.shape) == 1

    model = compiled(sgd(include=kernel))
    copy = type(model.optimizer).from_config(model.optimizer.get_config())
    assert copy.include is kernel and copy.get_config() == model.optimizer.get_config()
    json.dumps(model.optimizer.get_config())
    fit(model)
    model.save(str(tmp_path / "unknown.h5"))
    with pytest.raises((TypeError, ValueError), match="kernel"):
        keras.models.load_model(str(tmp_path / "unknown.h5"))
    model = compiled(sgd(exclude=of_vectors_registered))
    fit(model)
    model.save(str(tmp_path / "known.h5"))
    assert keras.models.load_model(str(tmp_path / "known.h5")).optimizer.exclude is of_vectors_registered
