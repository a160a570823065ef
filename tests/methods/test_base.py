"""Methods as pure functions: one step of each against NumPy, one worker and several; likeness in float64."""

import numpy as np
import pytest
import steps
from nets import gradient
from reference import close
from steps import batch

from rbd_ipu import methods
from rbd_ipu._compat import tf
from rbd_ipu.methods import METHODS
from rbd_ipu.methods.base import likeness

BASES = {
    "sgd": {},
    "rbd": {"dim": 7},
    "fpd": {"dim": 7},
    "nes": {"dim": 7},
    "hybrid": {"dim": 7},
    "gradients": {"dim": 7, "gradients": "present"},
    "switch": {"dim": 7, "sgd_learning_rate": 0.25, "switch_step": 5},
}
PARALLEL = [name for name in BASES if name not in ("gradients", "switch")]


def make(name, **options):
    method, model, state = steps.make(name, next_batch=lambda: batch(1), **{**BASES[name], **options})
    return method, model, state()


def test_every_row_is_tested():
    assert {*BASES, "compressed"} == set(METHODS)  # that one's messages are packed: test_compressed.py


@pytest.mark.parametrize("name", BASES)
def test_a_step_is_a_float32_vector_in_graphs_too(name):
    method, model, _ = make(name)

    @tf.function
    def run(step):
        return method.step(make_state(), batch(), step)

    def make_state():
        return steps.State(model, steps.Objective(model), model.trainable_variables, lambda: batch(1))

    update = run(tf.constant(3))
    assert method.size == 214 and update.shape == [214] and update.dtype == tf.float32
    assert np.isfinite(update).all() and np.abs(update).max() > 0


@pytest.mark.parametrize("name", BASES)
def test_a_method_says_whether_workers_can_share_it(name):
    method, _, state = make(name)
    assert method.parallel == (name in PARALLEL) == (not method.not_parallel_because)
    if not method.parallel:
        return
    messages = [method.message(state, batch(), tf.constant(3), tf.constant(k)) for k in range(2)]
    assert all(message.shape == [method.dim] for message in messages)
    update = method.update(tf.stack(messages), tf.constant(3))
    assert update.shape == [214] and update.dtype == tf.float32
    # The mean of the steps of single workers is the same.
    alone = [method.step(state, batch(), tf.constant(3), tf.constant(k)) for k in range(2)]
    close(tf.add_n(alone) / 2, update, 2e-5)


def test_sgd_is_the_gradient_and_its_mean():
    method, model, state = make("sgd")
    g = gradient(model, *batch())
    close(method.message(state, batch(), tf.constant(0), tf.constant(0)), g, 1e-5)
    messages = tf.constant(np.random.default_rng(0).standard_normal((3, 214)), tf.float32)
    close(method.update(messages, tf.constant(0)), np.mean(messages, axis=0))


@pytest.mark.parametrize("name", ["rbd", "fpd"])
@pytest.mark.parametrize("scheme", ["global", "even:2", "layer"])
def test_a_step_is_algorithm_1(name, scheme):
    """P P^T g with the directions of the step: Algorithm 1 of the paper, left."""
    method, model, state = make(name, compartments=scheme, seed=4)
    step = 5
    P = method.subspace.directions(4, 0 if name == "fpd" else step).numpy().astype(np.float64)
    g = gradient(model, *batch())
    close(method.step(state, batch(), tf.constant(step)), P.T @ (P @ g))


def test_workers_are_algorithm_1_right():
    """K workers, own bases, own batches: the mean of P_k P_k^T g_k, from d numbers each."""
    method, model, state = make("rbd", seed=4)
    step, workers = tf.constant(2), 3
    messages = tf.stack([method.message(state, batch(k), step, tf.constant(k)) for k in range(workers)])
    assert messages.shape == [3, 7]
    expected = 0
    for k in range(workers):
        P = method.subspace.directions(4, 2, k).numpy().astype(np.float64)
        expected = expected + P.T @ (P @ gradient(model, *batch(k))) / workers
    close(method.update(messages, step), expected)


def test_a_fixed_basis_stays_and_a_redrawn_one_goes():
    fixed, _, state = make("fpd")
    redrawn, _, other = make("rbd")
    pairs, rest = make("rbd", redraw_every=2)[0], tf.constant(1)
    steps = [tf.constant(t) for t in range(4)]
    a = [fixed.step(state, batch(), t).numpy() for t in steps]
    assert all(np.array_equal(a[0], x) for x in a[1:])
    b = [redrawn.step(other, batch(), t).numpy() for t in steps]
    assert not any(np.array_equal(b[0], x) for x in b[1:])
    assert [int(pairs.basis_index(t)) for t in steps] == [0, 0, 1, 1] and int(rest) == 1


def test_the_seed_decides():
    updates = [make("rbd", seed=s)[0].step(make("rbd")[2], batch(), tf.constant(0)).numpy() for s in (0, 0, 1)]
    np.testing.assert_array_equal(updates[0], updates[1])
    assert np.abs(updates[0] - updates[2]).max() > 1e-3


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("adam", {"learning_rate": 1.0}, ValueError, "unknown method 'adam'; accepted: "),
        ("rbd", {"dim": 3}, TypeError, "method 'rbd' needs learning_rate"),
        ("sgd", {"learning_rate": 1.0, "dim": 3}, TypeError, "method 'sgd' does not take dim; it takes"),
        ("fpd", {"learning_rate": 1.0, "top_k": 2}, TypeError, "does not take top_k"),
        ("fpd", {"learning_rate": 1.0, "redraw_every": 2}, TypeError, "does not take redraw_every"),
        ("rbd", {"learning_rate": float("nan"), "dim": 3}, ValueError, "learning_rate must be .*got nan"),
        ("rbd", {"learning_rate": -1.0, "dim": 3}, ValueError, "learning_rate must be .*got -1.0"),
        ("rbd", {"learning_rate": "fast", "dim": 3}, TypeError, "learning_rate must be .*got 'fast'"),
        ("rbd", {"learning_rate": 1.0, "dim": 0}, ValueError, "dim must be an integer >= 1, got 0"),
        ("rbd", {"learning_rate": 1.0, "dim": -2}, ValueError, "dim must be an integer >= 1, got -2"),
        ("rbd", {"learning_rate": 1.0, "dim": 1.5}, TypeError, "dim must be an integer >= 1, got 1.5"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "distribution": "cauchy"}, ValueError, "unknown distribution"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "compartments": "blocks"}, ValueError, "unknown compartment"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "normalize": "l1"}, ValueError, "unknown normalize 'l1'"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "source": "mt19937"}, ValueError, "unknown source"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "momentum": 1.5}, ValueError, "momentum must be"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "redraw_every": 0}, ValueError, "redraw_every must be"),
        ("rbd", {"learning_rate": 1.0, "dim": 3, "seed": 0.5}, TypeError, "seed must be"),
    ],
)
def test_bad_options_are_quoted(name, options, error, message):
    with pytest.raises(error, match=message):
        methods.create(name, **options)


def test_what_depends_on_the_model_is_refused_when_it_is_known():
    with pytest.raises(TypeError, match="need dim"):
        methods.create("rbd", learning_rate=1.0).build([(10,)])
    with pytest.raises(ValueError, match="no trainable variables"):
        methods.create("rbd", learning_rate=1.0, dim=2).build([])


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("size", [2, 17, 10_000])
def test_the_likeness_of_two_vectors_against_numpy(size, shift):
    rng = np.random.default_rng(size)
    u, g = rng.standard_normal(size) + shift, rng.standard_normal(size) + shift
    cosine, pearson = likeness(tf.constant(u, tf.float32), tf.constant(g, tf.float32))
    np.testing.assert_allclose(cosine, u @ g / np.linalg.norm(u) / np.linalg.norm(g), atol=2e-6)
    np.testing.assert_allclose(pearson, np.corrcoef(u, g)[0, 1], atol=5e-6)


def test_no_update_is_like_nothing():
    cosine, pearson = likeness(tf.zeros(5), tf.constant([1.0, 2, 3, 4, 5]))
    assert float(cosine) == 0.0 and float(pearson) == 0.0
