"""Compressed descent in the Trainer: steps of the reference, workers, memories in checkpoints."""

import numpy as np
import pytest
from compression_reference import Worker
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


def data():
    x, y = blobs(192)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("redraw_every", [0, 1, 2])
def test_steps_are_those_of_the_reference(workers, redraw_every):
    t, (x, y) = trainer(workers, redraw_every=redraw_every, update="mean"), blobs(192)
    t.fit(data(), epochs=1, verbose=0)
    twin = dense()
    sizes = [int(np.prod(v.shape)) for v in twin.trainable_variables]
    known = [Worker(sizes, 0.1, "sign", 1.0, 5, redraw_every > 0) for _ in range(workers)]
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
