"""The exchange as pure functions: modes against NumPy, wires, the ring, plans."""

import numpy as np
import pytest
from marks import slow_but
from nets import blobs, crossentropy, dense, flat, gradient, set_flat
from reference import close

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.config.schema import FIELDS
from rbd_ipu.data import Batches
from rbd_ipu.parallel.exchange import Simulated
from rbd_ipu.parallel.plan import EXCHANGES, MODES, WIRES, plan
from rbd_ipu.parallel.round import settle

K, RATE, BATCH = 3, 0.5, 8


# --- modes -----------------------------------------------------------------------------------------


def by_numpy(mode, method, batches, steps):
    """Algorithm 1, right, and its relatives, from their definitions and dense directions in float64."""
    model = dense()
    whole = list(batches.dataset().take(steps * K))
    for t in range(steps):
        update = 0.0
        for k in range(K):
            x, y = whole[t] if mode == "same-data" else whole[t * K + k]
            P = method.subspace.directions(method.seed, t, 0 if mode == "shared" else k).numpy().astype(np.float64)
            update = update + P.T @ (P @ gradient(model, x, y)) / (1 if mode == "split" else K)
        set_flat(model, flat(model) - RATE * update)
    return flat(model)


WAYS = ("coordinates", "update")
OFTEN = [(mode, WAYS[i % 2]) for i, mode in enumerate(MODES)] + [("own", "update")]


@pytest.mark.parametrize("mode, way", slow_but(OFTEN, [(mode, way) for mode in MODES for way in WAYS]))
def test_modes_are_what_numpy_makes_of_them(mode, way):
    device = rbd_ipu.open_device("cpu", simulate_workers=K, parallel=mode, exchange=way)
    method = methods.create("rbd", learning_rate=RATE, dim=7)
    trainer = rbd_ipu.Trainer(dense(), method, device, loss=crossentropy())
    batches = Batches(blobs(3 * K * BATCH), BATCH, seed=2)
    steps = 3 * K if mode == "same-data" else 3
    history = trainer.fit(batches, epochs=1, verbose=0).history
    assert history["step"] == [steps]
    start = flat(dense())
    close(flat(trainer.model) - start, by_numpy(mode, method, batches, steps) - start, 1e-4)


def test_what_a_model_keeps_follows_worker_0():
    """Of K simulated workers only the first moves the statistics of batch normalisation, as real ones agree on."""

    def model():
        layers = keras.layers
        return keras.Sequential([layers.InputLayer((6,)), layers.BatchNormalization(), layers.Dense(10)])

    batches = Batches(blobs(2 * K * BATCH), BATCH, seed=0)
    together = rbd_ipu.Trainer(
        model(), methods.create("sgd", learning_rate=0.0), rbd_ipu.open_device("cpu", simulate_workers=K)
    )
    together.fit(batches, epochs=1, verbose=0)
    first = rbd_ipu.Trainer(model(), methods.create("sgd", learning_rate=0.0))
    first.fit(batches.shard(0, K), epochs=1, verbose=0)
    for one, other in zip(together.model.non_trainable_variables, first.model.non_trainable_variables):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


# --- wires -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 5, 250])
@pytest.mark.parametrize("name, error", [("float32", 0.0), ("float16", 2**-11), ("int8", 0.5 / 127)])
def test_wires(name, error, m):
    """The error is within half a step of the largest coordinate, whatever the scale; the words are few."""
    wire = WIRES.get(name)
    messages = np.random.default_rng(m).standard_normal((3, m)).astype(np.float32)
    messages *= np.float32([1e-20, 1.0, 1e20])[:, None]
    words = tf.stack([wire.encode(tf.constant(row)) for row in messages])
    assert words.shape == [3, wire.words(m)]
    found = wire.decode(words, m).numpy()
    allowed = 1.0001 * error * np.abs(messages).max(axis=1, keepdims=True)
    assert (np.abs(found - messages) <= allowed).all()
    again = tf.stack([wire.encode(tf.constant(row)) for row in found])
    np.testing.assert_allclose(wire.decode(again, m).numpy(), found, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WIRES)
def test_a_number_that_is_not_finite_arrives(name, bad):
    """Also in a graph, where TensorFlow 2.6 takes 0 * x for 0."""
    wire, message = WIRES.get(name), tf.constant([1.0, bad, 0.0], tf.float32)
    for encode in (wire.encode, tf.function(wire.encode)):
        assert not np.isfinite(wire.decode(encode(message)[tf.newaxis], 3).numpy().sum())


@pytest.mark.parametrize("name", WIRES)
def test_zeros_stay_zeros(name):
    wire = WIRES.get(name)
    np.testing.assert_array_equal(wire.decode(wire.encode(tf.zeros([5]))[tf.newaxis], 5), np.zeros((1, 5)))


# --- plans -----------------------------------------------------------------------------------------


def test_the_command_line_knows_every_row():
    for key, names in (("parallel", MODES), ("wire", WIRES), ("exchange", EXCHANGES)):
        assert set(FIELDS[key]["kind"].names) == set(names)


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"parallel": "both"}, "unknown parallel mode 'both'; accepted: 'own', 'shared', 'same-data', 'split'"),
        ({"exchange": "gossip"}, "unknown exchange 'gossip'; accepted: 'auto', 'coordinates', 'update'"),
        ({"wire": "int4"}, "unknown wire 'int4'; accepted: 'float32', 'float16', 'bfloat16', 'int8', 'sign'"),
        ({"exchange": "update", "wire": "int8"}, "wire 'int8' is for coordinates"),
    ],
)
def test_bad_plans_are_quoted(choices, message):
    with pytest.raises(ValueError, match=message):
        plan(**choices)
    with pytest.raises(ValueError, match=message):
        rbd_ipu.open_device("cpu", simulate_workers=2, **choices)


@pytest.mark.parametrize(
    "name, options, plan, message",
    [
        ("sgd", {}, {"parallel": "split"}, "parallel='split' shares directions among workers, and method 'sgd' has"),
        ("sgd", {}, {"parallel": "same-data"}, "use parallel='own'"),
        (
            "sgd",
            {},
            {"wire": "int8"},
            "wire 'int8' is for coordinates, and method 'sgd' has none; use wire='float32'",
        ),
        ("gradients", {"dim": 4}, {}, "method 'gradients' runs on one worker only, not on 2: its directions are"),
    ],
)
def test_methods_that_do_not_fit_are_refused(name, options, plan, message):
    device = rbd_ipu.open_device("cpu", simulate_workers=2, **plan)
    with pytest.raises(ValueError, match=message):
        rbd_ipu.Trainer(dense(), methods.create(name, learning_rate=0.1, **options), device)


@pytest.mark.parametrize(
    "name, options, wire, expected",
    [
        ("sgd", {}, "float32", "exchange=update: method 'sgd' has no coordinates"),
        ("rbd", {"dim": 4}, "int8", "exchange=coordinates: they are what wire=int8 is for"),
        ("rbd", {"dim": 200}, "float32", "ms a step are expected; with"),
    ],
)
def test_auto_says_what_it_chose(name, options, wire, expected):
    method = methods.create(name, learning_rate=0.1, **options)
    method.build([(50, 10)])
    made = Simulated(2, plan(wire=wire))
    settled = settle(method, made)
    assert expected in made.note and settled.exchange in ("coordinates", "update")
    assert made.plan.exchange == "auto"  # another method on the same device is settled anew


def test_a_method_without_a_step_of_one_worker_sends_coordinates():
    class Joint(methods.RBD):
        """Its step knows no worker."""

        def step(self, state, batch, step):
            return super().step(state, batch, step)

    method = Joint(learning_rate=0.1, dim=4)
    method.build([(50, 10)])
    made = Simulated(2)
    assert settle(method, made).exchange == "coordinates"
    assert made.note == "exchange=coordinates: all that method 'rbd' can send"
    with pytest.raises(ValueError, match="method 'rbd' has no step of a single worker to average"):
        settle(method, Simulated(2, plan(exchange="update")))
