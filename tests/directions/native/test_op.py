"""Source native inside TensorFlow: eager, in graphs, loops and tapes, under XLA, in fit, on several replicas."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from reference import close

pytest.importorskip("numba", reason="Numba is not installed: no source native")

import rbd_ipu
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.subspace import Subspace


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def operations(function):
    """Types of all operations of a concrete function and of the functions it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


@pytest.fixture(scope="module")
def basis():
    return rbd_ipu.RandomBasis(700, 9, source="native")


@pytest.fixture(scope="module")
def counter():
    return rbd_ipu.RandomBasis(700, 9, source="counter")


def test_in_a_graph_with_static_shapes(basis, counter):
    @tf.function
    def sketch(v, seed):
        c, u = basis.sketch(v, seed)
        assert c.shape == [9] and u.shape == [700]
        assert basis.project(v, seed).shape == [9] and basis.expand(c, seed).shape == [700]
        assert basis.directions(seed, 2, 3).shape == [3, 700]
        return c, u

    v, seed = tf.constant(vector(700)), rbd_ipu.fold_in(3)
    assert "PyFunc" in operations(sketch.get_concrete_function(v, seed))
    c, u = sketch(v, seed)
    close(c, counter.project(v, seed), 2e-6)
    close(u, basis.sketch(v, seed)[1], 1e-7)


@pytest.mark.parametrize("where", ["function", "while", "cond", "inner"])
def test_under_xla_by_the_operations_of_counter(basis, where):
    v, seed = tf.constant(vector(700)), rbd_ipu.fold_in(3)

    def sketch(v, seed):
        return basis.sketch(v, seed)[1]

    inner = tf.function(sketch)

    def outer(v, seed):
        if where == "while":
            return tf.while_loop(lambda i, v: i < 2, lambda i, v: (i + 1, inner(v, seed)), (0, v))[1]
        if where == "cond":
            return tf.cond(v[0] > 100.0, lambda: v, lambda: sketch(v, seed))
        return inner(v, seed) if where == "inner" else sketch(v, seed)

    compiled = tf.function(outer, jit_compile=True)
    assert "PyFunc" not in operations(compiled.get_concrete_function(v, seed))
    expected = sketch(v, seed)
    close(compiled(v, seed), sketch(expected, seed) if where == "while" else expected, 3e-6)


def test_in_a_while_loop(basis):
    """Seeds and vectors that change from turn to turn: nothing is folded, nothing cached."""
    v = tf.constant(vector(700))

    @tf.function
    def run(v, seed):
        def body(i, v):
            return i + 1, v - 0.5 * basis.sketch(v, rbd_ipu.fold_in(seed, i))[1]

        return tf.while_loop(lambda i, v: i < 4, body, (tf.constant(0), v))[1]

    expected = v
    for i in range(4):
        expected = expected - 0.5 * basis.sketch(expected, rbd_ipu.fold_in(5, i))[1]
    close(run(v, rbd_ipu.fold_in(5)), expected, 2e-6)


def test_gradients_in_eager_mode_and_in_a_graph(basis):
    P = basis.directions(3).numpy().astype(np.float64)
    a, b, v = vector(9, 1), vector(700, 2), tf.constant(vector(700))

    def gradient(v):
        with tf.GradientTape() as tape:
            tape.watch(v)
            c, u = basis.sketch(v, 3)
            loss = tf.reduce_sum(c * a) + tf.reduce_sum(u * b)
        return tape.gradient(loss, v)

    for derive in (gradient, tf.function(gradient)):
        close(derive(v), P.T @ a + P.T @ (P @ b), 2e-6)


def test_functions_of_several_threads(basis):
    v = tf.constant(vector(700))
    sketch = tf.function(lambda v, seed: basis.sketch(v, seed)[1], autograph=False)
    expected = [sketch(v, rbd_ipu.fold_in(k)).numpy() for k in range(4)]
    right = []

    def call(k):
        results = [sketch(v, rbd_ipu.fold_in(k)).numpy() for _ in range(20)]
        right.append(all(np.array_equal(result, expected[k]) for result in results))

    callers = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 4


@pytest.mark.parametrize("scheme, dim", [("global", 20), ("even:3", 20), ("factor:4", None)])
def test_subspaces(scheme, dim):
    cut = Compartments.of([(9, 7), (7,), (7, 5), (5,), ()], scheme, dim)
    native, counter = Subspace(cut, source="native"), Subspace(cut, source="counter")
    g = vector(native.size)
    np.testing.assert_allclose(native.directions(3, 7, 1), counter.directions(3, 7, 1), atol=2e-6)
    sketch = tf.function(lambda g, step: native.sketch(g, 3, step, 1), autograph=False)
    for one, other in zip(sketch(g, tf.constant(7)), counter.sketch(g, 3, 7, 1)):
        close(one, other, 3e-6)


def small_model():
    keras.utils.set_random_seed(0) if KERAS_3 else tf.random.set_seed(0)
    initializer = keras.initializers.RandomNormal(seed=1)
    return keras.Sequential(
        [
            keras.layers.InputLayer(**{"shape" if KERAS_3 else "input_shape": (12,)}),
            keras.layers.Dense(8, activation="tanh", kernel_initializer=initializer),
            keras.layers.Dense(1, kernel_initializer=initializer),
        ]
    )


def fitted(source, **compile_options):
    model = small_model()
    x = np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)
    optimizer = rbd_ipu.RandomBasesDescent(0.3, dim=10, source=source)
    model.compile(optimizer=optimizer, loss="mse", **compile_options)
    model.fit(x, x[:, :1], batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("jit", [False, True] if KERAS_3 else [None])
def test_keras_fit(jit):
    options = {} if jit is None else {"jit_compile": jit}
    weights = [np.concatenate([w.ravel() for w in fitted(s, **options).get_weights()]) for s in ("native", "counter")]
    assert np.linalg.norm(weights[0] - np.concatenate([w.ravel() for w in small_model().get_weights()])) > 0.01
    close(weights[0], weights[1], 1e-5)


def test_a_trained_model_is_saved_and_loaded(tmp_path):
    model = fitted("native")
    path = str(tmp_path / ("model.keras" if KERAS_3 else "saved_model"))
    model.save(path)
    loaded = keras.models.load_model(path)
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)
    x = np.ones((16, 12), np.float32)
    loaded.fit(x, x[:, :1], verbose=0)


MIRRORED = """
import numpy as np, rbd_ipu
from rbd_ipu._compat import keras, tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(5, kernel_initializer="ones"), keras.layers.Dense(1)])
    optimizer = rbd_ipu.RandomBasesDescent(0.01, dim=6, source="native")
    options = {"jit_compile": False} if hasattr(optimizer, "build") else {}
    model.compile(optimizer=optimizer, loss="mse", **options)
x = np.linspace(-1, 1, 128).reshape(32, 4).astype(np.float32)
history = model.fit(x, x[:, :1], batch_size=8, epochs=3, shuffle=False, verbose=0)
assert strategy.num_replicas_in_sync == 2 and int(optimizer.iterations.numpy()) == 12
for weight in model.trainable_weights:
    copies = strategy.experimental_local_results(getattr(weight, "value", weight))
    if len(copies) == 2:
        np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())
loss = history.history["loss"]
assert loss[-1] < loss[0], loss
print("trained")
"""


def test_two_replicas():
    done = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert done.stdout.endswith("trained\n"), done.stderr[-3000:]
