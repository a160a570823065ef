"""A basis of gradients, against NumPy."""

import numpy as np
import pytest
from nets import gradient
from reference import close
from steps import batch, make

from rbd_ipu import methods
from rbd_ipu._compat import tf
from rbd_ipu.methods.gradients import WHICH


def unit(g):
    return g / np.linalg.norm(g)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("which", ["earlier", "present"])
def test_the_last_gradients_are_the_basis(which, traced):
    method, model, state = make("gradients", dim=3, gradients=which)

    def step(seed, t):
        return method.step(state(), batch(seed), t)

    run = tf.function(lambda x, y, t: method.step(state(), (x, y), t))
    known = []
    for t in range(6):
        update = run(*batch(t), tf.constant(t)) if traced else step(t, tf.constant(t))
        g = gradient(model, *batch(t))
        basis = [*known, unit(g)] if which == "present" else known
        expected = sum((phi @ g) * phi for phi in basis[-3:]) if basis else np.zeros_like(g)
        np.testing.assert_allclose(update, expected, atol=2e-5 * np.linalg.norm(g))
        known.append(unit(g))


def test_others_are_drawn_in_the_same_step():
    seeds = iter(range(1, 10))
    method, model, state = make("gradients", next_batch=lambda: batch(next(seeds)), dim=3, gradients="other")
    assert method.batches == 4 and not method.slots
    update = method.step(state(), batch(0), tf.constant(0))
    basis = [unit(gradient(model, *batch(seed))) for seed in (1, 2, 3)]
    g = gradient(model, *batch(0))
    close(update, sum((phi @ g) * phi for phi in basis))


def test_one_direction_that_is_the_gradient_is_sgd():
    method, model, state = make("gradients", dim=1, gradients="present")
    for t in range(2):
        close(method.step(state(), batch(t), tf.constant(t)), gradient(model, *batch(t)))


def test_no_nan_stays_in_the_basis():
    method, model, state = make("gradients", dim=2)
    x, y = batch(0)
    for t, data in enumerate([batch(0), (x * np.nan, y)]):
        method.step(state(), data, tf.constant(t))
    basis = method.slots["basis"].numpy()
    close(basis[0], unit(gradient(model, *batch(0))))
    np.testing.assert_array_equal(basis[1], np.zeros_like(basis[1]))


def test_rows_and_refusals():
    assert set(WHICH) == {"earlier", "present", "other"}
    with pytest.raises(
        ValueError, match="unknown choice of gradients 'next'; accepted: 'earlier', 'present', 'other'"
    ):
        methods.create("gradients", learning_rate=0.1, dim=2, gradients="next")
    with pytest.raises(TypeError, match="needs dim"):
        methods.create("gradients", learning_rate=0.1)
    assert not methods.METHODS.get("gradients").parallel
