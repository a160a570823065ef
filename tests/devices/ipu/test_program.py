"""The Trainer on IPUs, through the stand-in: Algorithm 1 step by step, every method, replicas, validation."""

import numpy as np
import pytest
from ipu_algorithm import run
from nets import blobs, dense, flat
from reference import close

import rbd_ipu
from rbd_ipu import data, methods, models
from rbd_ipu._compat import keras, tf

DIM = 20
slow = pytest.mark.slow  # traces a program more, of a kind that another test runs


def dataset(x, y, batch=32):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)


def split(x, y, batch=32):
    return [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]


class Watch(keras.callbacks.Callback):
    """Keeps the weights after every call of the loop."""

    def __init__(self):
        super().__init__()
        self.thetas = []

    def on_train_batch_end(self, batch, logs=None):
        self.thetas.append(flat(self.model))


def trainer_of(device, name="rbd", **options):
    with device:
        model = dense()
    options = {"learning_rate": 2.0, "dim": DIM, "seed": 7, **options}
    return rbd_ipu.Trainer(model, methods.create(name, **options), device)


@pytest.mark.parametrize(
    "name, replicas, options",
    [
        ("rbd", 1, {}),
        ("rbd", 4, {}),
        ("fpd", 2, {"momentum": 0.5}),
        pytest.param(
            "rbd", 4, {"compartments": "layer", "distribution": "rademacher", "redraw_every": 2}, marks=slow
        ),
        pytest.param("fpd", 1, {"normalize": "expected"}, marks=slow),
    ],
)
def test_every_step_is_that_of_algorithm_1(open_ipu, name, replicas, options):
    """Weights after each of five steps, against float64; two blocks of directions each, so that both are drawn."""
    device, machine = open_ipu(replicas, steps_per_execution=1, block_floats=214 * DIM // 2)
    x, y = blobs(5 * 32 * replicas)
    trainer, watch = trainer_of(device, name, **options), Watch()
    trainer.fit(dataset(x, y), epochs=1, verbose=0, callbacks=[watch])
    assert trainer.method.subspace.source == f"poprand:{214 * DIM // 2}"
    expected = run(dense(), trainer.method, split(x, y), replicas, momentum=options.get("momentum", 0.0))
    assert len(watch.thetas) == 5
    for found, theta in zip(watch.thetas, expected):
        close(found - flat(dense()), theta - flat(dense()), 1e-4)
    for variable in trainer.model.trainable_variables:
        everywhere = machine.weights(variable)
        assert everywhere.shape[0] == replicas
        np.testing.assert_array_equal(everywhere, np.broadcast_to(everywhere[:1], everywhere.shape))


@pytest.mark.parametrize("popdist", [False, True], ids=["IPUStrategy", "PopDistStrategy"])
def test_one_basis_for_all_replicas(open_ipu, popdist):
    device, _ = open_ipu(2, popdist, parallel="shared")
    x, y = blobs(5 * 32 * 2)
    trainer = trainer_of(device)
    trainer.fit(dataset(x, y), epochs=1, verbose=0)
    expected = run(dense(), trainer.method, split(x, y), 2, shared=True)[-1]
    close(flat(trainer.model) - flat(dense()), expected - flat(dense()), 1e-4)


def test_one_replica_is_the_cpu_with_the_same_directions(open_ipu):
    """The program for an IPU and the loop of a CPU, with source poprand on both."""
    device, _ = open_ipu()
    x, y = blobs()
    there = trainer_of(device)
    there.fit(dataset(x, y), epochs=2, verbose=0)
    method = methods.create("rbd", learning_rate=2.0, dim=DIM, seed=7, source="poprand")
    here = rbd_ipu.Trainer(dense(), method, "cpu")
    here.fit(dataset(x, y), epochs=2, verbose=0)
    close(flat(there.model) - flat(dense()), flat(here.model) - flat(dense()), 1e-5)


def test_what_is_measured_is_what_a_cpu_measures(open_ipu):
    device, _ = open_ipu()
    x, y = blobs()
    there = trainer_of(device).fit(dataset(x, y), (x[:100], y[:100]), epochs=1, verbose=0).history
    method = methods.create("rbd", learning_rate=2.0, dim=DIM, seed=7, source="poprand")
    here = rbd_ipu.Trainer(dense(), method, "cpu").fit(dataset(x, y), (x[:100], y[:100]), epochs=1, verbose=0).history
    assert sorted(there) == sorted(here)
    for name in ("loss", "accuracy", "cosine", "correlation", "step", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "replicas, method",
    [
        (1, "rbd"),
        pytest.param(2, "rbd", marks=slow),
        pytest.param(1, "fpd", marks=slow),
        pytest.param(4, "rbd", marks=slow),
        pytest.param(2, "fpd", marks=slow),
        pytest.param(1, "sgd", marks=slow),
        pytest.param(2, "sgd", marks=slow),
    ],
)
def test_real_digits_are_learned(open_ipu, replicas, method):
    device, machine = open_ipu(replicas, steps_per_execution=100)
    digits = data.load("digits")
    with device:
        model = models.build("fc", digits.shape, seed=0)
    options = {"learning_rate": 2.0**-2} if method == "sgd" else {"learning_rate": 4.0, "dim": 64}
    trainer = rbd_ipu.Trainer(model, methods.create(method, **options), device)
    history = trainer.fit(
        digits.batches(32, seed=1), digits.evaluation("validation", 128), epochs=3, verbose=0
    ).history
    assert history["loss"][2] < history["loss"][0] < 3.0
    assert history["val_accuracy"][2] > 0.3
    steps = digits.batches(32).shard(0, replicas).steps_per_epoch
    assert history["step"] == [steps, 2 * steps, 3 * steps]
    # One call an epoch and two for the validation (full batches and what is left), each compiled once.
    assert machine.runs == 9 and len(machine.programs) == 3


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_from_settings_alone(standin, tmp_path, replicas):
    """What ``rbd-ipu train --set device=FILE`` does: settings, a description, and the same record of an epoch."""
    from rbd_ipu import config
    from rbd_ipu.runs import experiment

    path = tmp_path / "pod.yaml"
    path.write_text(f"device: ipu\nreplicas: {replicas}\n")
    with standin.installed():
        settings = {"device": str(path), "dim": 16, "epochs": 1, "learning_rate": 1.0}
        run_of = experiment.prepare(config.resolve(settings))
        history = run_of.fit(verbose=0).history
        assert np.isfinite([history[name][0] for name in ("loss", "val_loss", "val_accuracy")]).all()
        assert run_of.method.subspace.source == "poprand"
        assert run_of.test()["accuracy"] > 0


@pytest.mark.parametrize("name, options", [("nes", {"dim": 4}), ("hybrid", {"dim": 8})])
@pytest.mark.parametrize(
    "replicas, popdist", [(1, False), (2, True), pytest.param(2, False, marks=slow)], ids=["one", "popdist", "two"]
)
def test_methods_of_forward_passes_run_on_the_device(open_ipu, name, options, replicas, popdist):
    """The program of an IPU takes the steps that a CPU takes with the same directions."""
    x, y = blobs(32 * 4 * 2 * 2)
    device, machine = open_ipu(replicas, popdist)
    trainer = trainer_of(device, name, learning_rate=0.1, **options)
    history = trainer.fit(dataset(x, y), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    if replicas == 1:
        method = methods.create(name, learning_rate=0.1, seed=7, source="poprand", **options)
        here = rbd_ipu.Trainer(dense(), method, "cpu")
        here.fit(dataset(x, y), epochs=1, verbose=0)
        close(flat(trainer.model) - flat(dense()), flat(here.model) - flat(dense()), 1e-3)
    for variable in trainer.model.trainable_variables:
        everywhere = machine.weights(variable)
        np.testing.assert_array_equal(everywhere, np.broadcast_to(everywhere[:1], everywhere.shape))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_that_is_not_finite_ends_the_training(open_ipu, replicas):
    """It stands in the middle of a call: the weights are those before it, although the program ran on."""
    device, _ = open_ipu(replicas)
    x, y = blobs(10 * 32 * replicas)
    x[(3 * replicas + replicas - 1) * 32] = np.nan  # step 3, on the last replica
    trainer = trainer_of(device)
    with pytest.raises(rbd_ipu.NonFiniteError, match="not finite at step 3 "):
        trainer.fit(dataset(x, y), epochs=2, verbose=0)
    expected = run(dense(), trainer.method, split(x, y)[: 3 * replicas], replicas)[-1]
    close(flat(trainer.model) - flat(dense()), expected - flat(dense()), 1e-4)


def test_images_go_to_the_device_as_bytes(open_ipu):
    """The infeed's elements are uint8; the steps are those of float32 images."""
    from standin.queues import IPUOwnedIterator

    def images():
        return dense(inputs=(2, 3, 1))

    device, machine = open_ipu(2)
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (4 * 32, 2, 3, 1)).astype(np.uint8), rng.integers(0, 10, 128))
    with device:
        model = images()
    there = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=2.0), device)
    history = there.fit(data.Batches(split, 32, seed=5), data.evaluation(split, 64), epochs=1, verbose=0).history
    fed = [argument for _, _, arguments in machine.programs.values() for argument in arguments]
    kinds = [iterator.element_spec for iterator in fed if isinstance(iterator, IPUOwnedIterator)]
    assert [spec[0].dtype for spec in kinds] == [tf.uint8, tf.uint8]
    two = rbd_ipu.open_device("cpu", simulate_workers=2)
    here = rbd_ipu.Trainer(images(), methods.create("sgd", learning_rate=2.0), two)
    expected = here.fit(data.Batches(split, 32, seed=5), data.evaluation(split, 64), epochs=1, verbose=0).history
    close(flat(there.model) - flat(images()), flat(here.model) - flat(images()), 1e-5)
    assert history["val_loss"][0] == pytest.approx(expected["val_loss"][0], rel=1e-5)


def test_validation_counts_every_example_once(open_ipu):
    """Two full batches and a rest on four replicas: more replicas than batches, and a batch of a size of its own."""
    device, _ = open_ipu(4)
    x, y = blobs(77)
    trainer = trainer_of(device)
    found = [trainer.evaluate((x, y), batch_size=32) for _ in range(2)]
    expected = rbd_ipu.Trainer(dense(), methods.create("sgd", learning_rate=0.1), "cpu").evaluate((x, y))
    for values in found:
        assert values["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert values["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-7)


def test_replicas_that_drift_apart_are_found(open_ipu):
    device, machine = open_ipu(2)
    x, y = blobs(10 * 32 * 2)
    trainer = trainer_of(device)

    class Flip(keras.callbacks.Callback):
        every_batch = False  # after a call of five steps, as without it

        def on_train_batch_end(self, batch, logs=None):
            copy = machine.copies(self.model.trainable_variables[0])[0]
            copy.assign_add(tf.fill(copy.shape, 1e-6))

    from rbd_ipu.devices.ipu.device import ReplicaError

    with pytest.raises(ReplicaError, match="after step 5 of the epoch the weights of replicas .1,. differ"):
        trainer.fit(dataset(x, y), epochs=1, verbose=0, callbacks=[Flip()])
    device.check_replicas = False
    again = trainer_of(device)
    again.fit(dataset(x, y), epochs=1, verbose=0, callbacks=[Flip()])


def test_a_checkpoint_by_batch_shortens_all_calls_alike(open_ipu, tmp_path):
    """One program for all of them: steps_per_execution is 5, the epoch has 10 steps, a file is due every 4th."""

    class Seldom(Watch):
        every_batch = False

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            calls.append(batch + 1)

    calls, seldom = [], Seldom()
    device, _ = open_ipu(1)
    x, y = blobs(10 * 32)
    saver = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.h5"), save_weights_only=True, save_freq=4)
    trainer_of(device).fit(dataset(x, y), epochs=1, verbose=0, callbacks=[saver, seldom])
    assert calls == [2, 4, 6, 8, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4.h5", "8.h5"]
    for step in (4, 8):
        model = dense(5)
        model.load_weights(str(tmp_path / f"{step}.h5"))
        np.testing.assert_array_equal(flat(model), seldom.thetas[calls.index(step)])


@pytest.mark.parametrize("metrics", [None, ["accuracy"]])
def test_weights_and_keras_metrics_are_refused_before_the_first_step(open_ipu, metrics):
    device, _ = open_ipu()
    x, y = blobs(3 * 32)
    with device:
        model = dense()
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=metrics)
    trainer = rbd_ipu.Trainer(model, methods.create("sgd", learning_rate=0.1), device)
    parts = (x, y, np.ones(len(x), np.float32)) if metrics is None else (x, y)
    with pytest.raises(ValueError, match="has metrics, masks, sample weights .* the Trainer has one loss"):
        trainer.fit(tf.data.Dataset.from_tensor_slices(parts).batch(32, drop_remainder=True), epochs=1, verbose=0)
    assert trainer.step == 0
