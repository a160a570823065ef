"""The rivals of the comparison against float64 NumPy loops, one worker and two; simulated workers; the scripts."""

import math
import sys

import numpy as np
import pytest
from compression_reference import Worker
from nets import dense, flat

from rbd_ipu import presets
from rbd_ipu._compat import KERAS_3, keras, tf

pytestmark = pytest.mark.usefixtures("scripts")
needs_keras_3 = pytest.mark.skipif(not KERAS_3, reason="the comparison needs Keras 3, whose optimizers it compares")

STEPS, RATE = 7, 0.125
SHAPES = [(10, 6), (6,), (4, 12), (5, 2, 6)]


def gradients(workers):
    """Of each step and variable [K, *shape]: exact in float32."""
    generator = np.random.default_rng(workers)
    scale = [1.0, 0.1, 10.0, 1.0]
    return [
        [(s * generator.standard_normal((workers, *n))).astype(np.float32) for n, s in zip(SHAPES, scale)]
        for _ in range(STEPS)
    ]


def played(rival, workers, shapes=SHAPES):
    """The weights after the steps, from 0; and the rival as it is then."""
    variables = [tf.Variable(tf.zeros(shape), name=f"layer{i}") for i, shape in enumerate(shapes)]
    rival.build(variables, workers)
    step = tf.function(rival.apply)
    for of_step in gradients(workers):
        step([tf.constant(g) for g in of_step[: len(shapes)]])
    return [v.numpy() for v in variables]


def check(found, expected):
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, np.reshape(theirs, ours.shape), rtol=2e-4, atol=2e-5)


def top(x, k):
    """x with all but the k largest entries 0."""
    order = np.argsort(-np.abs(x), kind="stable")[:k]
    out = np.zeros_like(x)
    out[order] = x[order]
    return out


class Adam:
    """Adam with bias correction, on one array."""

    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def __call__(self, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.99 * self.v + 0.01 * g * g
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.99**self.t)) + 1e-7)


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_top_k(workers, momentum):
    from rivals import TopK

    rival = TopK(RATE, 0.1, momentum)
    found = played(rival, workers)
    weights = [np.zeros(int(np.prod(shape))) for shape in SHAPES]
    u = [np.zeros((workers, w.size)) for w in weights]
    v = [np.zeros((workers, w.size)) for w in weights]
    for of_step in gradients(workers):
        for i, g in enumerate(of_step):
            total = 0.0
            for k in range(workers):
                u[i][k] = momentum * u[i][k] + g[k].ravel().astype(float)
                v[i][k] += u[i][k]
                q = top(v[i][k], max(1, round(0.1 * g[k].size)))
                v[i][k] -= q
                if momentum:
                    u[i][k][q != 0] = 0.0
                else:
                    u[i][k][:] = 0.0
                total = total + q
            weights[i] -= RATE * total / workers
    check(found, weights)
    # 6, 1, 5 and 6 values of 4 bytes, and indices of 6, 3, 6 and 6 bits.
    assert rival.message_bytes == 29 + 5 + 24 + 29
    assert rival.state_floats == (2 if momentum else 1) * 174


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("then", ["momentum", "adam"])
@pytest.mark.parametrize("rank", [1, 3])
def test_powersgd(workers, then, rank):
    from rivals import PowerSGD

    rival = PowerSGD(RATE, rank, then=then, seed=3)
    found = played(rival, workers)
    matrices = {0: (10, 6), 2: (4, 12), 3: (10, 6)}
    matrices = {i: (n, m) for i, (n, m) in matrices.items() if rank * (n + m) < n * m}
    assert set(matrices) == ({0, 2, 3} if rank == 1 else {0, 3})
    weights = [np.zeros(shape) for shape in SHAPES]
    errors = {i: np.zeros((workers, n, m)) for i, (n, m) in matrices.items()}
    Q = {i: np.random.default_rng([3, i]).standard_normal((m, rank)) for i, (_, m) in matrices.items()}
    momenta, adams = [np.zeros(shape) for shape in SHAPES], [Adam() for _ in SHAPES]
    for of_step in gradients(workers):
        for i, g in enumerate(of_step):
            g = g.astype(float)
            update = g.mean(axis=0)
            if i in matrices:
                M = g.reshape(workers, *matrices[i]) + errors[i]
                # Gram-Schmidt gives the Q of the QR decomposition, but for signs, which P Q^T does not see.
                P = np.linalg.qr(np.mean([m @ Q[i] for m in M], axis=0))[0]
                Q[i] = np.mean([m.T @ P for m in M], axis=0)
                errors[i] = M - P @ Q[i].T
                update = (P @ Q[i].T).reshape(SHAPES[i])
            if then == "adam":
                weights[i] -= RATE * adams[i](update)
            else:
                momenta[i] = 0.9 * momenta[i] + update
                weights[i] -= RATE * (update + momenta[i])
    check(found, weights)
    whole = {1: 6, 3: 6 + 48}[rank]
    assert rival.message_bytes == 4 * (whole + rank * sum(sum(shape) for shape in matrices.values()))
    kept = 174 * (2 if then == "adam" else 1) + sum(n * m + m * rank for n, m in matrices.values())
    assert rival.state_floats == kept


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
def test_one_bit_adam(workers):
    from rivals import OneBitAdam

    rival = OneBitAdam(RATE, STEPS, 3)
    found = played(rival, workers)

    def bits(x):
        return np.where(x < 0, -1.0, 1.0) * np.linalg.norm(x) / np.sqrt(x.size)

    weights = [np.zeros(shape) for shape in SHAPES]
    m, v, server = ([np.zeros(shape) for shape in SHAPES] for _ in range(3))
    errors = [np.zeros((workers, *shape)) for shape in SHAPES]
    for t, of_step in enumerate(gradients(workers)):
        for i, g in enumerate(of_step):
            g = g.astype(float)
            if t < 3:
                m[i] = 0.9 * m[i] + 0.1 * g.mean(axis=0)
                v[i] = 0.99 * v[i] + 0.01 * g.mean(axis=0) ** 2
            else:
                total = server[i].copy()
                for k in range(workers):
                    z = 0.9 * m[i] + 0.1 * g[k] + errors[i][k]
                    errors[i][k] = z - bits(z)
                    total += bits(z) / workers
                m[i] = bits(total)
                server[i] = total - m[i]
            weights[i] -= RATE * m[i] / (np.sqrt(v[i]) + 1e-7)
    check(found, weights)
    frozen = 8 + 1 + 6 + 8 + 4 * 4
    assert rival.frozen_bytes == frozen and rival.message_bytes == (3 * 4 * 174 + 4 * frozen) / STEPS
    assert rival.state_floats == 174 * (3 if workers == 1 else 3.5)


def test_one_bit_adam_leaves_weights_without_a_gradient_alone():
    from rivals import OneBitAdam

    rival, variable = OneBitAdam(RATE, 4, 2), tf.Variable(tf.zeros([3]))
    rival.build([variable], 1)
    for _ in range(4):
        rival.apply([tf.constant([[1.0, 0.0, -1.0]])])
    assert variable.numpy()[1] == 0.0 and np.all(variable.numpy()[[0, 2]] != 0.0)


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
def test_demo(workers):
    from rivals import DeMo

    rival = DeMo(RATE, top=3, decay=0.9, chunk=5)
    found = played(rival, workers)
    # [n, m], and the largest divisors up to 5.
    cuts = [(10, 6, 5, 3), (1, 6, 1, 3), (4, 12, 4, 4), (10, 6, 5, 3)]
    assert [tuple(rival.chunks(i)) for i in range(4)] == cuts

    def dct(x):  # from the definition, one axis after the other
        for axis in (0, 1):
            n, y = x.shape[axis], np.moveaxis(x, axis, 0)
            rows = [sum(y[j] * math.cos(math.pi * (j + 0.5) * k / n) for j in range(n)) for k in range(n)]
            scale = [math.sqrt((1 if k == 0 else 2) / n) for k in range(n)]
            x = np.moveaxis(np.array([s * row for s, row in zip(scale, rows)]), 0, axis)
        return x

    def inverse(c):  # orthonormal: by the transposed matrix, column after column
        basis = [dct(one.reshape(c.shape)).ravel() for one in np.eye(c.size)]
        return (np.array(basis) @ c.ravel()).reshape(c.shape)

    weights = [np.zeros(cut[:2]) for cut in cuts]
    momenta = [np.zeros((workers, *cut[:2])) for cut in cuts]
    for of_step in gradients(workers):
        for i, (n, m, a, b) in enumerate(cuts):
            total = np.zeros((n, m))
            for k in range(workers):
                momenta[i][k] = 0.9 * momenta[i][k] + of_step[i][k].reshape(n, m)
                for row in range(0, n, a):
                    for column in range(0, m, b):
                        place = (k, slice(row, row + a), slice(column, column + b))
                        c = dct(momenta[i][place])
                        q = inverse(top(c.ravel(), min(3, a * b)).reshape(a, b))
                        momenta[i][place] -= q
                        total[place[1:]] += q / workers
            weights[i] -= RATE * np.sign(np.where(np.abs(total) < 1e-9, 0.0, total))
    check(found, weights)
    sent = 3 * (4 + 2 + 3 + 4)
    assert rival.message_bytes == 12 * sent
    assert rival.packed_bytes == (sent * 32 + 3 * (4 * 4 + 2 * 2 + 3 * 4 + 4 * 4)) / 8
    assert rival.state_floats == 174


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
def test_galore(workers):
    from rivals import GaLore

    rival = GaLore(RATE, 2, every=3, scale=0.5, outside=("layer2",))
    found = played(rival, workers, SHAPES[:3])
    weights, adams = [np.zeros(shape) for shape in SHAPES[:3]], [Adam() for _ in range(3)]
    for t, of_step in enumerate(gradients(workers)):
        for i, g in enumerate(of_step[:3]):
            G = g.astype(float).mean(axis=0)
            if i:
                weights[i] -= RATE * adams[i](G)
                continue
            if t % 3 == 0:  # 10 x 6: the right singular vectors, the largest entry of each positive
                V = np.linalg.svd(G)[2][:2].T
                V = V * np.sign(V[np.argmax(np.abs(V), axis=0), [0, 1]])
            weights[i] -= RATE * 0.5 * adams[i](G @ V) @ V.T
    check(found, weights)
    assert rival.message_bytes == 4 * (60 + 6 + 48)
    assert rival.state_floats == 6 * 2 + 2 * 2 * 10 + 2 * (6 + 48)


@needs_keras_3
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_apollo(workers, whole):
    from rivals import Apollo

    rank = 1 if whole else 3
    rival = Apollo(RATE, rank, scale=0.5, whole=whole, every=3, seed=2)
    found = played(rival, workers, SHAPES[:3])
    P = {i: [rival.projection(i, draw).numpy().astype(float) for draw in range(3)] for i in (0, 2)}
    assert (
        P[0][0].shape == (rank, 6) and not np.allclose(P[0][0], P[0][1]) and not np.allclose(P[0][0][:, :4], P[2][0])
    )
    weights, adams, before = [np.zeros(shape) for shape in SHAPES[:3]], [Adam() for _ in range(3)], {}
    for t, of_step in enumerate(gradients(workers)):
        for i, g in enumerate(of_step[:3]):
            G = g.astype(float).mean(axis=0)
            if i == 1:
                weights[i] -= RATE * adams[i](G)
                continue
            G = G.T if i == 0 else G
            R = P[i][t // 3] @ G
            scaled = adams[i](R)
            if whole:
                U = 0.5 * G * np.linalg.norm(scaled) / np.linalg.norm(R)
            else:
                U = 0.5 * G * np.linalg.norm(scaled, axis=0) / np.linalg.norm(R, axis=0)
            if i in before and np.linalg.norm(U) > 1.01 * before[i]:
                U *= 1.01 * before[i] / np.linalg.norm(U)
            before[i] = np.linalg.norm(U)
            weights[i] -= RATE * (U.T if i == 0 else U)
    check(found, weights)
    assert rival.state_floats == 2 * rank * (10 + 12) + 2 + 2 * 6


# --- simulated workers -------------------------------------------------------------------------------------------


@needs_keras_3
@pytest.mark.parametrize("redraw_every", [0, 1])
def test_workers_of_a_subspace_optimizer(redraw_every):
    from simulated import Mean, Subspace, simulated

    def make():
        return presets.small_messages(RATE, 1 / 16, redraw_every=redraw_every, update="mean", wire="float32")

    assert isinstance(simulated(make(), 2), Subspace) and isinstance(simulated(make(), 1), Mean)
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    for workers in (1, 2):
        variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in SHAPES]
        ours = Subspace(make())
        ours.build(variables, workers)
        references = [Worker(sizes, 1 / 16, "float32", 1.0, 0, bool(redraw_every)) for _ in range(workers)]
        weights = [np.zeros(n) for n in sizes]
        step = tf.function(ours.apply)
        for t, of_step in enumerate(gradients(workers)):
            step([tf.constant(g) for g in of_step])
            for k, reference in enumerate(references):
                for i, u in enumerate(reference.step([g[k].ravel().astype(float) for g in of_step], t)):
                    weights[i] -= RATE * u / workers
        check([v.numpy() for v in variables], weights)


@needs_keras_3
def test_simulated_workers_in_groups():
    from compression_reference import Groups as Reference
    from simulated import Subspace, simulated

    from rbd_ipu.parallel.workers import Groups

    sizes = [int(np.prod(shape)) for shape in SHAPES]
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in SHAPES]
    ours = simulated(presets.small_messages(RATE, 1 / 16, update="mean", wire="float32"), 4, Groups(2, 2))
    assert isinstance(ours, Subspace)
    ours.build(variables, 4)
    reference = Reference(4, 2, 2, sizes, 1 / 16, "float32", 1.0, 0, False)
    weights, step = np.zeros(sum(sizes)), tf.function(ours.apply)
    for t, of_step in enumerate(gradients(4)):
        step([tf.constant(g) for g in of_step])
        weights -= RATE * reference.step([[g[k].ravel().astype(float) for g in of_step] for k in range(4)], t)
    check([v.numpy() for v in variables], np.split(weights, np.cumsum(sizes)[:-1]))
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        simulated(presets.small_messages(RATE, 1 / 16), 6, Groups(2, 2)).build(variables, 6)
    with pytest.raises(ValueError, match="groups are for a SubspaceOptimizer with state='full', got Adam"):
        simulated(keras.optimizers.Adam(), 4, Groups(2, 1))


@needs_keras_3
def test_one_simulated_worker_is_the_optimizer_itself():
    from simulated import Mean, Subspace

    found = []
    for kind in (Mean, Subspace):
        model, optimizer = dense(), kind(presets.small_messages(0.01, 1 / 16))
        optimizer.build(model.trainable_variables, 1)
        generator = np.random.default_rng(0)
        for _ in range(3):
            drawn = [generator.standard_normal((1, *v.shape)).astype(np.float32) for v in model.trainable_variables]
            optimizer.apply([tf.constant(g[0] if kind is Mean else g) for g in drawn])
        found.append(flat(model))
    assert np.array_equal(*found)


@needs_keras_3
def test_workers_are_not_simulated_for_what_they_would_change():
    from simulated import Mean, Subspace, simulated

    with pytest.raises(ValueError, match="without include and exclude"):
        Subspace(presets.small_messages(0.01, exclude="*"))
    assert isinstance(simulated(presets.small_state(0.01), 4), Mean)  # linear up to the mean


# --- the scripts -------------------------------------------------------------------------------------------------

SMALL = ["--layers", "1", "--width", "8", "--heads", "2", "--context", "8", "--batch", "2"]


def run(monkeypatch, *words):
    import language_model

    monkeypatch.setattr(sys, "argv", ["language_model.py", *SMALL, "--data", "shakespeare_excerpt", *words])
    language_model.main()


@needs_keras_3
def test_the_rate_is_bracketed_and_other_seeds_take_the_best(tmp_path, monkeypatch, capsys):
    import comparison
    import language_model

    losses = {0.125: 3.0, 0.25: 2.0, 0.5: 1.5, 1.0: math.nan}
    asked = []

    def train(recipe, rate, steps, seed, data, options):
        asked.append((rate, seed))
        about = {"D": 100, "bytes_a_step": 400.0, "state_floats": 200.0, "seconds_a_step": 1.0}
        return {**about, "validation_loss": losses[rate] + 0.1 * seed}

    monkeypatch.setattr(language_model, "train", train)
    output = tmp_path / "rows.jsonl"
    words = ["--recipe", "adam", "--rate", "2**-2", "--bracket", "--seeds", "2", "--output", str(output)]
    run(monkeypatch, *words)
    assert asked == [(0.25, 0), (0.125, 0), (0.5, 0), (1.0, 0), (0.5, 1)]
    assert "rate 1 steps 1000 seed 0: diverged" in capsys.readouterr().out
    run(monkeypatch, *words)  # all of it is there
    assert len(asked) == 5
    run(monkeypatch, *words, "--workers", "4")
    assert len(asked) == 10
    rows = language_model.rows_of(output)
    assert [row["workers"] for row in rows] == [1] * 5 + [4] * 5 and rows[3]["validation_loss"] is None
    text = comparison.losses(rows)
    assert "| 2^-3 to 2^0; diverged from 2^0 | 2^-1 | 2 | 1.550 ± 0.071 |" in text and text.count("adam") == 2
    assert comparison.of_the_package(rows).count("adam") == 1


def test_rows_from_before_there_were_workers_stay_valid():
    import language_model

    row = dict.fromkeys(language_model.KEY, 1)
    for name in ("workers", "group_size", "group_levels"):
        old = {key: value for key, value in row.items() if key != name}
        assert language_model.key_of(row) == language_model.key_of(old) != language_model.key_of({**row, name: 4})


def test_groups_have_lines_of_their_own():
    import comparison

    row = {"D": 9, "steps": 5, "recipe": "largest", "bytes_a_step": 2, "rate": 0.5, "validation_loss": 1.5}
    row.update(state_floats=9, note="", workers=16)
    grouped = [{**row, "group_size": 4, "group_levels": levels, "validation_loss": 1.5 + levels} for levels in (1, 2)]
    text = comparison.losses([row, *grouped])
    for workers, loss in (("16", 1.5), ("16 in groups of 4", 2.5), ("16 in groups of 4, 2 levels", 3.5)):
        assert f"| {workers} | largest" in text and f"| {loss:.3f} |" in text


@needs_keras_3
@pytest.mark.parametrize(
    "recipe",
    ["largest", "powersgd-1", "demo-8"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "top-k-momentum", "1-bit-adam", "galore")],
)
def test_a_step_of_two_workers(recipe, tmp_path):
    import language_model

    options = language_model.ARGUMENTS.parse_args([*SMALL, "--workers", "2"])
    ready = language_model.prepare(language_model.RECIPES[recipe], 0.01, 10, 0, 8, 5, options)
    x, y = language_model.draw(np.arange(100) % 5, 8, 4, np.random.default_rng(0), 3)
    before = flat(ready.model)
    losses = ready.run(x, y).numpy()
    assert losses.shape == (3,) and np.all(np.isfinite(losses)) and np.all(np.isfinite(flat(ready.model)))
    assert not np.array_equal(before, flat(ready.model))
    assert ready.bytes_a_step(language_model.RECIPES[recipe]) > 0


@needs_keras_3
def test_two_workers_with_the_mean_are_one_with_both_batches():
    import language_model

    found = []
    for workers in (1, 2):
        words = [*SMALL, "--workers", str(workers), "--batch", str(4 // workers)]
        options = language_model.ARGUMENTS.parse_args(words)
        ready = language_model.prepare(language_model.RECIPES["sgd-momentum"], 0.5, 10, 0, 8, 5, options)
        x, y = language_model.draw(np.arange(100) % 5, 8, 4, np.random.default_rng(0), 3)
        ready.run(x, y)
        found.append(flat(ready.model))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


@needs_keras_3
def test_every_recipe_makes_its_optimizer():
    import language_model

    made = language_model.Made(0.01, 100, 10_000, 1_000, 0, 16)
    for name, recipe in language_model.RECIPES.items():
        optimizer = recipe.make(made)
        assert hasattr(optimizer, "apply"), name
        assert recipe.sent(made) > 0 and recipe.state(made) >= 0


def test_modelled_times_and_pictures(tmp_path):
    import comparison

    assert comparison.step_seconds(0.5, 1e6, 1, True, 10) == 0.5  # one worker sends nothing
    cost = {"measured": "cost", "D": 100, "recipe": "adam", "bytes_a_step": 400.0, "ms": 10.0}
    cost.update(ms_quartiles=[9.0, 11.0], peak_bytes=2**30)
    text = comparison.costs([cost, {**cost, "recipe": "demo-8", "bytes_a_step": 1e5}])
    assert "| 100 | demo-8 | 100,000 | all-gather | 10 (9 to 11) | 1,024 | 250 |" in text  # 3 x 80 ms
    with pytest.raises(KeyError):
        comparison.costs([])
    run = {"D": 100, "steps": 1000, "recipe": "adam-dense", "rate": 0.5, "note": "", "seed": 0, "state_floats": 200.0}
    rows = [{**run, "bytes_a_step": 400.0, "validation_loss": 2.0}]
    rows.append({**rows[0], "recipe": "demo-8", "bytes_a_step": 40.0, "validation_loss": None})
    pytest.importorskip("matplotlib")
    comparison.draw(rows, tmp_path)
    pictures = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(pictures) == {"comparison-bytes.svg", "comparison-state.svg"}
    assert all(">Adam<" in text and ">DeMo<" not in text for text in pictures.values())
