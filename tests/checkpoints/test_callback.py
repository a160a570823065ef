"""The callback and its folder: when it saves, what it keeps, what it leaves alone."""

import errno
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu import checkpoints, methods, training
from rbd_ipu._compat import keras
from rbd_ipu.checkpoints import callback
from rbd_ipu.checkpoints.file import listed, path_for, search
from rbd_ipu.files import locked

X, Y = blobs(128)  # 4 steps an epoch


def trainer():
    return rbd_ipu.Trainer(dense(), methods.create("rbd", learning_rate=0.25, dim=20), "cpu")


def names(folder):
    return sorted(path.name for path in folder.glob("step-*"))


def fit(folder, epochs=2, before=(), start=None, t=None, **options):
    t = t or trainer()
    keeper = checkpoints.Checkpoints(folder, t, **options)
    t.fit((X, Y), epochs=epochs, verbose=0, callbacks=[*before, keeper], start=start)
    return t


def test_saves_at_the_first_step_and_the_last(tmp_path):
    t = fit(tmp_path / "new" / "folder", epochs=1, seconds=1e9)
    assert names(tmp_path / "new" / "folder") == ["step-000000000.checkpoint", "step-000000004.checkpoint"]
    found = checkpoints.newest(tmp_path / "new" / "folder")
    assert found.step == t.step == 4 and found.progress.epoch == 1 and found.about == {}


def test_saves_after_every_call_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    fit(tmp_path, seconds=0, keep=100)
    assert [checkpoints.load(path).step for path in listed(tmp_path)] == list(range(8, -1, -1))
    # At the end of an epoch the same step is saved again, now with the epoch counted.
    assert checkpoints.load(path_for(tmp_path, 4)).progress.epoch == 1


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(callback, "time", clock)
    return clock


class Places:
    """Stands for a Trainer, at places that a test walks through."""

    def __init__(self):
        self.progress, self.step = (0, 0), 0
        self.method = types.SimpleNamespace(saveable=lambda step: True)


@pytest.mark.parametrize(
    "cost, seconds, saved",
    [
        (0.05, 9.0, [10, 20, 30, 40, 50, 60, 70, 80, 90]),  # as often as is asked for
        (0.05, 30.0, [20, 40, 60, 80]),  # at the ends of epochs
        (0.19, 9.0, [20, 40, 60, 80]),  # 1 % of 19 s
        (0.29, 9.0, [30, 60, 90]),
        (5.0, 0.0, [10, 20, 20, 30, 40, 40, 50, 60, 60, 70, 80, 80, 90]),  # whatever it costs
    ],
)
def test_saving_takes_one_percent_of_the_time_at_most(tmp_path, monkeypatch, clock, cost, seconds, saved):
    """Ten steps of 10 s, of which every other one ends an epoch of 20 s."""
    t, calls = Places(), []

    def save(path, trainer, about):
        calls.append(began)
        clock.now += cost

    monkeypatch.setattr(callback, "save", save)
    keeper = checkpoints.Checkpoints(tmp_path, t, seconds=seconds)
    began = 0
    keeper.on_train_begin()
    for t.step in range(1, 10):
        began = 10 * t.step
        clock.now = max(clock.now, float(began))
        t.progress = (t.step // 2, t.step % 2)
        keeper.on_train_batch_end(0)
        if t.step % 2 == 0:
            keeper.on_epoch_end(0)
    assert calls == [0, *saved]
    assert seconds == 0 or cost * len(saved) <= 0.01 * clock.now


def test_the_last_few_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    fit(tmp_path, seconds=0, keep=2)
    assert names(tmp_path) == ["step-000000007.checkpoint", "step-000000008.checkpoint"]


def test_goes_on_and_then_keeps_its_own_and_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    fit(tmp_path, seconds=0, keep=3)  # steps 6, 7, 8
    damaged = path_for(tmp_path, 8)
    damaged.write_bytes(b"damaged")
    t = trainer()
    found = search(tmp_path)
    assert found.checkpoint.step == 7
    assert [(path, str(reason)) for path, reason in found.refused] == [
        (damaged, "it is no checkpoint of rbd_ipu: it begins with b'damaged'")
    ]
    start = checkpoints.restore(t, found.checkpoint)
    keeper = checkpoints.Checkpoints(tmp_path, t, seconds=1e9, keep=1)
    keeper.set_model(t.model)
    t.progress = start
    keeper.on_train_begin()
    keeper._save()
    # What could not be read is not counted as a checkpoint, and is nobody's to remove.
    assert names(tmp_path) == ["step-000000007.checkpoint", "step-000000008.checkpoint"]
    assert damaged.read_bytes() == b"damaged"
    keeper.on_train_end()
    whole = fit(tmp_path / "whole", epochs=3)
    fit(tmp_path, epochs=3, t=t, start=start)
    np.testing.assert_array_equal(flat(t.model), flat(whole.model))


def test_drafts_of_a_killed_run_are_ignored_and_removed(tmp_path):
    fit(tmp_path, epochs=1)
    draft = tmp_path / ".draft-step-000000009.checkpoint"
    draft.write_bytes(path_for(tmp_path, 4).read_bytes()[:100])
    other = tmp_path / ".draft-thesis.tex"
    other.touch()
    assert checkpoints.newest(tmp_path).step == 4
    fit(tmp_path, epochs=1)
    assert not draft.exists() and other.exists()


def test_names_that_are_not_ours_are_left_alone(tmp_path):
    for name in ("step-1.checkpoint", "step-000000009.checkpoint.bak", "last.weights.h5"):
        (tmp_path / name).touch()
    assert checkpoints.newest(tmp_path) is None and checkpoints.newest(tmp_path / "missing") is None
    fit(tmp_path, epochs=1)
    assert (tmp_path / "step-1.checkpoint").exists()
    assert checkpoints.newest(tmp_path).step == 4


def test_all_damaged_is_an_error_with_every_reason(tmp_path):
    path_for(tmp_path, 1).touch()
    path_for(tmp_path, 2).write_bytes(b"PK\x03\x04")
    path_for(tmp_path, 3).mkdir()
    with pytest.raises(checkpoints.CheckpointError) as caught:
        checkpoints.newest(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"none of the checkpoints in {tmp_path} can be used:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [path_for("", n).name for n in (3, 2, 1)]
    assert "cannot be read" in lines[1] and "cut short" in lines[2] and "empty" in lines[3]


def test_a_state_that_not_all_callbacks_have_seen_is_not_saved(tmp_path):
    """An epoch whose metrics could not be written must not count as recorded."""

    class Full(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, epochs=3, before=[Full()], seconds=1e9)
    assert checkpoints.newest(tmp_path).progress.epoch < 2


def test_a_state_from_within_a_call_is_not_saved(tmp_path, monkeypatch):
    t = trainer()
    real, calls = t._run, []

    def run(*arguments):
        calls.append(1)
        found = real(*arguments)
        if len(calls) == 3:
            raise RuntimeError("a bug, after the weights have changed")
        return found

    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    monkeypatch.setattr(t, "_run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        fit(tmp_path, t=t, seconds=1e9)
    assert checkpoints.newest(tmp_path).step == 0


def test_stopped_in_the_middle_of_an_epoch_it_is_saved_there(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if t.step == 6:
                raise KeyboardInterrupt

    t = trainer()
    keeper = checkpoints.Checkpoints(tmp_path, t, seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        t.fit((X, Y), epochs=2, verbose=0, callbacks=[keeper, Stop()])
    found = checkpoints.newest(tmp_path)
    assert (found.step, found.progress.epoch, found.progress.step) == (6, 1, 2)
    assert found.place == "step 6, after 1 epochs, 2 steps into the next"


@pytest.mark.parametrize("about", [{"note": 1}, lambda: {"note": 1}])
def test_what_the_user_puts_beside_it(tmp_path, about):
    fit(tmp_path, epochs=1, about=about)
    assert checkpoints.newest(tmp_path).about == {"note": 1}


@pytest.mark.parametrize("options", [{"seconds": -1}, {"seconds": "often"}, {"keep": 0}, {"keep": 1.5}])
def test_wrong_arguments_are_refused(tmp_path, options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        checkpoints.Checkpoints(tmp_path, trainer(), **options)


# --- one run at a time ---------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    refused = []

    class Second(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(ValueError, match=f"another run is at work there, process {os.getpid()}") as caught:
                fit(tmp_path)
            refused.append(caught)

    fit(tmp_path, epochs=1, before=[Second()])
    assert refused
    fit(tmp_path, epochs=1)  # free again


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from rbd_ipu.files import locked\n"
        "with locked(sys.argv[1]): print(os.getpid(), flush=True); sys.stdin.read(); os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, universal_newlines=True) as holder:
        number = holder.stdout.readline().strip()
        with pytest.raises(ValueError, match=f"process {number}; wait"), locked(tmp_path):
            pass
        holder.stdin.close()
        assert holder.wait(timeout=60) == -9
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    lock = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "flock", flock)
    with locked(tmp_path), locked(tmp_path):
        assert re.fullmatch(r"\d+\n", (tmp_path / ".lock").read_text())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, locked(tmp_path / "none"):
        pass
    assert caught.value.filename == str(tmp_path / "none" / ".lock")
