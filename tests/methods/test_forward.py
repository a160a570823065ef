"""NES and the hybrid: against float64, on losses whose coordinates are known, and what they leave of the model."""

import numpy as np
import pytest
from marks import slow_but
from nets import blobs, dense, flat, gradient
from reference import close
from steps import batch, dense_loss, further, linear, make, mean_output, mean_square, normalising, ranks

import rbd_ipu
from rbd_ipu import methods, subspace
from rbd_ipu._compat import tf
from rbd_ipu.data import Batches

STEP, WORKER = tf.constant(5), tf.constant(1)
SIGMA = 0.1  # so large that no rounding changes the order of the losses


def directions(method, step=5, worker=1):
    return method.subspace.directions(method.seed, step, worker).numpy().astype(np.float64)


def lengths(method):
    sizes = [piece.size for piece in method.subspace.compartments for _ in range(piece.dim)]
    return method.sigma * (np.ones(len(sizes)) if method.basis.normalize == "none" else np.sqrt(sizes))


def reference_losses(method, model, batches):
    """L(theta +- s_i phi_i) on mini-batch i: float64 [d, 1 or 2]."""
    theta, P, s = flat(model), directions(method), lengths(method)
    signs = (1, -1) if method.antithetic else (1,)
    return np.array([[dense_loss(theta + sign * s[i] * P[i], *batches[i]) for sign in signs] for i in range(len(P))])


NES = [
    (False, {}),
    (True, {"distribution": "rademacher"}),
    (True, {"distribution": "uniform", "normalize": "none"}),
    (False, {"distribution": "hadamard"}),
    (True, {"source": "counter", "normalize": "expected"}),
]


@pytest.mark.parametrize(
    "antithetic, options", slow_but(NES, NES + [(not antithetic, options) for antithetic, options in NES]), ids=str
)
def test_nes_is_its_formula(antithetic, options):
    method, model, state = make("nes", next_batch=further(), dim=7, sigma=SIGMA, antithetic=antithetic, **options)
    before = flat(model)
    message = method.message(state(), batch(0), STEP, WORKER)
    losses = reference_losses(method, model, [batch(i) for i in range(7)])
    r = ranks(losses.ravel()).reshape(losses.shape)
    r = (r[:, 0] - r[:, 1]) / 2 if antithetic else r[:, 0]
    close(message, r / (SIGMA * 7), 1e-5)
    update = method.update(message[None], STEP)
    close(update, directions(method, worker=0).T @ message.numpy().astype(np.float64), 1e-5)
    np.testing.assert_array_equal(flat(model), before)
    assert method.batches == 7 and method.forward_only


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("scheme", ["global", "even:3", "layer", "factor:30"])
def test_the_hybrid_is_its_formula(antithetic, scheme):
    dim = {} if scheme.startswith("factor") else {"dim": 7}
    method, model, state = make("hybrid", sigma=SIGMA, antithetic=antithetic, compartments=scheme, **dim)
    losses = reference_losses(method, model, [batch(0)] * method.dim)
    rises = (losses[:, 0] - losses[:, 1]) / 2 if antithetic else losses[:, 0] - dense_loss(flat(model), *batch(0))
    message = method.message(state(), batch(0), STEP, WORKER)
    close(message, rises / lengths(method), 2e-4)
    assert method.batches == 1 and method.forward_only


def test_the_hybrid_finds_the_coordinates_of_rbd():
    hybrid, model, state = make("hybrid", dim=12, sigma=1e-3, antithetic=True)
    close(hybrid.message(state(), batch(), STEP, WORKER), directions(hybrid) @ gradient(model, *batch()), 0.05)
    rbd, _, other = make("rbd", dim=12)
    np.testing.assert_array_equal(directions(hybrid), directions(rbd))
    close(hybrid.step(state(), batch(), STEP), rbd.step(other(), batch(), STEP), 0.1)


def test_ranks_of_the_hybrid_are_those_of_the_first_implementation():
    method, model, state = make("hybrid", dim=7, sigma=SIGMA, transform="rank")
    losses = reference_losses(method, model, [batch(0)] * 7)
    close(method.message(state(), batch(0), STEP, WORKER), ranks(losses[:, 0]), 1e-6)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "rademacher", "hadamard", "sparse:2"])
def test_pairs_on_a_linear_loss_give_the_projected_gradient(distribution):
    """L(w) = <w, g>: both ways differ by 2 s <g, phi>, whatever the distribution: pairs are no copies."""
    x, y = batch(0)
    g = np.mean(x, axis=0, dtype=np.float64)
    options = {"model": linear(), "loss": mean_output, "dim": 5, "antithetic": True, "distribution": distribution}
    hybrid, _, state = make("hybrid", sigma=0.5, **options)
    c = directions(hybrid) @ g
    np.testing.assert_allclose(hybrid.message(state(), (x, y), STEP, WORKER), c, atol=1e-5)
    nes, _, state = make("nes", next_batch=lambda: (x, y), sigma=0.5, transform="none", **options)
    np.testing.assert_allclose(nes.message(state(), (x, y), STEP, WORKER), np.sqrt(6) / 5 * c, atol=1e-5)
    shaped, _, state = make("nes", next_batch=lambda: (x, y), sigma=0.5, **options)
    r = shaped.message(state(), (x, y), STEP, WORKER).numpy() * 0.5 * 5
    both = ranks(np.concatenate([c, -c]).round(5))
    np.testing.assert_allclose(r, (both[:5] - both[5:]) / 2, atol=1e-6)
    assert np.all(np.sign(r) == np.sign(c.round(5)))


def test_pairs_on_a_quadratic_loss_see_no_curvature():
    """L(w) = w' H w / 2: central differences give <g, phi>, one-sided ones s phi' H phi / 2 more."""
    x, y = batch(0)
    H = np.asarray(x, np.float64).T @ np.asarray(x, np.float64) / len(x)
    for antithetic in (True, False):
        method, model, state = make(
            "hybrid", linear(), mean_square, dim=5, sigma=0.5, antithetic=antithetic
        )  # fmt: skip
        P, s = directions(method), lengths(method)
        expected = P @ (H @ flat(model))
        if not antithetic:
            expected = expected + s * np.einsum("ij,jk,ik->i", P, H, P) / 2
        np.testing.assert_allclose(method.message(state(), (x, y), STEP, WORKER), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("antithetic", [False, True])
def test_each_direction_of_nes_has_a_mini_batch_of_its_own(antithetic):
    """The loss is the number of the mini-batch, whatever the weights: direction i has number i, both ways."""
    numbers = iter(range(1, 100))

    def numbered(number):
        return tf.zeros([4, 6]), tf.fill([4], tf.cast(number, tf.float32))

    method, _, state = make(
        "nes", linear(), lambda y, outputs: tf.reduce_mean(y) + 0.0 * tf.reduce_mean(outputs),
        lambda: numbered(next(numbers)), dim=5, sigma=1.0, transform="none", antithetic=antithetic,
    )  # fmt: skip
    message = method.message(state(), numbered(0), STEP, WORKER).numpy() * 5
    np.testing.assert_array_equal(message, np.zeros(5) if antithetic else np.arange(5))
    assert next(numbers) == 5  # no mini-batch more was read


@pytest.mark.parametrize("scheme", ["global", "even:3", "variable"])
@pytest.mark.parametrize("source", ["counter", "auto"])
def test_blocks_change_nothing(monkeypatch, scheme, source):
    def message(floats):
        monkeypatch.setattr(subspace, "BLOCK_FLOATS", floats)
        method, _, state = make("hybrid", dim=11, sigma=SIGMA, compartments=scheme, source=source)
        return method.message(state(), batch(), STEP, WORKER)

    close(message(1 << 19), message(450), 1e-4)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", ["nes", "hybrid"])
def test_weights_and_moving_statistics_come_back_bit_for_bit(name, traced):
    method, model, state = make(name, normalising(), next_batch=lambda: batch(1), dim=5, sigma=3.0, antithetic=True)
    before = [w.copy() for w in model.get_weights()]

    def run(step):
        return method.step(state(), batch(0), step)

    assert np.isfinite((tf.function(run) if traced else run)(STEP)).all()
    after = model.get_weights()
    kept = slice(None)
    if name == "hybrid":  # whose pass at the weights themselves is the one of the metrics
        moving = [i for i, w in enumerate(model.weights) if "moving" in w.name]
        assert len(moving) == 2 and all(np.abs(after[i] - before[i]).max() > 0 for i in moving)
        kept = [i for i in range(len(before)) if i not in moving]
    for a, b in zip(np.array(before, object)[kept], np.array(after, object)[kept]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["nes", "hybrid", "rbd"])
def test_a_step_moves_the_statistics_once(name):
    """Compared with the gradient or not: moving statistics are those of one pass over the first mini-batch."""
    x, y = blobs(64)
    data = Batches((x, y), 64, seed=0)
    model = normalising()
    trainer = rbd_ipu.Trainer(model, methods.create(name, learning_rate=0.0, dim=2), "cpu")
    trainer.fit(data, epochs=1, verbose=0)
    once = normalising()
    once(x, training=True)
    for mine, plain, w in zip(model.get_weights(), once.get_weights(), model.weights):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-6, err_msg=w.name)


def test_the_gradient_is_taken_at_compared_steps_only(monkeypatch):
    """In the traced loop it stands in a branch; the loss of the metrics is that at the weights themselves."""
    x, y = blobs(320)
    trainer = rbd_ipu.Trainer(dense(), methods.create("hybrid", learning_rate=0.5, dim=20, antithetic=True), "cpu")
    calls = []

    def graph():
        return tf.compat.v1.get_default_graph().name

    tape = tf.GradientTape.gradient
    monkeypatch.setattr(tf.GradientTape, "gradient", lambda *a, **k: calls.append(graph()) or tape(*a, **k))
    history = trainer.fit((x, y), epochs=4, verbose=0).history
    assert len(calls) == 1 and "true" in calls[0] and "cond" in calls[0]
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert 0.1 < history["cosine"][0] < 0.9  # of 20 directions in 214: about 0.3


def test_an_epoch_of_nes_has_a_step_for_every_d_mini_batches():
    x, y = blobs(320)  # 10 mini-batches
    for dim, steps in ((3, 3), (10, 1), (25, 1)):
        trainer = rbd_ipu.Trainer(dense(), methods.create("nes", learning_rate=0.1, dim=dim), "cpu")
        history = trainer.fit((x, y), epochs=2, verbose=0).history
        assert history["step"] == [steps, 2 * steps] and np.isfinite(history["loss"]).all()


def test_nes_learns():
    x, y = blobs(320)
    trainer = rbd_ipu.Trainer(dense(), methods.create("nes", learning_rate=0.25, dim=10, antithetic=True), "cpu")
    history = trainer.fit((x, y), (x, y), epochs=40, verbose=0, batch_size=16).history
    assert history["val_loss"][-1] < 0.8 * history["val_loss"][0]


def test_a_loss_that_is_not_a_number_stops_the_run():
    x, y = blobs(64)
    x[40] = np.nan
    model = normalising()  # a fused ReLU of TensorFlow's makes 0 of NaN
    before = [w.copy() for w in model.get_weights()]
    trainer = rbd_ipu.Trainer(model, methods.create("nes", learning_rate=0.1, dim=2), "cpu")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    with pytest.raises(rbd_ipu.NonFiniteError):  # in the second mini-batch of the step
        trainer.fit(data, epochs=1, verbose=0)
    for a, b, w in zip(before, model.get_weights(), model.weights):
        if "moving" not in w.name:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("nes", {"sigma": 0.0}, ValueError, "sigma must be a finite number > 0, got 0.0"),
        ("nes", {"sigma": -1.0}, ValueError, "got -1.0"),
        ("hybrid", {"sigma": "big"}, TypeError, "sigma must be .*got 'big'"),
        ("nes", {"antithetic": 1}, TypeError, "antithetic must be True or False, got 1"),
        ("nes", {"transform": "log"}, ValueError, "unknown transform 'log'; accepted: 'none', 'rank', 'range'"),
        ("nes", {"orthogonalize": True}, TypeError, "does not take orthogonalize"),
    ],
)
def test_bad_options_are_quoted(name, options, error, message):
    with pytest.raises(error, match=message):
        methods.create(name, **{"learning_rate": 0.1, "dim": 3, **options})


def test_one_direction_needs_a_pair():
    with pytest.raises(ValueError, match="got dim=1 and antithetic=False"):
        make("nes", dim=1)
    make("nes", dim=1, antithetic=True)
