"""The run folder: what it holds, that it is never written over, that nothing is ever lost."""

import contextlib
import csv
import errno
import json
import os
import signal
import socket
import subprocess
import threading
import types

import numpy as np
import pytest

from rbd_ipu import files, methods, plots, provenance
from rbd_ipu._compat import keras
from rbd_ipu.config import from_file, resolve
from rbd_ipu.errors import ConfigError, NonFiniteError
from rbd_ipu.files import locked
from rbd_ipu.process import SIGNALS, deferred
from rbd_ipu.runs import RunFolder, check_free, check_search, facts_of, metrics, new_folder
from rbd_ipu.runs.callbacks import AtomicCheckpoint, recorders, save_weights
from rbd_ipu.runs.folder import summarise
from rbd_ipu.runs.record import record
from rbd_ipu.step import Progress

# --- whole files ---------------------------------------------------------------------------------


def test_lines_of_json_that_are_none_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    assert files.lines(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert files.lines(path, unfinished=True) == [{"a": 1}]
    for content, number in ((b'{"a": 1}\n{"a": 2', 2), (b"[1]\n", 1), (b'{"a": 1}\n\xff\n', 2), (b"\n", 1)):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"a.jsonl:{number}: no line of JSON: "):
            files.lines(path)
    for content in (b"[]", b"\xff", b"", b"3"):
        path.write_bytes(content)
        assert files.found(path) == {}
    path.write_bytes(b"[]")
    with pytest.raises(ConfigError, match="a.jsonl: a mapping was expected, and it holds "):
        facts_of(path)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.replacing(path) as draft:
        draft.write_text("ne")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_names_the_file_that_was_meant(tmp_path):
    with pytest.raises(OSError) as caught, files.naming(tmp_path / "a.h5"):
        raise OSError("unable to write (errno = 28)")
    assert caught.value.filename == str(tmp_path / "a.h5")
    assert "unable to write" in caught.value.strerror


def test_room_is_checked_by_writing(tmp_path, file_size_limit):
    file_size_limit(1000)
    files.check_room(tmp_path / "a", 1000)
    with pytest.raises(OSError):
        files.check_room(tmp_path / "a", 1001)
    assert os.listdir(tmp_path) == []


# --- JSON ----------------------------------------------------------------------------------------


def test_json_has_no_nan_and_plain_numbers():
    value = {"a": float("nan"), "b": [np.float32(0.5), np.int64(3), -np.inf], "c": None, "d": True}
    assert files.line(value) == '{"a": null, "b": [0.5, 3, null], "c": null, "d": true}\n'
    assert json.loads(files.document({"x": np.arange(2)})) == {"x": [0, 1]}
    with pytest.raises(TypeError, match="has no JSON form"):
        files.line({"a": object()})


def test_metrics_have_every_column_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"loss": np.float32(1.5), "epoch": 1, "extra": 2, "val_loss": np.nan})
    metrics.append(path, {"epoch": 2})
    first, second = metrics.read(path)
    assert list(first) == [*metrics.COLUMNS, "extra"]
    assert (first["loss"], first["val_loss"], first["extra"]) == (1.5, None, 2)
    assert second["epoch"] == 2 and second["loss"] is None


def test_a_line_of_metrics_is_written_whole_or_not_at_all(tmp_path, file_size_limit):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"epoch": 1})
    size = path.stat().st_size
    file_size_limit(size + 10)  # the second line fits in part
    with pytest.raises(OSError) as caught:
        metrics.append(path, {"epoch": 2})
    assert caught.value.filename == str(path)
    assert path.stat().st_size == size
    file_size_limit(2 * size + 10)
    metrics.append(path, {"epoch": 2})
    assert [row["epoch"] for row in metrics.read(path)] == [1, 2]


def test_the_table_is_the_same_whether_added_to_or_made_anew(tmp_path):
    lines, table, again = tmp_path / "metrics.jsonl", tmp_path / "metrics.csv", tmp_path / "again.csv"
    for epoch in (1, 2, 3):
        row = {"epoch": epoch, "loss": 0.1 * epoch, "val_loss": np.nan}
        if epoch == 2:  # not every epoch measures everything
            row["extra"] = np.float32(0.5)
        metrics.append(lines, row)
        metrics.append_csv(table, row)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*metrics.COLUMNS, "extra"]
    assert [(row["epoch"], row["loss"], row["val_loss"], row["extra"]) for row in rows] == [
        ("1", "0.1", "", ""), ("2", "0.2", "", "0.5"), ("3", "0.30000000000000004", "", ""),
    ]  # fmt: skip
    assert metrics.cut(lines, again, metrics.extent(lines)) == metrics.read(lines)
    assert again.read_bytes() == table.read_bytes()


def test_metrics_are_cut_back_to_an_earlier_extent(tmp_path):
    lines, table = tmp_path / "metrics.jsonl", tmp_path / "metrics.csv"
    nothing = metrics.extent(lines)
    for epoch in (1, 2, 3):
        metrics.append(lines, {"epoch": epoch})
        if epoch == 2:
            two = metrics.extent(lines)
    with open(lines, "a") as file:
        file.write('{"epoch": 4, "lo')
    assert metrics.holds(lines, two) and metrics.holds(lines, nothing)
    assert [row["epoch"] for row in metrics.cut(lines, table, two)] == [1, 2]
    assert metrics.extent(lines) == two and len(table.read_text().splitlines()) == 3
    assert metrics.cut(lines, table, nothing) == [] and table.read_text() == ""
    assert not metrics.holds(lines, two)
    metrics.append(lines, {"epoch": 9})
    assert not metrics.holds(lines, {**two, "bytes": lines.stat().st_size})


# --- the folder ----------------------------------------------------------------------------------


def test_default_names_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [new_folder(None, "digits-fc-rbd") for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        assert path.parent.name == "runs" and path.name.startswith("digits-fc-rbd-2")
        assert (tmp_path / path / "run.json").exists()


def test_an_existing_run_is_never_written_over(tmp_path):
    path = new_folder(tmp_path / "mine")
    for again in (check_free, new_folder):
        with pytest.raises(ConfigError, match="mine: the folder holds a run .*--resume.*; .*choose another path"):
            again(path)


def test_folders_with_anything_in_them_and_files_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "dangling"):
        with pytest.raises(ConfigError, match=name):
            new_folder(tmp_path / name)
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]


def test_an_empty_folder_and_new_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    assert new_folder(tmp_path / "empty") == tmp_path / "empty"
    assert new_folder(tmp_path / "a" / "b" / "c").is_dir()


def test_of_two_runs_that_find_the_same_empty_folder_one_gets_it(tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr("rbd_ipu.runs.folder.check_free", lambda path: None)  # both looked before
    new_folder(folder)
    with pytest.raises(ConfigError, match="another run has just taken the folder"):
        new_folder(folder)


# --- provenance ----------------------------------------------------------------------------------


def test_commands_are_quoted_and_hide_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    words = [
        "train",
        "--output",
        "/home/somebody/a b",
        "--config=/home/somebody",
        "/home/somebody2",
    ]
    assert provenance.command_line(words) == ("rbd-ipu train --output '~/a b' '--config=~' /home/somebody2")


def test_the_machine_is_described_without_its_name():
    facts = provenance.machine()
    assert set(facts) == {"processor", "architecture", "cores", "usable_cores", "system"}
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    assert socket.gethostname() not in facts.values()


def _git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "rbd_ipu"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.commit() == {"commit": None, "modified": None}
    _git(package.parent, "init", "-q")
    _git(package.parent, "add", ".")
    _git(package.parent, "commit", "-q", "-m", "x")
    clean = provenance.commit()
    assert len(clean["commit"]) == 40 and clean["modified"] is False
    (package / "a.py").write_text("x = 2\n")
    assert provenance.commit() == {"commit": clean["commit"], "modified": True}


def test_a_package_installed_inside_somebody_elses_checkout_has_no_commit(tmp_path, monkeypatch):
    _git(tmp_path, "init", "-q")
    package = tmp_path / "venv" / "lib" / "rbd_ipu"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert provenance.commit() == {"commit": None, "modified": None}


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.commit() == {"commit": None, "modified": None}


# --- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_kills(capfd, number):
    before = signal.getsignal(number)
    with deferred() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested and interrupt.number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) is before
    assert SIGNALS[number] in capfd.readouterr().err


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_ctrl_c_alone():
    seen = []

    def work():
        with deferred() as interrupt:
            seen.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


# --- a run, with a trainer that does what the test says ------------------------------------------


class OneWorker(contextlib.nullcontext):
    exchange = types.SimpleNamespace(workers=1)


class Scripted:
    """Stands for an Experiment, calls callbacks as Trainer does; at[epoch] is run in an epoch."""

    def __init__(self, epochs=3, at=None):
        keras.backend.clear_session()
        inputs = keras.Input((4,))
        self.model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones")(inputs))
        self.model.compile(keras.optimizers.SGD(0.5))
        self.config = resolve({"method": "sgd", "learning_rate": 0.5, "epochs": epochs})
        self.method = methods.create("sgd", learning_rate=0.5)
        self.method.build(self.model.trainable_variables)
        self.trainer = types.SimpleNamespace(
            model=self.model,
            method=self.method,
            optimizer=self.model.optimizer,
            progress=Progress(),
            step=0,
            device=OneWorker(),
            replay_log=None,
        )
        self.data = types.SimpleNamespace(files={"images": "a sum"}, of_text=False)
        self.title = "a line of words"
        self.at = at or {}

    def fingerprint(self):
        return "the images"

    def fit(self, callbacks=(), verbose=0, start=None):
        listed = keras.callbacks.CallbackList(list(callbacks), add_history=True, model=self.model)
        listed.on_train_begin()
        try:
            self._epochs(listed)
        finally:
            listed.on_train_end()

    def _epochs(self, listed):
        for epoch in range(self.trainer.progress.epoch, self.config.epochs):
            listed.on_epoch_begin(epoch)
            if epoch in self.at:
                self.at[epoch](self)
            listed.on_train_batch_begin(9)
            listed.on_train_batch_end(9, {})
            self.model.set_weights([weights + 1 for weights in self.model.get_weights()])
            accuracy = [0.5, 0.75, 0.25][epoch % 3]
            logs = {"loss": 1.0 / (epoch + 1), "accuracy": accuracy, "step": 10 * (epoch + 1)}
            logs.update(val_loss=2.0, val_accuracy=accuracy, correlation=0.1, cosine=0.1)
            logs.update(images_per_second=100.0, seconds=0.5)
            self.trainer.progress, self.trainer.step = Progress(epoch=epoch + 1), 10 * (epoch + 1)
            listed.on_epoch_end(epoch, logs)

    def test(self):
        return {"loss": 0.5, "accuracy": 0.875}


def _record(tmp_path, experiment):
    folder = RunFolder(new_folder(tmp_path / "run"))
    with locked(folder.path):
        outcome, result = record(experiment, folder, "rbd-ipu train", verbose=0)
    return folder, outcome, result


def _weights(folder, name):
    model = Scripted().model
    model.load_weights(str(folder / "checkpoints" / f"{name}.weights.h5"))
    return model.get_weights()[1][0]  # the bias: the number of epochs trained


def _json(path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_finished_run_leaves_everything(tmp_path):
    folder, outcome, result = _record(tmp_path, Scripted())
    assert (outcome.name, outcome.status, outcome.message) == ("finished", 0, None)
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml", "run.json", "metrics.jsonl", "metrics.csv", "checkpoints", "result.json", ".lock",
        *(["tensorboard"] if files.installed("tensorboard") else []),
        *(["curves.png"] if files.installed("matplotlib") else []),
    }  # fmt: skip
    assert [row["epoch"] for row in metrics.read(folder / "metrics.jsonl")] == [1, 2, 3]
    with open(folder / "metrics.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert float(table[0]["val_accuracy"]) == 0.5
    assert (_weights(folder, "last"), _weights(folder, "best")) == (3.0, 2.0)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    steps = {name for name in names if name.startswith("step-")}
    assert names - steps == {"last.weights.h5", "best.weights.h5", ".lock"}
    assert "step-000000030.checkpoint" in steps
    assert (
        result
        == _json(folder / "result.json")
        == {
            "outcome": "finished",
            "epochs": 3,
            "step": 30,
            "validation": {"loss": 2.0, "accuracy": 0.25},
            "best": {"epoch": 2, "validation": {"loss": 2.0, "accuracy": 0.75}},
            "test": {"loss": 0.5, "accuracy": 0.875},
        }
    )
    assert resolve(from_file(folder / "config.yaml")) == Scripted().config


def test_run_json_says_where_the_result_comes_from(tmp_path):
    folder, *_ = _record(tmp_path, Scripted())
    facts = _json(folder / "run.json")
    assert facts["command"] == "rbd-ipu train"
    assert facts["outcome"] == "finished" and facts["started"] <= facts["ended"]
    assert (facts["seed"], facts["d"], facts["D"]) == (0, 15, 15)
    assert set(facts["versions"]) == {"python", "rbd_ipu", "tensorflow", "keras", "numpy"}
    assert {"commit", "modified", "machine", "message"} <= set(facts)
    assert facts["data"] == {"images": "a sum"}


def test_the_folder_is_readable_while_the_run_goes_on(tmp_path):
    seen = {}

    def look(experiment):
        folder = tmp_path / "run"
        seen["outcome"] = _json(folder / "run.json")["outcome"]
        seen["rows"] = metrics.read(folder / "metrics.jsonl")
        seen["last"] = _weights(folder, "last")
        seen["config"] = resolve(from_file(folder / "config.yaml"))

    _record(tmp_path, Scripted(at={2: look}))
    assert seen["outcome"] == "running"
    assert [row["epoch"] for row in seen["rows"]] == [1, 2]
    assert seen["last"] == 2.0
    assert seen["config"] == Scripted().config


def _ctrl_c(_):
    os.kill(os.getpid(), signal.SIGINT)


def _sigterm(_):
    os.kill(os.getpid(), signal.SIGTERM)


def _not_finite(_):
    error = NonFiniteError.__new__(NonFiniteError)
    ArithmeticError.__init__(error, "the loss is nan in epoch 3, step 21")
    raise error


def _bug(_):
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    "what, name, status, message",
    [
        (_ctrl_c, "interrupted", 130, "interrupted by Ctrl-C"),
        (_sigterm, "terminated", 143, "ended by SIGTERM"),
        (_not_finite, "not finite", 3, "the loss is nan in epoch 3, step 21"),
    ],
)
def test_a_run_that_breaks_off_keeps_what_it_had(tmp_path, what, name, status, message):
    folder, outcome, result = _record(tmp_path, Scripted(at={2: what}))
    assert (outcome.name, outcome.status, outcome.message) == (name, status, message)
    assert [row["epoch"] for row in metrics.read(folder / "metrics.jsonl")] == [1, 2]
    assert result == _json(folder / "result.json")
    assert (result["outcome"], result["epochs"], result["test"]) == (name, 2, None)
    assert result["validation"]["accuracy"] == 0.75
    assert _json(folder / "run.json")["outcome"] == name
    assert [_weights(folder, which) for which in ("last", "best", "stopped")] == [2.0, 2.0, 2.0]
    assert (folder / "curves.png").exists() == files.installed("matplotlib")


def test_a_run_that_breaks_off_in_its_first_epoch(tmp_path):
    folder, outcome, result = _record(tmp_path, Scripted(at={0: _ctrl_c}))
    assert outcome.status == 130
    assert (result["epochs"], result["step"]) == (0, 0)
    assert result["validation"] == {"loss": None, "accuracy": None}
    assert _weights(folder, "stopped") == 0.0


def test_a_bug_keeps_its_traceback_and_the_folder_is_complete(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        _record(tmp_path, Scripted(at={1: _bug}))
    facts = _json(tmp_path / "run" / "run.json")
    assert (facts["outcome"], facts["message"]) == ("failed", "ZeroDivisionError: a bug")
    assert _json(tmp_path / "run" / "result.json")["epochs"] == 1


def test_a_disk_that_is_full_at_the_checkpoint(tmp_path, monkeypatch):
    full = []

    def fill(_):
        full.append(True)

    def fallocate(descriptor, start, size):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate, raising=False)
    folder, outcome, result = _record(tmp_path, Scripted(at={1: fill}))
    path = folder / "checkpoints" / "last.weights.h5"
    assert (outcome.name, outcome.status) == ("not written", 4)
    assert outcome.message == f"cannot write {path}: No space left on device"
    # The epoch's metrics were written before; the checkpoints are those of the epoch before.
    assert result["epochs"] == 2
    assert (_weights(folder, "last"), _weights(folder, "best")) == (1.0, 1.0)
    assert _json(folder / "run.json")["message"] == outcome.message


def test_a_disk_that_really_takes_no_more(tmp_path, file_size_limit):
    # Without a check beforehand HDF5 would end this very process with a segmentation fault.
    folder, outcome, _ = _record(tmp_path, Scripted(at={1: lambda _: file_size_limit(4000)}))
    assert (outcome.name, outcome.status) == ("not written", 4)
    assert "last.weights.h5: " in outcome.message
    assert (_weights(folder, "last"), _weights(folder, "best")) == (1.0, 1.0)
    assert len(metrics.read(folder / "metrics.jsonl")) == 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_file_system_that_turns_read_only(tmp_path, monkeypatch, code):
    real = os.replace
    refused = []

    def replace(source, target):
        if refused:
            raise OSError(code, os.strerror(code), str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    folder, outcome, _ = _record(tmp_path, Scripted(at={1: lambda _: refused.append(True)}))
    assert outcome.status == 4
    assert os.strerror(code) in outcome.message and "last.weights.h5" in outcome.message
    # run.json could not be written again: it still says what it said, whole.
    assert _json(folder / "run.json")["outcome"] == "running"
    monkeypatch.undo()
    assert _weights(folder, "last") == 1.0


def test_a_finished_run_whose_result_cannot_be_written(tmp_path, monkeypatch):
    real = os.replace

    def replace(source, target):
        if str(target).endswith("result.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    folder, outcome, _ = _record(tmp_path, Scripted())
    assert outcome.status == 4 and "result.json: No space left" in outcome.message
    assert _json(folder / "run.json")["outcome"] == "not written"
    assert not (folder / "result.json").exists()


def test_a_picture_that_fails_for_another_reason(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: name == "matplotlib" or None)
    monkeypatch.setattr(plots, "plot_run", fail)
    with pytest.raises(RuntimeError, match="no fonts"):
        _record(tmp_path, Scripted(epochs=1))
    assert _json(tmp_path / "run" / "run.json")["outcome"] == "failed"
    assert _json(tmp_path / "run" / "result.json")["test"]["accuracy"] == 0.875


def test_a_reader_of_the_output_that_goes_away(tmp_path):
    def closed(_):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    _, outcome, _ = _record(tmp_path, Scripted(at={1: closed}))
    assert outcome.status == 4 and "standard output" in outcome.message


def test_without_the_optional_packages_the_rest_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    folder, outcome, _ = _record(tmp_path, Scripted(epochs=1))
    assert outcome.status == 0
    names = {path.name for path in folder.path.iterdir()}
    assert "curves.png" not in names and "tensorboard" not in names
    assert {"result.json", "metrics.csv", "checkpoints"} <= names
    assert len(files.missing()) == 2


def test_checkpoints_work_where_the_path_has_braces(tmp_path):
    model = Scripted().model
    path = tmp_path / "a{epoch}b{" / "last.weights.h5"
    path.parent.mkdir()
    callback = AtomicCheckpoint(path)
    callback.set_model(model)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"val_accuracy": 1.0})
    save_weights(model, path.with_name("b.weights.h5"))
    assert sorted(os.listdir(path.parent)) == ["b.weights.h5", "last.weights.h5"]


def test_the_best_checkpoint_is_the_best_by_its_own_measure(tmp_path):
    for monitor, values, best in [("val_accuracy", (1, 3, 2), 1), ("val_loss", (3, 1, 2), 1)]:
        model = Scripted().model
        path = tmp_path / f"{monitor}.weights.h5"
        callback = AtomicCheckpoint(path, monitor=monitor)
        callback.set_model(model)
        for epoch, value in enumerate(values):
            model.set_weights([np.full_like(weights, epoch) for weights in model.get_weights()])
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {monitor: float(value)})
        model.load_weights(str(path))
        assert model.get_weights()[0][0, 0] == best


def test_the_best_of_a_run_that_goes_on_is_not_lost(tmp_path):
    model = Scripted().model
    path = tmp_path / "checkpoints" / "best.weights.h5"
    path.parent.mkdir()
    save_weights(model, path)
    before = path.read_bytes()
    rows = [{"val_accuracy": value} for value in (0.5, 0.75, None)]
    (best,) = [
        c for c in recorders(tmp_path, deferred(), rows) if c.__class__ is AtomicCheckpoint and c.save_best_only
    ]
    best.set_model(model)
    best.on_epoch_begin(3)
    best.on_epoch_end(3, {"val_accuracy": 0.625})
    assert path.read_bytes() == before
    model.set_weights([weights + 1 for weights in model.get_weights()])
    best.on_epoch_begin(4)
    best.on_epoch_end(4, {"val_accuracy": 0.875})
    assert path.read_bytes() != before


def test_tensorboard_has_the_numbers_of_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from rbd_ipu._compat import tf

    folder, *_ = _record(tmp_path, Scripted(at={2: _ctrl_c}))
    values = {}
    for path in (folder / "tensorboard").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                values[(path.parent.name, value.tag, event.step)] = float(tf.make_ndarray(value.tensor))
    assert values[("train", "epoch_accuracy", 1)] == 0.5
    assert values[("validation", "epoch_accuracy", 2)] == 0.75
    assert values[("train", "epoch_correlation", 2)] == pytest.approx(0.1)


# --- pictures ------------------------------------------------------------------------------------


def test_a_summary_of_no_epochs_and_of_epochs_that_were_not_finite():
    assert summarise([], None, "failed")["best"]["epoch"] is None
    rows = [{"epoch": 1, "val_accuracy": None}, {"epoch": 2, "val_accuracy": 0.5, "val_loss": None}]
    assert summarise(rows, None, "finished")["best"]["epoch"] == 2


# --- the folder of a search ----------------------------------------------------------------------


def test_a_search_goes_on_with_its_own_settings_only(tmp_path):
    path = tmp_path / "tune.json"
    check_search(path, {"dim": 3})  # there is none yet
    path.write_text("{}")
    check_search(path, {"dim": 3})  # killed before it wrote them
    path.write_text(json.dumps({"decisive": {"dim": 3, "pair": [1, 2]}}))
    assert facts_of(path)["decisive"]["dim"] == 3
    check_search(path, {"dim": 3, "pair": (1, 2)})
    with pytest.raises(ConfigError) as caught:
        check_search(path, {"dim": 4, "seed": 1, "pair": (1, 2)}, "folder")
    reason = "a search with other settings is kept there: dim 3 there and 4 here, seed as usual there and 1 here"
    assert str(caught.value) == f"folder {tmp_path}: {reason}"
    path.write_text("{")
    with pytest.raises(ConfigError, match="tune.json: no JSON"):
        check_search(path, {})


@pytest.mark.parametrize("value, words", [(None, "null"), ("x", "the text 'x'")])
def test_the_facts_of_a_search_that_are_damaged_are_named(tmp_path, value, words):
    path = tmp_path / "tune.json"
    for name, accepted in (("decisive", "a mapping"), ("sittings", "a list")):
        path.write_text(json.dumps({name: value}))
        with pytest.raises(ConfigError, match=f"tune.json: {name}: must be {accepted}, not {words}"):
            check_search(path, {"dim": 3})


def test_a_run_goes_on_where_its_sittings_are_no_list(tmp_path, capsys):
    for before in ("null", '"x"'):
        (tmp_path / "run.json").write_text(f'{{"started": "then", "resumed": {before}}}')
        RunFolder(tmp_path).go_on(resolve({"learning_rate": 1.0}), {}, "again", {"step": 3})
        assert "run.json: resumed: must be a list, and is begun anew" in capsys.readouterr().err
        facts = json.loads((tmp_path / "run.json").read_text())
        assert facts["started"] == "then" and [one["command"] for one in facts["resumed"]] == ["again"]
