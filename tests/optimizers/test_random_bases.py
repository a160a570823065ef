"""The Keras optimizers: against NumPy, the Trainer and each other; saved, restored, accumulated, distributed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from crossing import write as crossing
from nets import blobs, crossentropy, dense, flat, gradient, set_flat
from reference import close

import rbd_ipu
from rbd_ipu import hooks, methods
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.optimizers import OPTIMIZERS, projected

only_keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2's compile does not know this argument")
only_keras_2 = pytest.mark.skipif(KERAS_3, reason="about the formats of Keras 2")


def compiled(optimizer, model=None, **kwargs):
    model = model or dense()
    model.compile(optimizer=optimizer, loss=crossentropy(), metrics=["accuracy"], **kwargs)
    return model


def fit(model, x, y, epochs=1, **kwargs):
    return model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def simulate(optimizer, model, x, y, steps, batch=32, rate=None):
    """float64: Keras' SGD with momentum on P P^T g, the directions taken from the optimizer's subspace."""
    config = optimizer.get_config()
    space = optimizer.subspace_of(model.trainable_variables) if not KERAS_3 else _space(optimizer, model)
    momentum, velocity = config["momentum"], 0.0
    for t in range(steps):
        at = slice((t * batch) % len(x), (t * batch) % len(x) + batch)
        index = 0 if "redraw_every" not in config else t // config["redraw_every"]
        P = space.directions(config["seed"], index).numpy().astype(np.float64)
        g = gradient(model, x[at], y[at])
        lr = config["learning_rate"] if rate is None else rate(t)
        impulse = lr * (P.T @ (P @ g))
        velocity = momentum * velocity - impulse
        move = momentum * velocity - impulse if config["nesterov"] else velocity
        set_flat(model, flat(model) + move)


def _space(optimizer, model):
    from rbd_ipu.compartments import Compartments
    from rbd_ipu.subspace import subspace

    own = optimizer.get_config()
    cut = Compartments.of(model.trainable_variables, own["compartments"], own["dim"])
    return subspace(cut, own["distribution"], own["normalize"], own["source"])


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 is tf_keras")
def test_the_legacy_keras_quotes_what_it_refuses():
    said = f"Could not interpret optimizer identifier: {rbd_ipu.RandomBasesDescent(0.1, dim=2)}"  # words of tf_keras
    assert f"an optimizer of Keras {keras.__version__}, not of tf_keras, the legacy Keras 2" in said


@pytest.mark.parametrize(
    "name, options",
    [
        ("RandomBasesDescent", {"dim": 20, "seed": 5}),
        ("RandomBasesDescent", {"dim": 20, "momentum": 0.9, "compartments": "layer"}),
        ("RandomBasesDescent", {"dim": 20, "momentum": 0.5, "nesterov": True, "redraw_every": 3}),
        ("RandomBasesDescent", {"compartments": "factor:4", "distribution": "rademacher"}),
        ("FixedProjectionDescent", {"dim": 20}),
        ("FixedProjectionDescent", {"dim": 20, "momentum": 0.5, "compartments": "even:3"}),
        ("FixedProjectionDescent", {"dim": 20, "momentum": 0.5, "nesterov": True}),
    ],
)
def test_an_epoch_is_what_numpy_makes_of_it(name, options):
    x, y = blobs()
    optimizer = OPTIMIZERS.get(name)(0.5, **options)
    model = compiled(optimizer)
    fit(model, x, y)
    other = dense()
    simulate(optimizer, other, x, y, 10)
    assert int(optimizer.iterations) == 10
    close(flat(model) - flat(dense()), flat(other) - flat(dense()), 1e-4)


@pytest.mark.parametrize("name, method", [("RandomBasesDescent", "rbd"), ("FixedProjectionDescent", "fpd")])
def test_optimizer_and_trainer_agree(name, method):
    x, y = blobs()
    model = compiled(OPTIMIZERS.get(name)(0.5, dim=20, seed=7, momentum=0.5))
    fit(model, x, y)
    trainer = rbd_ipu.Trainer(dense(), methods.create(method, learning_rate=0.5, dim=20, seed=7, momentum=0.5), "cpu")
    trainer.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(32), epochs=1, verbose=0)
    close(flat(trainer.model) - flat(dense()), flat(model) - flat(dense()), 1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_seed_same_bits_other_seed_other_bits(name):
    x, y = blobs()

    def weights(seed):
        model = compiled(OPTIMIZERS.get(name)(1.0, dim=10, seed=seed))
        fit(model, x, y, epochs=2)
        return flat(model)

    first = weights(1)
    np.testing.assert_array_equal(first, weights(1))
    assert np.abs(first - weights(2)).max() > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip(name):
    optimizer = OPTIMIZERS.get(name)(
        0.5,
        dim=9,
        distribution="uniform",
        compartments="layer",
        momentum=0.25,
        seed=3,
        normalize="expected",
        source="counter",
        nesterov=True,
        clipnorm=2.0,
    )
    config = optimizer.get_config()
    json.dumps(config)  # what Keras writes into files
    assert config["dim"] == 9 and config["momentum"] == 0.25 and config["learning_rate"] == 0.5
    assert type(optimizer).from_config(config).get_config() == config
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer) and again.get_config() == config


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_with_the_model_it_goes_on_where_it_stopped(name, tmp_path):
    """Weights, step and velocity come back: the next bases are the next ones, not the first ones again."""
    x, y = blobs()
    make = OPTIMIZERS.get(name)
    whole = compiled(make(0.5, dim=10, momentum=0.5))
    fit(whole, x, y, epochs=2)
    half = compiled(make(0.5, dim=10, momentum=0.5))
    fit(half, x, y)
    path = str(tmp_path / ("model.keras" if KERAS_3 else "model.h5"))
    half.save(path)
    restored = keras.models.load_model(path)
    assert int(restored.optimizer.iterations) == 10
    fit(restored, x, y)
    np.testing.assert_array_equal(flat(restored), flat(whole))


@only_keras_2
def test_a_saved_model_keeps_the_step(tmp_path):
    """Keras 2 drops an optimizer's variables from SavedModels; the step travels in the configuration."""
    x, y = blobs()
    whole, half = (compiled(rbd_ipu.RandomBasesDescent(0.5, dim=10)) for _ in range(2))
    fit(whole, x, y, epochs=2)
    fit(half, x, y)
    half.save(str(tmp_path / "saved"))
    restored = keras.models.load_model(str(tmp_path / "saved"))
    assert int(restored.optimizer.iterations) == 10
    fit(restored, x, y)
    np.testing.assert_array_equal(flat(restored), flat(whole))


@only_keras_2
def test_a_saved_model_keeps_the_step_of_an_optimizer_within_another_and_says_what_it_loses(tmp_path, caplog):
    x, y = blobs()
    scaled = keras.mixed_precision.LossScaleOptimizer
    model = compiled(scaled(rbd_ipu.RandomBasesDescent(0.5, dim=10, momentum=0.5)))
    fit(model, x, y)
    projected._say.cache_clear()
    model.save(str(tmp_path / "saved"))
    assert "iterations" not in model.optimizer.get_config()["inner_optimizer"]["config"]
    restored = keras.models.load_model(str(tmp_path / "saved"))
    assert int(restored.optimizer.iterations) == 10
    assert "the step of RandomBasesDescent, 10, but not its momentum" in caplog.text


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 keeps the state of optimizers within others in .h5")
@pytest.mark.parametrize("kind", ["paper", "subspace"])
def test_a_step_that_an_h5_file_of_keras_3_loses_is_not_begun_again(kind, tmp_path):
    """Keras 3 does not give an optimizer within another its state: it would draw the bases of step 0 again."""
    own = rbd_ipu.RandomBasesDescent(0.5, dim=10)
    own = own if kind == "paper" else rbd_ipu.SubspaceOptimizer(keras.optimizers.SGD(0.5))
    x, y = blobs(64)
    model = compiled(keras.optimizers.LossScaleOptimizer(own))
    fit(model, x, y)
    for end in (".keras", ".h5"):  # Keras forgets how a model was compiled when it writes .h5
        model.save(str(tmp_path / f"model{end}"))
    fit(keras.models.load_model(str(tmp_path / "model.keras")), x, y)
    lost = keras.models.load_model(str(tmp_path / "model.h5"))
    before = flat(lost)
    with pytest.raises(ValueError, match="the .h5 file did not give .* its step.*Save the model as .keras"):
        fit(lost, x, y)
    np.testing.assert_array_equal(flat(lost), before)


@pytest.mark.parametrize("first", ["rbd_ipu", "keras"])
def test_a_new_process_loads_a_file_knowing_rbd_ipu_only_by_import(first, tmp_path):
    x, y = blobs(32)
    inner = keras.optimizers.Adam()
    optimizers = [rbd_ipu.RandomBasesDescent(0.5, dim=10), rbd_ipu.SubspaceOptimizer(inner, memory=1.0, wire="sign")]
    paths = {}
    for optimizer in optimizers:
        model = dense()
        model.compile(optimizer=optimizer, loss="mean_squared_error")
        model.fit(x, np.eye(10)[y], verbose=0)
        kind = type(optimizer).__name__
        for end in (".keras", ".h5") if KERAS_3 else (".h5", ""):
            paths[str(tmp_path / (kind + end))] = kind
            model.save(str(tmp_path / (kind + end)))
    imports = ["import rbd_ipu", "import keras" if KERAS_3 else "from tensorflow import keras"]
    if first == "rbd_ipu":
        imports.insert(1, "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules")
    else:
        imports.reverse()
    lines = [
        "import sys",
        *imports,
        f"for path, kind in {paths!r}.items():",
        "    optimizer = keras.models.load_model(path).optimizer",
        "    assert type(optimizer) is getattr(rbd_ipu, kind) and int(optimizer.iterations) == 1",
    ]
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_is_state_and_no_setting(name, tmp_path):
    """A new optimizer with the settings of an old one begins at its first step."""
    x, y = blobs(64)
    model = compiled(OPTIMIZERS.get(name)(0.5, dim=10))
    config = model.optimizer.get_config()
    fit(model, x, y)
    if not KERAS_3:
        tf.saved_model.save(model, str(tmp_path / "a"))  # what TensorFlow writes has no settings of ours in it
        model.save(str(tmp_path / "b"))
    again = type(model.optimizer).from_config(model.optimizer.get_config())
    assert model.optimizer.get_config() == config and int(again.iterations) == 0
    other = compiled(again)
    fit(other, x, y)
    np.testing.assert_array_equal(flat(other), flat(model))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "adam")) for n in crossing.CASES])
@pytest.mark.parametrize("stack", ["keras_2", "keras_3"])
def test_files_cross_the_stacks(stack, name):
    """A file of either Keras goes on with its step, its velocity, memory and inner state. Keras 2 cannot read a model
    of Keras 3; there the weights of the model and all of the optimizer are read.
    """
    path = crossing.HERE / f"{stack}_{name}.h5"
    if KERAS_3 or stack == "keras_2":
        model = keras.models.load_model(str(path))
    else:
        import h5py
        from keras.saving.hdf5_format import load_optimizer_weights_from_hdf5_group

        model = dense()
        model.load_weights(str(path))
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["training_config"])["optimizer_config"]["config"]
            optimizer = type(crossing.CASES[name]()).from_config(config)
            optimizer._create_all_weights(model.trainable_variables)
            optimizer.set_weights(load_optimizer_weights_from_hdf5_group(file))
        model.compile(optimizer=optimizer, loss="mean_squared_error")
    assert int(model.optimizer.iterations) == 10
    start = flat(model)
    crossing.train(model)
    close(flat(model) - start, np.load(path.with_suffix(".npy")) - start, 1e-4)


def test_what_the_other_keras_cannot_do_is_refused_by_name():
    config = rbd_ipu.RandomBasesDescent(0.5, dim=3).get_config()
    if KERAS_3:
        opt = rbd_ipu.RandomBasesDescent.from_config({**config, "decay": 0.5, "iterations": 3})
        opt.iterations.assign(2)
        assert float(opt.learning_rate) == 0.25 and "iterations" not in opt.get_config()
    else:
        with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
            rbd_ipu.RandomBasesDescent.from_config({**config, "gradient_accumulation_steps": 2})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_tensorflow_checkpoint_is_exact(name, tmp_path):
    x, y = blobs()
    whole = compiled(OPTIMIZERS.get(name)(0.5, dim=10, momentum=0.5))
    fit(whole, x, y)
    path = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(str(tmp_path / "c"))
    fit(whole, x, y)
    other = compiled(OPTIMIZERS.get(name)(0.5, dim=10, momentum=0.5))
    fit(other, x[:32], y[:32])  # creates the variables, and moves them
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path).assert_existing_objects_matched()
    fit(other, x, y)
    np.testing.assert_array_equal(flat(other), flat(whole))


def test_schedules_and_the_learning_rate_are_truthful():
    x, y = blobs()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 0.125])
    optimizer = rbd_ipu.RandomBasesDescent(schedule, dim=20)
    model = compiled(optimizer)
    fit(model, x, y)
    other = dense()
    simulate(optimizer, other, x, y, 10, rate=lambda t: 0.5 if t <= 4 else 0.125)
    close(flat(model) - flat(dense()), flat(other) - flat(dense()), 1e-4)

    seen = []
    model = compiled(rbd_ipu.RandomBasesDescent(1, dim=20))
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch: 1.0 / 2**epoch),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: seen.append(float(tf.convert_to_tensor(model.optimizer.learning_rate)))
        ),
    ]
    fit(model, x, y, epochs=3, callbacks=callbacks)
    assert seen == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["variable", "tensor", "function", "schedule", "int", "float32"])
def test_a_learning_rate_is_what_keras_sgd_takes(kind):
    """With all directions, orthonormal, it is SGD: the same rates are taken, and the same refused."""
    x, y = blobs(64)
    step = tf.Variable(0.25)
    rates = {
        "variable": step,
        "tensor": tf.constant(0.25),
        "function": lambda: tf.convert_to_tensor(step) / 2.0,
        "schedule": keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5),
        "int": 1,
        "float32": np.float32(0.25),
    }

    def train(make):
        model = compiled(make(rates[kind]))
        fit(model, x[:32], y[:32])
        step.assign(0.5)
        fit(model, x[32:], y[32:])
        step.assign(0.25)
        return flat(model) - flat(dense())

    basis = {"dim": 214, "orthogonalize": True}
    try:
        expected = train(keras.optimizers.SGD)
    except ValueError:
        if kind in ("int", "float32"):  # numbers, of which Keras 3 wants floats
            expected = train(lambda rate: keras.optimizers.SGD(float(rate)))
        else:
            with pytest.raises(ValueError, match="learning_rate"):
                train(lambda rate: rbd_ipu.RandomBasesDescent(rate, **basis))
            return
    close(train(lambda rate: rbd_ipu.RandomBasesDescent(rate, **basis)), expected, 1e-4)
    close(train(lambda rate: rbd_ipu.FixedProjectionDescent(rate, momentum=1e-9, **basis)), expected, 1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_variable_of_size_zero_and_a_scalar_train_as_with_sgd(name, momentum):
    def train(optimizer):
        variables = [keras.layers.Dense(1).add_weight(name=n, shape=s, initializer="ones") for n, s in shapes]
        if KERAS_3:
            optimizer.build(variables)
        for k in range(2):
            gradients = [tf.fill(shape, 0.5 + k) for _, shape in shapes]
            optimizer.apply_gradients(list(zip(gradients, variables)))
        return np.concatenate([np.ravel(v.numpy()) for v in variables]) - 1.0

    shapes = [("none", (0, 3)), ("scalar", ()), ("vector", (3,)), ("last", (2, 0))]
    own = train(OPTIMIZERS.get(name)(0.5, dim=4, orthogonalize=True, momentum=momentum))
    close(own, train(keras.optimizers.SGD(0.5, momentum=momentum)), 1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_per_execution_changes_nothing(steps):
    x, y = blobs()
    model = compiled(rbd_ipu.RandomBasesDescent(0.5, dim=10), steps_per_execution=steps)
    fit(model, x, y)
    plain = compiled(rbd_ipu.RandomBasesDescent(0.5, dim=10))
    fit(plain, x, y)
    close(flat(model) - flat(dense()), flat(plain) - flat(dense()), 1e-5)


@only_keras_3
@pytest.mark.parametrize("jit", [True, False])
def test_jit_compile_changes_nothing_but_rounding(jit):
    x, y = blobs()
    optimizer = rbd_ipu.RandomBasesDescent(0.5, dim=10)
    model = compiled(optimizer, jit_compile=jit)
    fit(model, x, y)
    other = dense()
    simulate(optimizer, other, x, y, 10)
    close(flat(model) - flat(dense()), flat(other) - flat(dense()), 1e-4)


@only_keras_3
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradient_accumulation_redraws_once_a_step(name):
    """Two micro-batches of 16 are one batch of 32: same basis, mean gradient."""
    x, y = blobs()
    make = OPTIMIZERS.get(name)
    model = compiled(make(0.5, dim=10, momentum=0.5, gradient_accumulation_steps=2))
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    plain = compiled(make(0.5, dim=10, momentum=0.5))
    fit(plain, x, y)
    assert int(model.optimizer.iterations) == 10
    close(flat(model) - flat(dense()), flat(plain) - flat(dense()), 1e-4)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.01}, {"global_clipnorm": 0.02}, {"clipvalue": 0.001}])
def test_gradients_are_clipped_before_they_are_projected(clip):
    x, y = blobs(32)
    optimizer = rbd_ipu.RandomBasesDescent(1.0, dim=40, **clip)
    model = compiled(optimizer)
    fit(model, x, y)
    reference = dense()
    variables = [getattr(v, "value", v) if KERAS_3 else v for v in reference.trainable_variables]
    with tf.GradientTape() as tape:
        loss = crossentropy()(y, reference(x, training=True))
    gradients = tape.gradient(loss, variables)
    if "clipnorm" in clip:
        gradients = [tf.clip_by_norm(g, 0.01) for g in gradients]
    elif "clipvalue" in clip:
        gradients = [tf.clip_by_value(g, -0.001, 0.001) for g in gradients]
    else:
        gradients = tf.clip_by_global_norm(gradients, 0.02)[0]
    g = np.concatenate([np.ravel(v) for v in gradients]).astype(np.float64)
    P = _space(optimizer, reference).directions(0, 0).numpy().astype(np.float64)
    close(flat(model) - flat(reference), -P.T @ (P @ g), 1e-4)


def test_weights_of_any_rank_and_variables_that_do_not_train():
    class Odd(keras.layers.Layer):
        def build(self, shape):
            self.scalar = self.add_weight(name="scalar", shape=(), initializer="ones")
            self.cube = self.add_weight(name="cube", shape=(2, 3, 6), initializer="ones")
            self.frozen = self.add_weight(name="frozen", shape=(6,), initializer="ones", trainable=False)

        def call(self, x):
            return self.scalar * x + tf.reduce_sum(tf.convert_to_tensor(self.cube), [0, 1]) + self.frozen

    x, y = blobs(64)
    model = keras.Sequential([keras.layers.InputLayer((6,)), Odd(), keras.layers.Dense(10)])
    before = [np.copy(w) for w in model.get_weights()]
    compiled(rbd_ipu.RandomBasesDescent(0.5, dim=8, compartments="variable"), model)
    fit(model, x, y)
    frozen = model.layers[-2].frozen
    np.testing.assert_array_equal(np.asarray(frozen.numpy()), np.ones(6))
    moved = [np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights())]
    assert sum(moved) == 4  # scalar, cube, kernel, bias


def test_sparse_gradients_are_made_dense():
    layers = keras.layers
    x = np.random.default_rng(0).integers(0, 20, (64, 3)).astype(np.int32)
    y = (x[:, 0] % 4).astype(np.int32)

    def model(optimizer):
        initial = keras.initializers.GlorotUniform(3)
        network = keras.Sequential(
            [
                layers.InputLayer((3,), dtype="int32"),
                layers.Embedding(20, 4, embeddings_initializer=initial),
                layers.Flatten(),
                layers.Dense(4, kernel_initializer=initial),
            ]
        )
        return compiled(optimizer, network)

    optimizer = rbd_ipu.RandomBasesDescent(0.5, dim=10)
    trained, other = model(optimizer), model("sgd")
    fit(trained, x, y)
    start = flat(other)
    simulate(optimizer, other, x, y, 2)
    close(flat(trained) - start, flat(other) - start, 1e-4)


def test_a_variable_without_a_gradient_is_left_alone():
    inputs = keras.Input((6,))
    used = keras.layers.Dense(10, name="used")
    unused = keras.layers.Dense(10, name="unused")
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    optimizer = rbd_ipu.RandomBasesDescent(0.5, dim=5)
    x, y = blobs(32)
    before = unused.get_weights()[0].copy()
    variables = [getattr(v, "value", v) if KERAS_3 else v for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = crossentropy()(y, model(x)[0])
    pairs = list(zip(tape.gradient(loss, variables), model.trainable_variables))
    if KERAS_3:
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs)
    np.testing.assert_array_equal(before, unused.get_weights()[0])
    assert np.abs(used.get_weights()[1]).max() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicas_exchange_coordinates(name):
    """MirroredStrategy with two replicas of half a batch: the step of the whole batch, on every replica."""
    program = f"""
import numpy as np, tensorflow as tf, sys
sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parents[1])!r})
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import rbd_ipu
from nets import blobs, crossentropy, dense, flat
from rbd_ipu._compat import KERAS_3
from rbd_ipu.optimizers import OPTIMIZERS
x, y = blobs(128)
def train(strategy, **clip):
    with strategy.scope():
        model = dense()
        model.compile(optimizer=OPTIMIZERS.get({name!r})(0.5, dim=10, momentum=0.5, **clip), loss=crossentropy())
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(32), epochs=2, verbose=0)
    return flat(model)
one = train(tf.distribute.get_strategy())
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
two = train(mirrored)
moved = np.linalg.norm(one - flat(dense()))
assert np.linalg.norm(one - two) < 1e-4 * moved, (np.linalg.norm(one - two), moved)
if not KERAS_3:  # which clips the gradients of replicas
    for clip in {{"clipnorm": 0.01}}, {{"global_clipnorm": 0.02}}, {{"clipvalue": 0.001}}:
        one, two = (train(s, **clip) for s in (tf.distribute.get_strategy(), mirrored))
        moved = np.linalg.norm(one - flat(dense()))
        assert np.linalg.norm(one - two) < 1e-5 * moved, (clip, np.linalg.norm(one - two), moved)
"""
    run = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dim": 0}, ValueError, "dim must be an integer >= 1, got 0"),
        ({"dim": -3}, ValueError, "dim must be an integer >= 1, got -3"),
        ({"dim": 2.5}, TypeError, "dim must be an integer >= 1, got 2.5"),
        ({"dim": None}, TypeError, "compartments 'global' need dim"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be .*got nan"),
        ({"learning_rate": -0.5}, ValueError, "learning_rate must be .*got -0.5"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate must be .*got '0.1'"),
        ({"distribution": "cauchy"}, ValueError, "unknown distribution 'cauchy'; accepted: 'normal'"),
        ({"compartments": "halves"}, ValueError, "unknown compartment scheme 'halves'; accepted: 'global'"),
        ({"normalize": "l2"}, ValueError, "unknown normalize 'l2'; accepted: 'unit'"),
        ({"source": "philox"}, ValueError, "unknown source 'philox'"),
        ({"redraw_every": 0}, ValueError, "redraw_every must be an integer >= 1, got 0"),
        ({"momentum": 1.5}, ValueError, r"momentum must be a number in \[0, 1\], got 1.5"),
        ({"seed": 1.5}, TypeError, "seed must be an integer"),
        ({"dims": 3}, (TypeError, ValueError), "dims"),
    ],
)
def test_bad_arguments_are_quoted(options, error, message):
    with pytest.raises(error, match=message):
        rbd_ipu.RandomBasesDescent(**{"learning_rate": 0.1, "dim": 5, **options})


def test_what_does_not_fit_the_model_is_refused_at_the_first_step():
    x, y = blobs(32)
    model = compiled(rbd_ipu.RandomBasesDescent(0.1, dim=3, compartments="variable"))
    with pytest.raises(ValueError, match="dim=3 is less than the 4 compartments"):
        fit(model, x, y)


def test_momentum_in_coordinates_is_for_the_variables_of_its_first_step():
    """With one basis for all, another set of variables would fit the velocity's length, and be wrong."""
    optimizer = rbd_ipu.FixedProjectionDescent(0.1, dim=3, momentum=0.5)
    variables = dense().trainable_variables
    if KERAS_3:
        optimizer.build(variables)
    pairs = [(tf.ones(v.shape), v) for v in variables]
    for _ in range(2):
        optimizer.apply_gradients(pairs[:2])
    with pytest.raises(ValueError, match="coordinates of the 2 variables of its first step, and these 2 are others"):
        optimizer.apply_gradients(pairs[2:])
    rbd_ipu.FixedProjectionDescent(0.1, dim=3).apply_gradients(pairs)


@pytest.mark.parametrize(
    "momentum, first, then, loaded", [(0.0, True, False, False), (0.0, False, True, True), (0.5, True, False, True)]
)
def test_a_fixed_basis_is_not_left_by_freezing_a_layer(momentum, first, then, loaded, tmp_path):
    """Between two fits a layer is frozen, or made trainable: the basis of step 0 would be another one."""
    x, y = blobs(64)
    model = dense()
    model.layers[-2].trainable = first
    fit(compiled(rbd_ipu.FixedProjectionDescent(0.5, dim=5, momentum=momentum), model), x, y)
    if loaded:
        path = str(tmp_path / ("model.keras" if KERAS_3 else "model.h5"))
        model.save(path)
        model = keras.models.load_model(path)
    before = flat(model)
    model.layers[-2].trainable = then
    compiled(model.optimizer, model)
    with pytest.raises(ValueError, match="of its first step|Unknown variable"):
        fit(model, x, y)
    model.layers[-2].trainable = first
    np.testing.assert_array_equal(flat(model), before)
    fit(compiled(model.optimizer, model), x, y)  # as it was


(Backup,) = hooks.of_keras("BackupAndRestore")
WAYS = ["checkpoint", "backup", "weights" if KERAS_3 else "saved_model"]
OF_FIRST_VARIABLES = {
    "fixed": lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=5),
    "fixed with momentum": lambda: rbd_ipu.FixedProjectionDescent(0.5, dim=5, momentum=0.5),
    "coordinates": lambda: rbd_ipu.SubspaceOptimizer(
        keras.optimizers.Adam(0.01), dim=20, distribution="hadamard", state="coordinates", redraw_every=0
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OF_FIRST_VARIABLES)
def test_a_file_knows_the_variables_that_a_state_in_coordinates_belongs_to(kind, way, tmp_path):
    """What is restored goes on with the same variables, and with no others: layers frozen since are refused."""
    if way == "saved_model" and kind == "coordinates":
        pytest.skip("of a state in coordinates a SavedModel of Keras 2 brings back nothing")
    x, y = blobs(64)

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    model = compiled(OF_FIRST_VARIABLES[kind](), dense())
    path = str(tmp_path / ("a.weights.h5" if way == "weights" else "a"))
    if way == "backup":
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, epochs=4, verbose=0, callbacks=[Backup(path), Killed()])
    else:
        fit(model, x, y)
    if way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(path)
    elif way == "weights":
        model.save_weights(path)
    elif way == "saved_model":
        model.save(path)

    def restored(trainable):
        other = keras.models.load_model(path) if way == "saved_model" else dense()
        optimizer = other.optimizer if way == "saved_model" else OF_FIRST_VARIABLES[kind]()
        if way == "checkpoint":
            if KERAS_3:
                optimizer.build(other.trainable_variables)
            tf.train.Checkpoint(model=other, optimizer=optimizer).restore(path)
        other.layers[-2].trainable = trainable
        compiled(optimizer, other)
        if way == "weights":
            optimizer.build(other.trainable_variables)
            other.load_weights(path)
        if way == "backup":
            other.fit(x, y, epochs=4, verbose=0, callbacks=[Backup(path)])
        else:
            fit(other, x, y)

    with pytest.raises(ValueError, match="of its first step"):
        restored(False)
    restored(True)


class Block(keras.layers.Layer):
    """Makes layers of its own, which have other names where it is loaded."""

    def build(self, shape):
        self.inner = keras.layers.Dense(4)
        if KERAS_3:
            self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def _equal_layers(name="d{}"):
    layers = [keras.layers.Dense(4, name=name.format(i)) for i in range(3)]
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.parametrize("kind", OF_FIRST_VARIABLES)
def test_equal_layers_are_told_apart_in_a_checkpoint_and_names_do_not_matter(kind, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32), np.arange(64) % 4

    def model_of(frozen, name="d{}"):
        model = _equal_layers(name)
        model.layers[frozen].trainable = False
        return compiled(OF_FIRST_VARIABLES[kind](), model)

    model = model_of(0)
    fit(model, x, y)
    path = tf.train.Checkpoint(layers=model.layers, optimizer=model.optimizer).save(str(tmp_path / "a"))

    def restored(*how):
        other = model_of(*how)
        if KERAS_3:
            other.optimizer.build(other.trainable_variables)
        tf.train.Checkpoint(layers=other.layers, optimizer=other.optimizer).restore(path)
        fit(other, x, y)
        assert int(other.optimizer.iterations) == 4

    restored(0)
    restored(0, "another{}")
    if not (KERAS_3 and kind == "coordinates"):  # whose list of variables TensorFlow restores too, by their places
        with pytest.raises(ValueError, match="of its first step"):
            restored(2)


@pytest.mark.parametrize("kind", OF_FIRST_VARIABLES)
def test_an_older_checkpoint_is_restored_into_a_training_that_goes_on(kind, tmp_path):
    """Its steps are traced, and ask for nothing again; what is saved after it is of then, under whatever names."""
    x, y = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32), np.arange(64) % 4

    def started(name):
        model = compiled(OF_FIRST_VARIABLES[kind](), _equal_layers(name))
        if KERAS_3:
            model.optimizer.build(model.trainable_variables)
        return model, tf.train.Checkpoint(layers=model.layers, optimizer=model.optimizer)

    model, files = started("d{}")
    fit(model, x, y)
    older = files.save(str(tmp_path / "older"))
    fit(model, x, y)
    files.restore(older)
    fit(model, x[:40], y[:40])  # a short last batch is traced anew
    newer = files.save(str(tmp_path / "newer"))
    other, again = started("another{}")
    again.restore(newer)
    fit(other, x, y)
    fit(model, x, y)
    np.testing.assert_array_equal(flat(other), flat(model))


@only_keras_3
def test_a_part_without_a_gradient_is_not_of_the_first_step_in_a_file_either(tmp_path):
    x, y = blobs(64)
    inputs = keras.Input((6,))
    head = keras.layers.Dense(10, name="head")
    model = keras.Model(inputs, [keras.layers.Dense(10, name="used")(inputs), head(inputs)])

    def step(model, optimizer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(crossentropy()(y, model(x)[0]))
        variables = [v.value for v in model.trainable_variables]
        gradients = zip(tape.gradient(loss, variables), model.trainable_variables)
        optimizer.apply_gradients([(g, v) for g, v in gradients if g is not None])

    model.compile(rbd_ipu.FixedProjectionDescent(0.1, dim=5), loss=[crossentropy(), None])
    model.optimizer.build(model.trainable_variables)
    step(model, model.optimizer)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    step(loaded, loaded.optimizer)
    step(model, model.optimizer)
    np.testing.assert_array_equal(flat(loaded), flat(model))


@only_keras_3
@pytest.mark.parametrize("kind", OF_FIRST_VARIABLES)
def test_layers_within_layers_may_have_other_names_in_a_loaded_model(kind, tmp_path):
    x, y = blobs(64)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), Block(), keras.layers.Dense(10)])
    fit(compiled(OF_FIRST_VARIABLES[kind](), model), x, y)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", custom_objects={"Block": Block})
    fit(loaded, x, y)
    assert int(loaded.optimizer.iterations) == 4


def test_a_step_of_constants_is_not_run_while_its_graph_is_built():
    """With a fixed basis of many sizes, TensorFlow evaluated all of it in advance, and its stack overflowed."""
    variables = [(keras if KERAS_3 else tf).Variable(np.ones(5 + i, np.float32)) for i in range(213)]
    optimizer = rbd_ipu.FixedProjectionDescent(0.1, dim=426, compartments="variable", source="counter")

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.ones(v.shape), v) for v in variables])

    step()
    assert all(np.isfinite(v.numpy()).all() and (v.numpy() != 1).any() for v in variables)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_scale_changes_nothing_and_leaves_no_trace_of_a_step_that_overflowed(name):
    """Keras 2's LossScaleOptimizer asks for the projected gradients before it applies them, or does not."""
    scaled = keras.optimizers.LossScaleOptimizer if KERAS_3 else keras.mixed_precision.LossScaleOptimizer
    models = dense(), dense()
    optimizers = [OPTIMIZERS.get(name)(0.1, dim=5, momentum=0.5) for _ in models]
    wrapped = scaled(optimizers[0], dynamic_growth_steps=2, initial_scale=8.0)
    if KERAS_3:
        wrapped.build(models[0].trainable_variables)
    for number in (1.0, float("inf"), 2.0):
        gradients = [tf.fill(v.shape, number) for v in models[0].trainable_variables]
        if KERAS_3:
            gradients = [wrapped.scale_loss(g) for g in gradients]
        wrapped.apply_gradients(list(zip(gradients, models[0].trainable_variables)))
        if np.isfinite(number):
            optimizers[1].iterations.assign(int(optimizers[0].iterations) - 1)  # Keras 2 counts a skipped step, 3 not
            plain = [tf.fill(v.shape, number) for v in models[1].trainable_variables]
            optimizers[1].apply_gradients(list(zip(plain, models[1].trainable_variables)))
    close(flat(models[0]) - flat(dense()), flat(models[1]) - flat(dense()), 1e-5)


@only_keras_2
def test_skipping_the_aggregation_is_refused():
    optimizer = rbd_ipu.RandomBasesDescent(0.1, dim=1)
    with pytest.raises(ValueError, match="would train without a subspace"):
        optimizer.apply_gradients([], experimental_aggregate_gradients=False)


def test_the_hook_that_carries_it_all_is_called_once_a_step():
    """Fails loudly should Keras move the hook (private in Keras 3)."""
    calls = []

    class Counting(rbd_ipu.RandomBasesDescent):
        def descend(self, pairs):
            calls.append(len(pairs))
            return super().descend(pairs)

    model = compiled(Counting(0.5, dim=4), run_eagerly=True)
    x, y = blobs(96)
    before = flat(model)
    fit(model, x, y)
    assert calls == [4, 4, 4]
    P = np.concatenate([_space(model.optimizer, model).directions(0, t).numpy() for t in range(3)])
    moved = flat(model) - before
    inside = P.T @ np.linalg.lstsq(P.T, moved, rcond=None)[0]
    close(inside, moved, 1e-3)  # the weights moved within the three subspaces, and nowhere else
