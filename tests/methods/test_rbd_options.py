"""The options of RBD, one by one and together, against NumPy; and what contradicts what."""

import numpy as np
import pytest
from nets import blobs, dense, flat, gradient
from reference import MASK, close, hash32, normal_quantile, schedule
from steps import batch, make, ranks

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods import rbd_options
from rbd_ipu.methods.base import INNER
from rbd_ipu.methods.rbd_options import TRANSFORMS, Layers, largest
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import RedrawnSubspace


def steps(method, state, count):
    """Updates of steps 0, 1, ..., on mini-batches 0, 1, ..., in a traced function as in training."""
    run = tf.function(lambda x, y, step: method.step(state(), (x, y), step))
    return [run(*batch(t), tf.constant(t)).numpy() for t in range(count)]


def directions(method, index):
    return method.subspace.directions(method.seed, index).numpy().astype(np.float64)


def top(c, k):
    return np.where(np.abs(c) >= np.sort(np.abs(c))[-k], c, 0.0)


SHAPES = {"none": lambda c: c, "rank": ranks, "range": lambda c: (c - c.min()) / (c.max() - c.min()) - 0.5}


@pytest.mark.parametrize("k", [None, 4])  # of ranks, two have each magnitude
@pytest.mark.parametrize("transform", SHAPES)
def test_transforms_and_top_k(transform, k):
    method, model, state = make("rbd", dim=9, transform=transform, top_k=k)
    for t, update in enumerate(steps(method, state, 2)):
        P = directions(method, t)
        c = SHAPES[transform](P @ gradient(model, *batch(t)))
        close(update, P.T @ (c if k is None else top(c, k)))


def test_they_are_made_of_each_workers_own_coordinates():
    method, model, state = make("rbd", dim=9, transform="rank", top_k=4)
    messages = tf.stack([method.message(state(), batch(k), tf.constant(2), tf.constant(k)) for k in range(2)])
    expected = 0
    for k in range(2):
        P = method.subspace.directions(0, 2, k).numpy().astype(np.float64)
        expected = expected + P.T @ top(ranks(P @ gradient(model, *batch(k))), 4) / 2
    close(method.update(messages, tf.constant(2)), expected)
    assert method.parallel


@pytest.mark.parametrize("k", [None, 4])
def test_coordinates_are_accumulated(k):
    """Sums of three steps, projected back at the last of them; none before; the weights stand still here."""
    method, model, state = make("rbd", dim=9, accumulate=3, redraw_every=3, top_k=k)
    updates = steps(method, state, 7)
    for window in range(2):
        P = directions(method, window)
        total = sum(P @ gradient(model, *batch(3 * window + j)) for j in range(3))
        np.testing.assert_array_equal(updates[3 * window], 0.0)
        np.testing.assert_array_equal(updates[3 * window + 1], 0.0)
        close(updates[3 * window + 2], P.T @ (total if k is None else top(total, k)))
    close(method.slots["sum"].numpy(), directions(method, 2) @ gradient(model, *batch(6)))


@pytest.mark.parametrize("below, sgd", [(-1.0, False), (0.999, True), (0.2, None)])
def test_sgd_where_the_correlation_is_low(below, sgd):
    method, model, state = make("rbd", dim=9, sgd_below=below, sgd_learning_rate=0.125, learning_rate=0.5)
    taken = []
    for t, update in enumerate(steps(method, state, 6)):
        P, g = directions(method, t), gradient(model, *batch(t))
        u = P.T @ (P @ g)
        low = np.corrcoef(u, g)[0, 1] < below
        close(update, 0.25 * g if low else u)
        taken.append(low)
    assert len(set(taken)) == 2 if sgd is None else set(taken) == {sgd}


@pytest.mark.parametrize("options", [{}, {"compartments": "variable"}, {"accumulate": 2, "redraw_every": 2}], ids=str)
def test_sgd_for_some_layers(options):
    """Biases by SGD, in the message behind the coordinates of the rest."""
    method, model, state = make("rbd", dim=9, sgd_layers="bias", sgd_learning_rate=0.125, **options)
    sizes = [6 * 12, 12, 12 * 10, 10]
    where = np.repeat([False, True, False, True], sizes)
    assert (method.size, method.dim, method.subspace.size) == (214, 9 + 22, 192)
    k = options.get("accumulate", 1)
    for t, update in enumerate(steps(method, state, 2)):
        P = directions(method, t // k)
        g = sum(gradient(model, *batch(j)) for j in range(t // k * k, t + 1))
        expected = np.where(where, 0.25 * g, 0.0)
        expected[~where] = P.T @ (P @ g[~where])
        close(update, expected * ((t + 1) % k == 0)) if (t + 1) % k == 0 else np.testing.assert_array_equal(update, 0)
    if k == 1:
        message = method.message(state(), batch(0), tf.constant(0), tf.constant(0))
        assert message.shape == [31] and method.parallel


@pytest.mark.parametrize(
    "patterns, chosen",
    [("a", [0, 1]), ("a, c/bias", [0, 1, 3]), ("*/kernel", [0, 2]), ("net/a/b*", [1]), ("[ab]", [0, 1])],
)
def test_patterns_of_layers(patterns, chosen):
    class Described:
        dtype, shape = "float32", (2,)

        def __init__(self, name):
            self.name = name

    variables = [Described(f"net/{name}:0") for name in ("a/kernel", "a/bias", "c/kernel", "c/bias")]
    layers = Layers(variables, patterns)
    assert layers.chosen == [variables[i] for i in chosen] and layers.size == 2 * len(chosen)
    vector = tf.range(8.0)
    rest, taken = layers.split(vector)
    np.testing.assert_array_equal(taken, [v for i in chosen for v in (2 * i, 2 * i + 1)])
    np.testing.assert_array_equal(layers.join(rest, taken), vector)


@pytest.mark.parametrize("every, scheme", [(1, "global"), (2, "layer")])
def test_only_the_lowest_directions_are_drawn_again(every, scheme):
    method, model, state = make("rbd", dim=9, redraw_lowest=0.34, redraw_every=every, compartments=scheme)
    draws = np.zeros(9, np.int32)
    for t, update in enumerate(steps(method, state, 4)):
        P, g = directions(method, draws), gradient(model, *batch(t))
        close(update, P.T @ (P @ g))
        if (t + 1) % every == 0:
            draws[np.argsort(np.abs(P @ g))[:3]] += 1
    np.testing.assert_array_equal(method.slots["draws"], draws)
    assert not method.parallel


def test_the_seed_contract_of_directions_with_a_time_of_their_own():
    cut = Compartments.of([(9, 7), (7,), (7, 5)], "even:2", 6)
    draws = np.array([0, 3, 0, 1, 1, 2], np.int32)
    P = RedrawnSubspace(cut).directions(3, draws, 1).numpy()
    for i, count in enumerate(draws):
        piece, place = cut[i // 3], i % 3
        drawn = P[i, piece.start : piece.start + piece.size]
        key = fold_in(3, "redrawn", "worker", 1, "compartment", i // 3, place, int(count))
        alone = _keyed(piece.size, key)
        close(drawn, alone, 1e-6)


def _keyed(size, key):
    a, w = schedule(*key.numpy())
    x = normal_quantile(hash32((a + np.arange(size, dtype=np.uint64) * w) & MASK))
    return x / np.linalg.norm(x)


def test_kept_directions_train_and_are_kept_by_a_checkpoint():
    """Slots are all that a method remembers: put into another one, training goes on as if nothing had been."""
    x, y = blobs(320)

    def trainer():
        options = {"dim": 12, "redraw_lowest": 0.25, "accumulate": 2, "redraw_every": 2}
        return rbd_ipu.Trainer(dense(), methods.create("rbd", learning_rate=1.0, **options), "cpu")

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit((x, y), epochs=2, verbose=0)
    first.fit((x, y), epochs=1, verbose=0)
    second.model.set_weights(first.model.get_weights())
    second.model.optimizer.iterations.assign(first.step)
    for name, slot in second.method.slots.items():
        slot.assign(first.method.slots[name])
    second.fit((x, y), epochs=2, initial_epoch=1, verbose=0)
    np.testing.assert_array_equal(flat(whole.model), flat(second.model))
    assert int(tf.reduce_sum(whole.method.slots["draws"])) == 10 * 3


def adam(c, m, v, t):
    """Keras' Adam at learning rate 1, in float64: what it subtracts, and its moments after step t = 0, 1, ..."""
    m, v = 0.9 * m + 0.1 * c, 0.999 * v + 0.001 * c**2
    # Keras has 1 - 0.999^t in float32, which costs digits.
    debias = np.sqrt(1 - np.float32(0.999) ** np.float32(t + 1)) / (1 - np.float32(0.9) ** np.float32(t + 1))
    return m * debias / (np.sqrt(v) + 1e-7), m, v


@pytest.mark.parametrize("options", [{}, {"transform": "rank", "top_k": 4, "compartments": "layer"}], ids=str)
@pytest.mark.parametrize("on_redraw", ["keep", "reset"])
def test_adam_in_the_coordinates(on_redraw, options):
    own = {"inner": "adam", "state": "coordinates", "redraw_every": 3, "on_redraw": on_redraw, **options}
    method, model, state = make("rbd", dim=9, **own)
    m, v = np.zeros(9), np.zeros(9)
    for t, update in enumerate(steps(method, state, 7)):
        P = directions(method, t // 3)
        c = SHAPES[options.get("transform", "none")](P @ gradient(model, *batch(t)))
        if on_redraw == "reset" and t % 3 == 0:
            m, v = np.zeros(9), np.zeros(9)
        step, m, v = adam(top(c, options.get("top_k", 9)), m, v, t)
        close(update, P.T @ step)
    assert sorted(method.slots["inner_0"].shape + method.slots["inner_1"].shape) == [9, 9]
    assert int(method.slots["inner_step"]) == 7 and method.applied_by == "sgd"


def test_coordinates_that_are_not_finite_leave_the_inner_state_alone():
    method, _, _ = make("rbd", dim=3, inner="adam", state="coordinates")
    run = tf.function(method.in_coordinates.step)
    run(tf.constant([1.0, 2.0, 3.0]), tf.constant(0))
    before = [slot.numpy() for slot in method.slots.values()]
    assert np.isnan(run(tf.constant([1.0, np.nan, 3.0]), tf.constant(1))).any()
    for slot, value in zip(method.slots.values(), before):
        np.testing.assert_array_equal(slot, value)


@pytest.mark.parametrize("inner", [name for name in INNER if name not in ("sgd", "adamw")])
def test_any_inner_optimizer_in_the_coordinates_is_the_one_of_keras(inner):
    method, _, _ = make("rbd", dim=5, inner=inner, state="coordinates")
    run = tf.function(method.in_coordinates.step)
    alone, z = INNER[inner](1.0), tf.Variable(tf.zeros([5]))
    for t in range(4):
        c = tf.constant(np.random.RandomState(t).randn(5), tf.float32)
        z.assign(tf.zeros([5]))
        alone.apply_gradients([(c, z)])
        close(run(c, tf.constant(t)), -z.numpy())


def test_an_inner_optimizer_is_given_the_update():
    """State "full": Adam on P P^T g is Keras' Adam on the same vectors."""
    x, y = blobs(64)
    trainer = rbd_ipu.Trainer(dense(), methods.create("rbd", learning_rate=0.01, dim=12, inner="adam"), "cpu")
    expected, (m, v) = flat(trainer.model).astype(np.float64), np.zeros((2, 214))
    trainer.fit(tf.data.Dataset.from_tensors((x, y)), epochs=1, verbose=0)
    model = dense()
    P = directions(trainer.method, 0)
    g = gradient(model, tf.constant(x), tf.constant(y))
    close(flat(trainer.model), expected - 0.01 * adam(P.T @ (P @ g), m, v, 0)[0])


def test_workers_with_one_basis_share_one_state():
    """K workers on parts of a mini-batch make the step of one on all of it."""
    options = {"dim": 12, "inner": "adam", "state": "coordinates", "redraw_every": 2}

    def train(size, device):
        trainer = rbd_ipu.Trainer(dense(), methods.create("rbd", learning_rate=0.02, **options), device)
        trainer.fit(tf.data.Dataset.from_tensor_slices(blobs(320)).batch(size), epochs=1, verbose=0)
        return flat(trainer.model)

    two = rbd_ipu.open_device("cpu", simulate_workers=2, parallel="shared")
    close(train(16, two), train(32, "cpu"), 1e-5)
    with pytest.raises(ValueError, match="one state for the coordinates of all workers: use parallel='shared'"):
        train(16, rbd_ipu.open_device("cpu", simulate_workers=2))
    with pytest.raises(ValueError, match="no step of a single worker to average"):
        train(16, rbd_ipu.open_device("cpu", simulate_workers=2, parallel="shared", exchange="update"))


REFUSED = [
    ({"inner": "sgdw"}, ValueError, "unknown inner 'sgdw'; accepted with Keras"),
    ({"state": "small"}, ValueError, "unknown state 'small'; accepted: 'full', 'coordinates'"),
    ({"on_redraw": "reset"}, ValueError, "on_redraw='reset' is for state='coordinates', got state='full'"),
    ({"inner": "adam", "momentum": 0.5}, ValueError, "momentum=0.5 is for inner='sgd', got 'adam'"),
    ({"state": "coordinates"}, ValueError, "state='coordinates' is for .*got inner='sgd'"),
    ({"state": "coordinates", "inner": "adam", "redraw_lowest": 0.5}, ValueError, "redraw_lowest=0.5 decides"),
    (
        {"inner": "adam", "sgd_layers": "a", "sgd_learning_rate": 0.1},
        ValueError,
        "sgd_layers='a' makes steps of SGD, which inner='adam'",
    ),
    ({"top_k": 0}, ValueError, "top_k must be an integer >= 1, got 0"),
    ({"accumulate": 1.5}, TypeError, "accumulate must be an integer >= 1, got 1.5"),
    ({"transform": "log"}, ValueError, "unknown transform 'log'; accepted: 'none', 'rank', 'range'"),
    ({"sgd_below": 2.0, "sgd_learning_rate": 0.1}, ValueError, "sgd_below must be .*got 2.0"),
    ({"sgd_layers": 3, "sgd_learning_rate": 0.1}, TypeError, "sgd_layers must be names .*got 3"),
    ({"redraw_lowest": 1.0}, ValueError, "redraw_lowest must be a number above 0 and below 1, got 1.0"),
    ({"redraw_lowest": "half"}, TypeError, "redraw_lowest must be .*got 'half'"),
    ({"accumulate": 4}, ValueError, "accumulate=4 .*redraw_every must be a multiple of it, got redraw_every=1"),
    ({"accumulate": 4, "redraw_every": 6}, ValueError, "accumulate=4 .*got redraw_every=6"),
    ({"accumulate": 2, "redraw_every": 2, "momentum": 0.5}, ValueError, "accumulate=2 .*but momentum=0.5"),
    (
        {"accumulate": 2, "redraw_every": 2, "sgd_below": 0.1, "sgd_learning_rate": 0.1},
        ValueError,
        "sgd_below=0.1 .*but accumulate=2",
    ),
    (
        {"sgd_layers": "a", "sgd_below": 0.1, "sgd_learning_rate": 0.1},
        ValueError,
        "sgd_below=0.1 .*with sgd_layers='a'",
    ),
    ({"sgd_learning_rate": 0.1}, ValueError, "sgd_learning_rate=0.1 is for sgd_layers or sgd_below"),
    ({"sgd_below": 0.1}, ValueError, "sgd_below=0.1 needs sgd_learning_rate"),
    ({"sgd_layers": "a"}, ValueError, "sgd_layers='a' needs sgd_learning_rate"),
    (
        {"sgd_below": 0.1, "sgd_learning_rate": 0.1, "learning_rate": 0.0},
        ValueError,
        "sgd_learning_rate=0.1 .*must be a number > 0, got 0.0",
    ),
    ({"redraw_lowest": 0.5, "distribution": "hadamard"}, ValueError, "redraw_lowest=0.5 .*distribution='hadamard'"),
    ({"redraw_lowest": 0.5, "distribution": "sparse:4"}, ValueError, "redraw_lowest=0.5 .*distribution='sparse:4'"),
    ({"redraw_lowest": 0.5, "orthogonalize": True}, ValueError, "redraw_lowest=0.5 .*orthogonalize=True"),
    ({"redraw_lowest": 0.5, "source": "native"}, ValueError, "redraw_lowest=0.5 .*source='native'"),
]


@pytest.mark.parametrize("options, error, message", REFUSED, ids=lambda value: str(value)[:60])
def test_contradictions_are_quoted(options, error, message):
    with pytest.raises(error, match=message):
        methods.create("rbd", **{"learning_rate": 1.0, "dim": 5, **options})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 6}, "top_k=6 is more than the dim=5 directions there are"),
        ({"dim": 1, "transform": "rank"}, "transform='rank' compares coordinates, but dim=1"),
        ({"sgd_layers": "conv", "sgd_learning_rate": 0.1}, "no layer or variable is called 'conv'; the layers are "),
        ({"sgd_layers": "*", "sgd_learning_rate": 0.1}, "'\\*' are all variables .*none is left"),
    ],
)
def test_what_depends_on_the_model_is_refused_when_it_is_known(options, message):
    with pytest.raises(ValueError, match=message):
        make("rbd", **{"dim": 5, **options})


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"accumulate": 2, "redraw_every": 2}, "accumulate=2 keeps sums"),
        ({"sgd_below": 0.1, "sgd_learning_rate": 0.1}, "sgd_below=0.1 makes steps of SGD"),
        ({"redraw_lowest": 0.5}, "redraw_lowest=0.5 looks at"),
    ],
)
def test_what_workers_cannot_share_says_why(options, reason):
    method = methods.create("rbd", learning_rate=1.0, dim=5, **options)
    assert not method.parallel and method.not_parallel_because.startswith(reason)


# --- what is made of coordinates, against NumPy -----------------------------------------------------


EXAMPLES = {
    "none": lambda c: c,
    "rank": ranks,
    "range": lambda c: (c - c.min()) / (c.max() - c.min()) - 0.5,
}


def test_every_row_has_a_reference():
    assert set(EXAMPLES) == set(TRANSFORMS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("levels", [None, 3])  # of three values, most are equal to others
def test_against_numpy(name, seed, levels):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal(37) if levels is None else rng.integers(0, levels, 37).astype(float)
    transform = TRANSFORMS.get(name)
    for apply in (transform, tf.function(transform)):
        np.testing.assert_allclose(apply(tf.constant(c, tf.float32)), EXAMPLES[name](c.astype(np.float32)), atol=1e-6)


def test_ranks_are_those_of_the_order_alone():
    c = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    rank = TRANSFORMS.get("rank")
    r = rank(tf.constant(c)).numpy()
    np.testing.assert_array_equal(r, rank(tf.constant(np.exp(3 * c))))
    np.testing.assert_allclose(rank(tf.constant(-c)), -r, atol=1e-7)
    np.testing.assert_allclose(np.sort(r), np.linspace(-0.5, 0.5, 50), atol=1e-7)


@pytest.mark.parametrize("name", ["rank", "range"])
def test_nothing_to_tell_apart_moves_nothing(name):
    for c in ([4.0], [4.0, 4.0, 4.0]):
        np.testing.assert_array_equal(TRANSFORMS.get(name)(tf.constant(c)), np.zeros(len(c)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_nan_is_not_hidden(name):
    assert np.isnan(TRANSFORMS.get(name)(tf.constant([1.0, np.nan, 0.0]))).any()


def test_an_infinite_loss_is_the_highest():
    np.testing.assert_array_equal(TRANSFORMS.get("rank")(tf.constant([1.0, np.inf, 0.0])), [0.0, 0.5, -0.5])


@pytest.mark.parametrize("k", [1, 4, 20])
def test_top_keeps_the_largest_in_magnitude(k):
    c = np.random.default_rng(k).standard_normal(20).astype(np.float32)
    expected = np.where(np.abs(c) >= np.sort(np.abs(c))[-k], c, 0.0)
    np.testing.assert_array_equal(rbd_options.top(tf.constant(c), k), expected)


def test_largest_counts_exactly_k_among_equals():
    assert float(tf.reduce_sum(largest(tf.ones([7]), 3))) == 3.0


@pytest.mark.parametrize("share, again", [(0.001, 1), (0.25, 2), (0.5, 5), (0.99, 9)])
def test_the_lowest_are_drawn_again(share, again):
    c = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    draws = rbd_options.lowest_again(tf.zeros([9], tf.int32), tf.constant(c), share).numpy()
    assert draws.sum() == max(1, round(share * 9)) and again in (draws.sum(), draws.sum() + 1)
    assert np.abs(c[draws == 1]).max() <= np.abs(c[draws == 0]).min() if draws.sum() < 9 else True
