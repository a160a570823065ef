"""Compressed descent in the Trainer: steps of the reference, workers, memories in checkpoints."""

import numpy as np
import pytest
from compression_reference import Groups, Worker
from marks import slow_but
from nets import blobs, dense, flat, gradient, set_flat
from reference import close

import rbd_ipu
from rbd_ipu import checkpoints, methods
from rbd_ipu._compat import tf
from rbd_ipu.checkpoints.file import CheckpointError

RATE = 2.0**-5


def trainer(workers=1, **options):
    device = rbd_ipu.open_device("cpu", simulate_workers=workers)
    settings = {"learning_rate": RATE, "fraction": 0.1, "seed": 5, **options}
    return rbd_ipu.Trainer(dense(), methods.create("compressed", **settings), device)


def data(batch_size=32):
    x, y = blobs(192)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)


OFTEN = [(0, None, 2), (1, None, 1), (2, None, 2), (2, 0.9, 1), (2, 0.9, 2)]
REST = [(0, None, 1), (1, None, 2), (2, None, 1)]


@pytest.mark.parametrize("redraw_every, second_moment, workers", slow_but(OFTEN, OFTEN + REST))
def test_steps_are_those_of_the_reference(workers, redraw_every, second_moment):
    # All coordinates with a second moment: at first g / sqrt(v) is +-1, and many coordinates are as large as others.
    fraction, bits = (0.1, "sign") if second_moment is None else (1.0, "float32")
    options = {"redraw_every": redraw_every, "second_moment": second_moment, "fraction": fraction, "bits": bits}
    t, (x, y) = trainer(workers, update="mean", **options), blobs(192)
    t.fit(data(), epochs=1, verbose=0)
    twin = dense()
    sizes = [int(np.prod(v.shape)) for v in twin.trainable_variables]
    known = [Worker(sizes, fraction, bits, 1.0, 5, redraw_every > 0, second_moment) for _ in range(workers)]
    steps = 6 // workers
    for step in range(steps):
        parts = []
        for k, worker in enumerate(known):
            batch = slice(32 * (step * workers + k), 32 * (step * workers + k + 1))
            g = np.split(gradient(twin, x[batch], y[batch]), np.cumsum(sizes)[:-1])
            parts.append(np.concatenate(worker.step(g, step // max(1, redraw_every))))
        set_flat(twin, flat(twin) - RATE * np.mean(parts, axis=0))
    assert t.step == steps
    close(flat(t.model) - flat(dense()), flat(twin) - flat(dense()), 1e-3)


@pytest.mark.parametrize("workers, size, levels, options, steps", [
    (4, 2, 1, {"bits": "float32", "redraw_every": 0}, 6),
    (8, 2, 2, {"bits": "float32", "redraw_every": 2, "memory": 0.5}, 3),
    pytest.param(4, 4, 1, {"bits": "float32", "memory": None}, 6, marks=pytest.mark.slow),
    pytest.param(4, 2, 2, {"bits": "sign"}, 1, marks=pytest.mark.slow),
    (4, 4, 1, {"bits": "int8", "redraw_every": 0}, 1),
])  # fmt: skip
def test_groups_are_those_of_the_reference(workers, size, levels, options, steps):
    """With few bits one step, from random memories: many coordinates of a mean are as large as others."""
    settings = {"memory": 1.0, "redraw_every": 1, **options}
    grouped = {"group_size": size, "group_levels": levels}
    t, (x, y) = trainer(workers, **settings, **grouped, update="mean"), blobs(192)
    twin, redrawn = dense(), settings["redraw_every"]
    sizes = [int(np.prod(v.shape)) for v in twin.trainable_variables]
    of_all = (sizes, 0.1, settings["bits"], settings["memory"], 5, redrawn > 0)
    groups, rng, saved = Groups(workers, size, levels, *of_all), np.random.default_rng(0), t.method.saved()
    named = {"memory": groups.workers, **{f"leaders_{i}_memory": row for i, row in enumerate(groups.leaders, 1)}}
    for i, n in enumerate(sizes if saved else []):
        for name, members in named.items():
            if steps == 1:
                saved[f"{name}_{i:04}"].assign(rng.standard_normal((len(members), n)).astype(np.float32) / 30)
            for one, row in zip(members, saved[f"{name}_{i:04}"].numpy()):
                one.memory[i] = row.astype(np.float64)
    t.fit(data(8).take(steps * workers), epochs=1, verbose=0)
    for step in range(steps):
        gradients = []
        for k in range(workers):
            batch = slice(8 * (step * workers + k), 8 * (step * workers + k + 1))
            gradients.append(np.split(gradient(twin, x[batch], y[batch]), np.cumsum(sizes)[:-1]))
        set_flat(twin, flat(twin) - RATE * groups.step(gradients, step // max(1, redrawn)))
    assert t.step == steps
    close(flat(t.model) - flat(dense()), flat(twin) - flat(dense()), 1e-3)
    for name, members in named.items() if saved else ():
        found = np.concatenate([saved[f"{name}_{i:04}"].numpy() for i in range(len(sizes))], axis=1)
        close(found, [np.concatenate(one.memory) for one in members], 1e-3)


def test_what_a_leader_does_not_pass_on_is_not_lost():
    """With a whole memory: what was applied, and what is in memories, is the sum of the mean gradients."""
    t = trainer(4, group_size=2, update="mean", bits="float32", learning_rate=1e-3, redraw_every=0)
    memories = t.method.saved()
    rng, applied, total = np.random.default_rng(0), 0.0, 0.0

    class Fixed:
        def gradient(self, g):
            return g

    for step in range(5):
        gradients = rng.standard_normal((4, t.method.size)).astype(np.float32)
        total = total + gradients.mean(axis=0)
        sent = [t.method.message(Fixed(), tf.constant(g), tf.constant(step), k) for k, g in enumerate(gradients)]
        passed = [t.method.pass_on(tf.stack(sent[2 * i : 2 * i + 2]), tf.constant(step), 1, i) for i in range(2)]
        applied = applied + t.method.update(tf.stack(passed), tf.constant(step)).numpy()
    kept = [
        np.concatenate([memories[f"{name}_{i:04}"].numpy().mean(axis=0) for i in range(len(memories) // 2)])
        for name in ("memory", "leaders_1_memory")
    ]
    close(applied + sum(kept), total, 1e-5)


@pytest.mark.slow
def test_memories_of_leaders_are_in_a_checkpoint(tmp_path):
    grouped = {"group_size": 2, "group_levels": 2}
    whole, first, resumed = (trainer(4, **grouped) for _ in range(3))
    whole.fit(data(8), epochs=3, verbose=0)
    first.fit(data(8), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", first)
    start = checkpoints.restore(resumed, checkpoints.load(tmp_path / "a"))
    resumed.fit(data(8), epochs=3, verbose=0, start=start)
    np.testing.assert_array_equal(flat(whole.model), flat(resumed.model))
    for name, rows in whole.method.saved().items():
        np.testing.assert_array_equal(rows.numpy(), resumed.method.saved()[name].numpy())
    shapes = {name: rows.shape[0] for name, rows in whole.method.saved().items()}
    assert [shapes[f"{name}0000"] for name in ("memory_", "leaders_1_memory_", "leaders_2_memory_")] == [4, 2, 1]
    with pytest.raises(CheckpointError, match="group_levels is 2 there and None here"):
        checkpoints.restore(trainer(4, group_size=2), checkpoints.load(tmp_path / "a"))


def test_without_groups_a_checkpoint_says_nothing_of_them(tmp_path):
    """So it is the same as one that was written before there were groups."""
    checkpoints.save(tmp_path / "a", trainer(2))
    assert not [name for name in checkpoints.load(tmp_path / "a").method if name.startswith("group")]


def test_memories_are_in_a_checkpoint(tmp_path):
    whole, first, resumed = (trainer(3) for _ in range(3))
    whole.fit(data(), epochs=3, verbose=0)
    first.fit(data(), epochs=1, verbose=0)
    checkpoints.save(tmp_path / "a", first)
    start = checkpoints.restore(resumed, checkpoints.load(tmp_path / "a"))
    resumed.fit(data(), epochs=3, verbose=0, start=start)
    np.testing.assert_array_equal(flat(whole.model), flat(resumed.model))
    with pytest.raises(CheckpointError, match="of another shape: memory_0000|memory_0000 is float32"):
        checkpoints.restore(trainer(2), checkpoints.load(tmp_path / "a"))


def test_without_memory_nothing_is_kept():
    t = trainer(memory=None, update="mean")
    t.fit(data(), epochs=1, verbose=0)
    assert t.method.slots == {}


@pytest.mark.parametrize("options, words", [
    ({"update": "median"}, "unknown update 'median'; accepted: 'mean', 'sign'"),
    ({"bits": "two"}, "unknown wire 'two'"),
    ({"inner": "adam", "momentum": 0.5}, "momentum=0.5 is for inner='sgd', got inner='adam'"),
    ({"inner": "adagrad"}, "unknown inner 'adagrad'; accepted with Keras"),
    ({"fraction": 0.0}, r"fraction must be in \(0, 1\]"),
    ({"fraction": 0.5, "select": "all"}, "with select='all' dim must be .* got dim=None, fraction=0.5"),
    ({"group_size": 0}, "group_size must be .*0"),
    ({"group_levels": 2}, "group_levels=2 is for groups, of a group_size of 2 and more; got group_size=1"),
    ({"workers": 6, "group_size": 4}, "group_size=4 needs a number of workers that is a multiple of 4, got 6"),
    ({"workers": 4, "group_size": 4, "group_levels": 2}, "with group_levels=2 needs .* a multiple of 16, got 4"),
])  # fmt: skip
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        trainer(**options)


@pytest.mark.parametrize("options, words", [
    ({"parallel": "same-data"}, "use parallel='own' and wire='float32', not 'same-data'"),
    ({"wire": "int8"}, "not 'own' and 'int8'"),
    ({"exchange": "update"}, "has no step of a single worker to average"),
])  # fmt: skip
def test_plans_that_do_not_fit(options, words):
    device = rbd_ipu.open_device("cpu", simulate_workers=2, **options)
    with pytest.raises(ValueError, match=words):
        rbd_ipu.Trainer(dense(), methods.create("compressed", learning_rate=RATE), device)


def test_groups_of_one_worker_are_refused_before_the_first_step():
    t = trainer(1, group_size=4)
    with pytest.raises(ValueError, match="group_size=4 needs a number of workers that is a multiple of 4, got 1"):
        t.fit(data(), epochs=1, verbose=0)
    assert t.step == 0


def test_groups_of_devices_are_refused():
    device = rbd_ipu.open_device("cpu", simulate_workers=2)
    device.exchange.grouped = False
    with pytest.raises(ValueError, match="is for simulate_workers and for workers of MPI .* another kind"):
        rbd_ipu.Trainer(dense(), methods.create("compressed", learning_rate=RATE, group_size=2), device)


def test_groups_are_for_this_method():
    with pytest.raises(TypeError, match="method 'sgd' does not take group_size"):
        methods.create("sgd", learning_rate=RATE, group_size=2)


def test_a_group_meets_a_number_that_is_not_finite():
    """The message of its leader says so, and no memory takes it up."""
    t = trainer(4, group_size=2)
    x, y = blobs(192)
    x[8:16] = np.inf  # the batch of worker 1
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
    before = flat(t.model)
    with pytest.raises(rbd_ipu.NonFiniteError):
        t.fit(batches, epochs=1, verbose=0)
    np.testing.assert_array_equal(flat(t.model), before)
    assert all(np.isfinite(rows.numpy()).all() for rows in t.method.saved().values())
