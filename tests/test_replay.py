"""Replay logs: the weights of any step again, to the last bit; what is refused, and that nothing changes then."""

import hashlib
import struct

import numpy as np
import pytest
from marks import slow_but
from nets import blobs, dense, flat
from steps import normalising

import rbd_ipu
from rbd_ipu import checkpoints, methods, models, replay, training
from rbd_ipu._compat import keras
from rbd_ipu.data import load

# method, options, workers, how they share a step
# fmt: off
BITS = {
    "sign": ("compressed", {"redraw_every": 0, "momentum": 0.5}, 1, {}),
    "sign redrawn": ("compressed", {"fraction": 0.02}, 2, {}),
    "int8 adam": ("compressed", {"bits": "int8", "update": "mean", "inner": "adam", "redraw_every": 2}, 1, {}),
    "float32": ("compressed", {"bits": "float32", "redraw_every": 0, "update": "mean", "memory": None}, 2, {}),
    "groups": ("compressed", {"fraction": 0.02, "group_size": 2}, 4, {}),
    "rbd": ("rbd", {"dim": 20, "top_k": 9, "momentum": 0.5}, 1, {}),
    "rbd by layers": ("rbd", {"dim": 20, "compartments": "layer"}, 2, {}),
    "rbd split, sign": ("rbd", {"dim": 20, "distribution": "hadamard"}, 2, {"parallel": "split", "wire": "sign"}),
    "rbd sums": ("rbd", {"dim": 20, "sgd_layers": "logits", "sgd_learning_rate": 0.1}, 2, {"parallel": "shared"}),
    "fpd": ("fpd", {"dim": 20, "compartments": "layer", "momentum": 0.5}, 1, {}),
    "fpd int8": ("fpd", {"dim": 20}, 2, {"parallel": "shared", "wire": "int8"}),
}
# fmt: on
RATES = {"compressed": 2.0**-7, "rbd": 1.0, "fpd": 0.25}


def bits_of(model):
    return [np.asarray(v.numpy()).tobytes() for v in model.weights]


class Weights(keras.callbacks.Callback):
    """The bits of the weights after every call of the loop, by the number of steps."""

    every_batch = False

    def __init__(self, trainer):
        super().__init__()
        self.trainer = trainer
        self.of = {0: bits_of(trainer.model)}

    def on_train_batch_end(self, batch, logs=None):
        self.of[self.trainer.step] = bits_of(self.trainer.model)


def digits(name, log=None, workers=1, options=None, **plan):
    """A Trainer on the network for digits, by a method with options."""
    device = rbd_ipu.open_device("cpu", simulate_workers=workers, **plan)
    model = models.build("fc", shape=(8, 8, 1), seed=3)
    method = methods.create(name, **{"learning_rate": RATES[name], "seed": 5, **(options or {})})
    return rbd_ipu.Trainer(model, method, device, replay_log=log)


@pytest.fixture(scope="module")
def batches():
    data = load("digits")
    return data.batches(128, seed=0)


OFTEN = ("sign redrawn", "int8 adam", "groups", "rbd by layers", "rbd split, sign", "fpd int8")


@pytest.mark.parametrize("name", slow_but(OFTEN, BITS))
def test_the_weights_of_every_step_have_the_same_bits(name, batches, tmp_path, monkeypatch):
    method, options, workers, plan = BITS[name]
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)  # calls of one step: the weights of each are seen
    path = tmp_path / "a.log"
    trained = digits(method, replay.ReplayLog(path), workers, options, **plan)
    seen = Weights(trained)
    trained.fit(batches, epochs=2, callbacks=[seen], verbose=0)
    last = trained.step
    assert last == 2 * (9 // workers) and sorted(seen.of) == list(range(last + 1))
    for step in (None, 3):
        again = digits(method, None, 1, options)
        before = bits_of(again.model)
        found = replay.replay_weights(again, path, step)
        assert found.step == again.step == (last if step is None else step)
        assert bits_of(again.model) == seen.of[found.step] != before
        assert found.sha256 == replay.fingerprint([np.asarray(v.numpy()) for v in again.model.weights])
    assert found.total_bytes == path.stat().st_size and found.steps == last


def test_steps_with_a_log_are_those_without(batches, tmp_path):
    for name, options, tolerance in (("compressed", {"fraction": 0.02}, 0.0), ("rbd", {"dim": 20}, 1e-5)):
        one, other = digits(name, None, 1, options), digits(name, replay.ReplayLog(tmp_path / name), 1, options)
        for trainer in (one, other):
            trainer.fit(batches, epochs=1, verbose=0)
        np.testing.assert_allclose(flat(one.model), flat(other.model), rtol=0, atol=tolerance)


# --- a small network, for all that is not about numbers ------------------------------------------------------------


def small(log=None, name="rbd", model=None, workers=1, **options):
    settings = {"learning_rate": 0.5, "seed": 5, **({"dim": 8} if name in ("rbd", "fpd") else {}), **options}
    device = rbd_ipu.open_device("cpu", simulate_workers=workers)
    return rbd_ipu.Trainer(model or dense(), methods.create(name, **settings), device, replay_log=log)


def fitted(trainer, epochs=2, **options):
    trainer.fit(blobs(96), batch_size=16, epochs=epochs, verbose=0, **options)
    return trainer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the path of a log of 12 steps, the bits of the weights after them)."""
    path = tmp_path_factory.mktemp("log") / "a.log"
    return path, bits_of(fitted(small(replay.ReplayLog(path))).model)


def test_the_size_is_that_of_the_messages(made):
    log = replay.read_log(made[0])
    assert log.record_bytes == 4 * 8 + 8 and log.steps == 12 and log.rest == 0
    assert made[0].stat().st_size == log.start + 12 * log.record_bytes
    assert "12 steps, method rbd, workers 1, d = 8 of D = 214\n40 bytes a step: 1 x 32" in str(log)


def test_how_a_training_is_cut_into_calls_does_not_matter(made, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    trainer = fitted(small(replay.ReplayLog(tmp_path / "b.log")), epochs=1)
    fitted(trainer, epochs=2, initial_epoch=1)
    assert (tmp_path / "b.log").read_bytes() == made[0].read_bytes()


def test_a_log_goes_on_from_a_checkpoint(made, tmp_path):
    path = tmp_path / "b.log"
    first = fitted(small(replay.ReplayLog(path)), epochs=1)
    checkpoints.save(tmp_path / "state", first)
    fitted(first, epochs=2, initial_epoch=1)  # steps that the checkpoint does not know of
    path.write_bytes(path.read_bytes() + b"and a part of one more")
    assert replay.read_log(path).rest == 22
    resumed = small(replay.ReplayLog(path))
    start = checkpoints.restore(resumed, checkpoints.load(tmp_path / "state"))
    fitted(resumed, epochs=2, start=start)
    assert path.read_bytes() == made[0].read_bytes()
    damaged = bytearray(path.read_bytes())
    damaged[replay.read_log(path).start + 45] ^= 1
    path.write_bytes(bytes(damaged))
    again = small(replay.ReplayLog(path))
    start = checkpoints.restore(again, checkpoints.load(tmp_path / "state"))
    with pytest.raises(replay.ReplayError, match="step 1 is damaged"):
        fitted(again, epochs=2, start=start)
    assert path.read_bytes() == bytes(damaged)


def test_rates_that_a_callback_sets_are_in_the_log(tmp_path):
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: float(rate) / (epoch + 1))
    trained = fitted(small(replay.ReplayLog(tmp_path / "a"), momentum=0.9), epochs=3, callbacks=[callback])
    again = small(momentum=0.9)
    replay.replay_weights(again, tmp_path / "a")
    assert bits_of(again.model) == bits_of(trained.model)


def test_a_schedule_must_be_that_of_the_log(tmp_path):
    def schedule(first=0.5):
        return keras.optimizers.schedules.ExponentialDecay(first, 10, 0.5)

    trained = fitted(small(replay.ReplayLog(tmp_path / "a"), learning_rate=schedule()))
    again = small(learning_rate=schedule())
    replay.replay_weights(again, tmp_path / "a", step=12)
    assert bits_of(again.model) == bits_of(trained.model)
    other = small(learning_rate=schedule(0.25))
    before = bits_of(other.model)
    with pytest.raises(replay.ReplayError, match="step 0 is not finite, or the schedule .* than the 0.5 of the log"):
        replay.replay_weights(other, tmp_path / "a")
    assert bits_of(other.model) == before and other.step == 0


def test_a_step_that_is_not_finite_is_not_in_the_log(tmp_path):
    trainer = small(replay.ReplayLog(tmp_path / "a"))
    x, y = blobs(96)
    x[40] = 3e38  # its loss is none
    with pytest.raises(rbd_ipu.NonFiniteError):
        trainer.fit((x, y), batch_size=16, epochs=1, verbose=0)
    again = small()
    assert replay.replay_weights(again, tmp_path / "a").step == trainer.step < 6
    assert bits_of(again.model) == bits_of(trainer.model)


def test_damage_is_found_and_changes_nothing(made, tmp_path):
    path, data, start = tmp_path / "b", made[0].read_bytes(), replay.read_log(made[0]).start
    trainer = small()
    before = bits_of(trainer.model)

    def refused(content, words, step=None):
        path.write_bytes(content)
        with pytest.raises(replay.ReplayError, match=words):
            replay.replay_weights(trainer, path, step)
        assert bits_of(trainer.model) == before and trainer.step == 0

    def flipped(place):
        return bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]])

    for place in (0, 5, 16, 25, start // 2, start - 1):
        refused(flipped(place), "no replay log|header is")
    for step in (0, 7, 11):
        for place in (0, 3, 4, 20, 39):
            refused(flipped(start + 40 * step + place), f"step {step} is damaged: its checksum is")
    record = data[start : start + 40]
    refused(data[:start] + 12 * record, "step 1 is damaged")  # whole, in the wrong place
    refused(data[: start - 1], "header is cut off")
    refused(data[:17], "header is cut off")
    refused(data[:-1], "has 11 steps, and step 12 is asked for", 12)
    refused(b"", "begins with b''")
    refused(b"PK\x03\x04 something else", "no replay log of rbd_ipu: it begins with")
    refused(bytes([*data[:14], 9, *data[15:]]), "is of format 9, and this version of rbd_ipu knows formats 1 to 2")
    packed = b"not zlib"
    head = data[:15] + struct.pack("<I", len(packed)) + packed
    refused(head + hashlib.sha256(head).digest(), "header cannot be read")
    with pytest.raises(FileNotFoundError):
        replay.replay_weights(trainer, tmp_path / "nowhere")
    path.write_bytes(flipped(start + 40 * 7))
    assert replay.replay_weights(trainer, path, 7).step == 7  # what comes before the damage can be used


@pytest.mark.parametrize("trainer, words", [
    (lambda: small(model=dense(seed=7)), "is of a training with starting weights with SHA-256 .*, and here it is"),
    (lambda: small(model=dense(outputs=3)), "is of a method with D 214, and here it is 123"),
    (lambda: small(seed=6), "is of a method with seed 5, and here it is 6"),
    (lambda: small(name="fpd"), "is of a method with name 'rbd', and here it is 'fpd'"),
    (lambda: small(momentum=0.5), "momentum 0.0, and here it is 0.5"),
    (lambda: small(sgd_layers="dense*", sgd_learning_rate=0.1), "d 8, and here|no layer|all variables"),
    (lambda: fitted(small()), "begins at step 0, and the trainer is at step 12"),
])  # fmt: skip
def test_a_log_is_for_its_training_only(made, trainer, words):
    try:
        one = trainer()
    except ValueError as error:
        assert "all variables" in str(error)
        return
    before = bits_of(one.model)
    with pytest.raises(replay.ReplayError, match=words):
        replay.replay_weights(one, made[0])
    assert bits_of(one.model) == before


def test_a_log_of_compressed_says_its_update(tmp_path):
    fitted(small(replay.ReplayLog(tmp_path / "a"), "compressed"), epochs=1)
    with pytest.raises(replay.ReplayError, match="with update 'sign', and here it is 'mean'"):
        replay.replay_weights(small(name="compressed", update="mean"), tmp_path / "a")


def test_steps_that_are_not_there(made):
    for step, error, words in (
        (13, replay.ReplayError, "has 12 steps, and step 13 is asked for"),
        (-1, replay.ReplayError, "has 12 steps, and step -1 is asked for"),
        (2.0, TypeError, "step must be a whole number from 0, got 2.0"),
    ):
        with pytest.raises(error, match=words):
            replay.replay_weights(small(), made[0], step)
    trainer = small()
    before = bits_of(trainer.model)
    assert replay.replay_weights(trainer, made[0], 0).step == 0 and bits_of(trainer.model) == before


def test_a_file_is_never_written_over(made, tmp_path):
    path = tmp_path / "b"
    path.write_bytes(made[0].read_bytes())
    for trainer, words in (
        (small(replay.ReplayLog(path)), "holds 12 steps already, and the training is at step 0"),
        (small(replay.ReplayLog(path), seed=6), "with seed 5, and here it is 6"),
        (small(replay.ReplayLog(path), model=dense(seed=7)), "starting weights with SHA-256"),
        (small(replay.ReplayLog(path), workers=2), "workers 1, and here it is 2"),
    ):
        with pytest.raises(replay.ReplayError, match=words):
            fitted(trainer)
        assert trainer.step == 0 and path.read_bytes() == made[0].read_bytes()
    late = fitted(small(replay.ReplayLog(tmp_path / "c")))
    (tmp_path / "c").unlink()
    with pytest.raises(replay.ReplayError, match="is not there, and the training is at step 12"):
        fitted(late, epochs=3, initial_epoch=2)


@pytest.mark.parametrize("name, options, words", [
    ("sgd", {}, "for the methods rbd, fpd, compressed.*; got method 'sgd'"),
    ("nes", {"dim": 8}, "got method 'nes'"),
    ("gradients", {"dim": 4}, "got method 'gradients'"),
    ("rbd", {"dim": 8, "accumulate": 2, "redraw_every": 2}, "accumulate=2 keeps sums"),
    ("rbd", {"dim": 8, "redraw_lowest": 0.5}, "redraw_lowest=0.5"),
])  # fmt: skip
def test_methods_that_are_refused(name, options, words):
    method = methods.create(name, learning_rate=0.5, **options)
    with pytest.raises(ValueError, match=words):
        rbd_ipu.Trainer(dense(), method, replay_log=replay.ReplayLog())


def test_places_that_are_refused():
    method = methods.create("rbd", learning_rate=0.5, dim=8)
    averaging = rbd_ipu.open_device("cpu", simulate_workers=2, exchange="update")
    with pytest.raises(ValueError, match="with exchange=update none are sent"):
        rbd_ipu.Trainer(dense(), method, averaging, replay_log=replay.ReplayLog())

    class Elsewhere(type(averaging)):
        pass

    other = Elsewhere("ipu", "/device:CPU:0")
    with pytest.raises(ValueError, match="got device ipu with 1 workers"):
        rbd_ipu.Trainer(dense(), method, other, replay_log=replay.ReplayLog())


def test_moving_statistics_are_refused_unless_they_are_frozen(tmp_path):
    with pytest.raises(ValueError, match="moving_mean.* and 1 more variables are not trained by messages"):
        small(replay.ReplayLog(), model=normalising())
    frozen = [normalising(), normalising()]
    for model in frozen:
        model.layers[-2].trainable = False
    trained = fitted(small(replay.ReplayLog(tmp_path / "a"), model=frozen[0]))
    again = small(model=frozen[1])
    replay.replay_weights(again, tmp_path / "a")
    assert bits_of(again.model) == bits_of(trained.model)


def test_a_log_of_a_layer_that_is_frozen_here_is_refused(tmp_path):
    def trainer(frozen, log=None):
        layers = [keras.layers.Dense(6, "tanh", name="a"), keras.layers.Dense(6, name="b")]
        model = keras.Sequential([keras.Input((6,)), *layers])
        generator = np.random.default_rng(0)
        model.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
        model.get_layer(frozen).trainable = False
        method = methods.create("rbd", learning_rate=0.5, dim=8)
        return rbd_ipu.Trainer(model, method, replay_log=log)

    x = np.random.default_rng(1).normal(size=(32, 6)).astype(np.float32)
    path = tmp_path / "replay.log"
    trained = trainer("a", rbd_ipu.ReplayLog(path))
    trained.fit((x, np.arange(32) % 6), verbose=0)
    again = trainer("a")
    replay.replay_weights(again, path)
    assert bits_of(again.model) == bits_of(trained.model)
    other = trainer("b")
    before = bits_of(other.model)
    with pytest.raises(replay.ReplayError, match="is of a training with variables with SHA-256"):
        replay.replay_weights(other, path)
    assert bits_of(other.model) == before
