"""Two methods one after the other: against the two of them, step by step."""

import numpy as np
import pytest
from nets import blobs, dense, flat, gradient, set_flat
from reference import close
from steps import make, normalising

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import current_rate, keras, tf
from rbd_ipu.data import Batches
from rbd_ipu.methods import FPD, NES, RBD, SGD, Hybrid, Switched

RATES = {"rbd": 2.0, "sgd": 0.25}


def trainer(first="rbd", switch_step=4, model=None, **options):
    method = methods.create(
        "switch", learning_rate=RATES["rbd"], sgd_learning_rate=RATES["sgd"], switch_step=switch_step, first=first,
        **{"dim": 20, **options},
    )  # fmt: skip
    return rbd_ipu.Trainer(model or dense(), method, "cpu")


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("first, second", [("rbd", "sgd"), ("sgd", "rbd")])
def test_an_epoch_is_what_numpy_makes_of_it(first, second, momentum):
    x, y = blobs()
    t = trainer(first, momentum=momentum, seed=3)
    t.fit(dataset(x, y), epochs=1, verbose=0)
    other, velocity = dense(), 0.0
    rbd = RBD(1.0, dim=20, seed=3)
    rbd.build(other.trainable_variables)
    for step in range(10):
        name = first if step < 4 else second
        update = gradient(other, x[32 * step : 32 * step + 32], y[32 * step : 32 * step + 32])
        if name == "rbd":
            P = rbd.subspace.directions(3, step).numpy().astype(np.float64)
            update = P.T @ (P @ update)
        velocity = momentum * velocity - RATES[name] * update
        set_flat(other, flat(other) + velocity)
    close(flat(t.model) - flat(dense()), flat(other) - flat(dense()), 1e-4)


def test_the_learning_rate_is_shown_as_it_is():
    x, y = blobs()
    rates = []
    t = trainer("rbd", switch_step=10)

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(current_rate(t.model.optimizer))

    history = t.fit((x, y), epochs=2, verbose=0, callbacks=[Watch()]).history
    assert rates == [2.0, 0.25]
    assert history["cosine"][0] < 0.7 and history["cosine"][1] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("first", ["rbd", "sgd"])
def test_batch_normalisation_is_moved_once_a_step(first):
    x, y = blobs(32)
    model, once = normalising(), normalising()
    t = trainer(first, model=model, switch_step=1)
    before = [w.copy() for w in model.get_weights()]
    t.fit(Batches((x, y), 32, seed=0), epochs=1, verbose=0)
    once(x, training=True)
    for a, b, c, w in zip(before, model.get_weights(), once.get_weights(), model.weights):
        if "moving" in w.name:
            np.testing.assert_allclose(b, c, rtol=1e-5, atol=1e-6)
            assert np.abs(b - a).max() > 0


def test_any_two_methods_follow_each_other():
    x, y = blobs(96)
    method = Switched(Hybrid(0.5, dim=6), FPD(0.25, dim=9, seed=2), switch_step=2)
    t = rbd_ipu.Trainer(dense(), method, "cpu")
    t.fit(dataset(x, y), epochs=1, verbose=0)
    hybrid, model, state = make("hybrid", dim=6)
    fpd = FPD(0.25, dim=9, seed=2)
    fpd.build(model.trainable_variables)
    for step in range(3):
        batch = tf.constant(x[32 * step : 32 * step + 32]), tf.constant(y[32 * step : 32 * step + 32])
        inner, rate = (hybrid, 0.5) if step < 2 else (fpd, 0.25)
        set_flat(model, flat(model) - rate * inner.step(state(), batch, tf.constant(step)).numpy())
    close(flat(t.model) - flat(dense()), flat(model) - flat(dense()), 2e-3)


def test_slots_of_both_phases_are_kept():
    method = Switched(RBD(1.0, dim=4, redraw_lowest=0.5), RBD(1.0, dim=6, redraw_lowest=0.5), 3)
    method.build([(5, 4)])
    assert {k: v.shape.as_list() for k, v in method.slots.items()} == {"before/draws": [4], "after/draws": [6]}


def test_workers_can_share_phases_with_messages_of_one_length():
    alike = Switched(FPD(1.0, dim=4), RBD(2.0, dim=4), 3)
    alike.build([(5, 4)])
    assert alike.parallel and alike.dim == 4
    for step, inner in ((2, alike.before), (3, alike.after)):
        messages = tf.random.stateless_normal([3, 4], [1, 2])
        np.testing.assert_array_equal(
            alike.update(messages, tf.constant(step)), inner.update(messages, tf.constant(step))
        )
    other = Switched(SGD(1.0), RBD(2.0, dim=4), 3)
    other.build([(5, 4)])
    assert not other.parallel and "20 and 4" in other.not_parallel_because
    one = Switched(RBD(1.0, dim=4, redraw_lowest=0.5), RBD(2.0, dim=4), 3)
    one.build([(5, 4)])
    assert not one.parallel and "redraw_lowest=0.5" in one.not_parallel_because


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"first": "fpd"}, ValueError, "first must be 'rbd' or 'sgd', got 'fpd'"),
        ({"switch_step": 0}, ValueError, "switch_step must be an integer >= 1, got 0"),
        ({"switch_step": 2.5}, TypeError, "switch_step must be an integer >= 1, got 2.5"),
        ({"learning_rate": lambda: 0.1}, TypeError, "learning_rate must be a finite number"),
        ({"sgd_learning_rate": float("nan")}, ValueError, "sgd_learning_rate must be .*got nan"),
    ],
)
def test_bad_options_are_quoted(options, error, message):
    given = {"learning_rate": 1.0, "sgd_learning_rate": 0.1, "switch_step": 3, "dim": 4, **options}
    with pytest.raises(error, match=message):
        methods.create("switch", **given)


def test_phases_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="need one momentum, got 0.5 and 0.0"):
        Switched(SGD(0.1, momentum=0.5), RBD(0.1, dim=3), 3)
    with pytest.raises(ValueError, match="'nes' takes 3 mini-batches a step and 'rbd' 1"):
        Switched(NES(0.1, dim=3), RBD(0.1, dim=3), 3).build([(5, 4)])
