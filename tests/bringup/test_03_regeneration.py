"""A direction is the same, bit for bit, every time it is drawn: what training without stored directions rests on."""

import numpy as np
import pytest

from rbd_ipu import fold_in
from rbd_ipu._compat import tf
from rbd_ipu.directions import make_source
from rbd_ipu.directions.poprand import DRAWS

pytestmark = pytest.mark.ipu

STEPS = 100
SHAPE = [16, 5000]


@pytest.mark.parametrize("distribution", DRAWS)
def test_two_draws_of_a_step_are_bit_equal(on_device, distribution):
    """The same operation with the same seed and shape gives the same bits, twice in each of 100 steps."""
    draw = DRAWS[distribution]

    def run(base):
        def body(step, different):
            seed = fold_in(base, step)
            first, second = draw(SHAPE, seed), draw(SHAPE, seed)
            return step + 1, different + tf.reduce_sum(tf.cast(tf.not_equal(first, second), tf.int32))

        return tf.while_loop(
            lambda step, _: step < STEPS, body, (tf.constant(0), tf.constant(0)), parallel_iterations=1
        )[1]

    assert on_device(run, np.array([1, 2], np.int32)) == 0


@pytest.mark.parametrize("distribution", DRAWS)
def test_a_draw_is_bit_equal_in_another_run_and_another_program(on_device, distribution):
    """What a seed gives depends neither on how often the program has run, nor on what else it does."""
    draw, seed = DRAWS[distribution], np.array([3, 4], np.int32)

    def alone(seed):
        return draw(SHAPE, seed)

    def among_others(seed):
        other = tf.random.stateless_normal([77, 1000], fold_in(seed, "other"))
        return draw(SHAPE, seed), tf.reduce_sum(other)

    first = on_device(alone, seed)
    np.testing.assert_array_equal(on_device(alone, seed), first)
    np.testing.assert_array_equal(on_device(among_others, seed)[0], first)


def test_a_draw_that_is_used_otherwise_is_bit_equal(on_device):
    """The layout that a product wants does not change what is drawn: P c and P^T v see the same P."""
    draw, rows = DRAWS["normal"], 64
    units = np.eye(rows, dtype=np.float32)

    def run(seed, units):
        drawn = draw([rows, rows], seed)
        left = tf.matmul(units, draw([rows, rows], seed))
        right = tf.matmul(draw([rows, rows], seed), units)
        return drawn, left, right

    drawn, left, right = on_device(run, np.array([5, 6], np.int32), units)
    np.testing.assert_array_equal(left, drawn)
    np.testing.assert_array_equal(right, drawn)


def test_the_methods_of_a_basis_see_the_same_directions(on_device):
    """project, expand and sketch agree with the directions that are read back, over several blocks and a rest."""
    size, dim, rows = 1000, 10, 4
    source = make_source("poprand", 1, size, dim, "normal", "unit", rows)
    rng = np.random.default_rng(0)
    v, c = rng.standard_normal((1, size)).astype(np.float32), rng.standard_normal((1, dim)).astype(np.float32)

    def run(seeds, v, c):
        return source.directions(seeds, 0, dim), source.project(v, seeds), source.expand(c, seeds)

    P, projected, expanded = on_device(run, np.array([[7, 8]], np.int32), v, c)
    P = P[0].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(projected[0], P @ v[0], atol=1e-4 * np.linalg.norm(v))
    np.testing.assert_allclose(expanded[0], P.T @ c[0], atol=1e-4 * np.linalg.norm(c))
