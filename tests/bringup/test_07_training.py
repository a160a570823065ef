"""Training on the device: the Trainer and Keras' own fit learn real digits, by every method."""

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import data, methods, models
from rbd_ipu._compat import keras
from rbd_ipu.devices.ipu.lint.trace import NEEDED
from rbd_ipu.methods import METHODS

pytestmark = pytest.mark.ipu

BATCH = 32
RATES = {"sgd": 2.0**-3, "rbd": 2.0**2, "fpd": 2.0**2}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(device, digits, method, epochs):
    with device:
        model = models.build("fc", digits.shape, seed=0)
    trainer = rbd_ipu.Trainer(model, method, device=device)
    history = trainer.fit(digits.batches(BATCH, seed=0), epochs=epochs, verbose=0).history
    return trainer, history


@pytest.mark.parametrize("name", RATES)
def test_the_trainer_learns(device, digits, name):
    """The loss of the second epoch is below that of the first, every number is finite, the steps are counted."""
    options = {} if name == "sgd" else {"dim": 64}
    trainer, history = trained(device, digits, methods.create(name, learning_rate=RATES[name], **options), 2)
    assert history["loss"][1] < history["loss"][0] < 3
    assert np.isfinite(np.concatenate([w.ravel() for w in trainer.model.get_weights()])).all()
    assert trainer.step == history["step"][-1] > 0


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(RATES)))
def test_every_other_method_takes_steps(device, digits, name):
    """Methods that need many batches or forward passes a step compile, run, and change the weights."""
    accepted, _ = methods.base.options_of(METHODS.get(name))
    wanted = {"learning_rate": 2.0**-3, "dim": 4, **NEEDED.get(name, {})}
    method = methods.create(name, **{key: value for key, value in wanted.items() if key in accepted})
    fresh = models.build("fc", digits.shape, seed=0)
    method.build(fresh.trainable_variables)
    if device.exchange.workers > 1 and not method.parallel:
        pytest.skip(f"one replica only: {method.not_parallel_because}")
    trainer, history = trained(device, digits, method, 1)
    assert np.isfinite(history["loss"]).all()
    assert max(np.abs(a - b).max() for a, b in zip(trainer.model.get_weights(), fresh.get_weights())) > 0


def test_the_same_seed_trains_the_same_weights(device, digits):
    """Two runs from one seed end bit-equal: directions, data and arithmetic are all functions of it."""
    first, second = (
        trained(device, digits, methods.create("rbd", learning_rate=1.0, dim=64), 1)[0].model.get_weights()
        for _ in range(2)
    )
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_keras_fit_learns(device, description, digits):
    """model.compile(optimizer=RandomBasesDescent(...)) and model.fit train, without any of our loops."""
    steps = 8
    count = steps * BATCH * description.local_replicas
    x = np.resize(np.asarray(digits.train.images, np.float32), (count, *digits.shape)) / 255.0
    y = np.resize(np.asarray(digits.train.labels, np.int32), (count,))
    with device:
        model = models.build("fc", digits.shape, seed=0)
        model.compile(
            optimizer=rbd_ipu.RandomBasesDescent(1.0, dim=64),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=steps,
        )
        history = model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
