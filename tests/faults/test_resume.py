"""`rbd-ipu train --resume`: from what is whole and of this very run, and from nothing else."""

import hashlib
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from rbd_ipu import checkpoints, files, training
from rbd_ipu.checkpoints import file as container
from rbd_ipu.checkpoints.file import listed
from rbd_ipu.cli import main
from rbd_ipu.config import from_assignments, from_file, resolve
from rbd_ipu.config.yaml import dumps
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import installed, locked
from rbd_ipu.runs import RunFolder, callbacks, check_free, metrics, resume
from rbd_ipu.runs.experiment import prepare

WORDS = ["--quiet", "--set", "dim=10", "--set", "learning_rate=1", "--set", "momentum=0.5"]
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def experiment(whole):
    return prepare(resolve(from_file(whole / "config.yaml")))


@pytest.fixture
def broken(whole, tmp_path):
    """That run, as if it had been killed with its third epoch recorded, and not yet saved."""
    folder = tmp_path / "run"
    shutil.copytree(str(whole), str(folder))
    for path in listed(folder / "checkpoints"):
        if checkpoints.load(path).progress.epoch == 3:
            path.unlink()
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "outcome": "running", "ended": None}))
    (folder / "result.json").unlink()
    return folder


def rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics.read(folder / "metrics.jsonl")]


def table(folder):
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [[value for name, value in zip(lines[0], line) if name not in TIMES] for line in lines]


def weights(folder):
    found = checkpoints.newest(folder / "checkpoints")
    return found.step, [array.tobytes() for arrays in found.arrays.values() for array in arrays]


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def same_as(folder, whole):
    assert rows(folder) == rows(whole)
    assert table(folder) == table(whole)
    assert weights(folder) == weights(whole)
    result = (folder / "result.json").read_text()
    assert result == (whole / "result.json").read_text()


# --- damage: each kind is refused, said, left where it is; the checkpoint before serves -----------------


def altered(change):
    """Damage that leaves the file whole: its checksum is right, its content is not this run's."""

    def damage(path):
        facts, arrays = container.read(path)
        arrays = dict(arrays)
        change(facts, arrays)
        container.write(path, facts, arrays)

    return damage


def flipped(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)


def newer(path):
    entries = dict(np.load(path))
    header = entries["header"].tobytes().replace(b'"format": 2', b'"format": 3')
    with open(path, "wb") as file:
        np.savez(file, **{**entries, "header": np.frombuffer(header, np.uint8)})


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def numpys(path):
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    path.write_bytes(file.getvalue())


def a_folder(path):
    path.unlink()
    path.mkdir()


def other_data(facts, arrays):
    facts["about"]["data"] = "0" * 64


def other_seed(facts, arrays):
    facts["about"]["config"]["seed"] = 5


def other_dim(facts, arrays):
    facts["method"]["d"] = 11


def not_ours(facts, arrays):
    facts["about"] = {}


def other_rows(facts, arrays):
    facts["about"]["metrics"]["sha256"] = "0" * 64


def other_shape(facts, arrays):
    arrays["model/0"] = np.zeros((64, 127), np.float32)


def one_less(facts, arrays):
    del facts["variables"]["optimizer"][-1]


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "half of it": (lambda path: os.truncate(path, path.stat().st_size // 2), "cut short or altered"),
    "without its last byte": (lambda path: os.truncate(path, path.stat().st_size - 1), "cut short or altered"),
    "a bit flipped": (flipped, "cut short or altered"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "no checkpoint of rbd_ipu"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Trap())), "no checkpoint of rbd_ipu"),
    "NumPy's": (numpys, "no checkpoint of rbd_ipu: it has no header"),
    "a newer format": (newer, "format 3"),
    "a folder": (a_folder, "cannot be read: Is a directory"),
    "other shapes": (altered(other_shape), "of another shape"),
    "a variable less": (altered(one_less), "variables of the optimizer"),
    "another d": (altered(other_dim), "d is 11 there and 10 here"),
    "another seed": (altered(other_seed), "other settings; these differ: seed: 5 -> 0"),
    "other images": (altered(other_data), "other images"),
    "other metrics": (altered(other_rows), "metrics.jsonl does not begin with"),
    "somebody else's": (altered(not_ours), "not from a run of `rbd-ipu train`"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(broken, experiment, monkeypatch, kind):
    monkeypatch.chdir(broken)
    damage, reason = DAMAGE[kind]
    last, before = listed(broken / "checkpoints")[:2]
    damage(last)
    there = content(broken)
    found = resume.find(experiment, RunFolder(broken))
    assert found.checkpoint.path == before
    ((path, said),) = found.refused
    assert path == last and reason in said
    assert content(broken) == there and not (broken / "trapped").exists()


def test_where_all_are_damaged_nothing_happens(broken, capsys):
    first, second, third, *others = listed(broken / "checkpoints")
    for path in others:
        path.unlink()
    first.write_bytes(b"")
    flipped(second)
    third.write_bytes(pickle.dumps(Trap()))
    there = content(broken)
    assert main(["train", "--resume", "--output", str(broken)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rbd-ipu: error: none of the checkpoints in ") and "Nothing has been changed" in said
    for path, reason in ((first, "empty"), (second, "cut short or altered"), (third, "no checkpoint of rbd_ipu")):
        assert any(path.name in line and reason in line for line in said.splitlines())
    assert content(broken) == there


def test_another_number_of_workers_is_refused(broken, experiment, monkeypatch):
    """Also where the settings do not say how many there are, as those of an IPU's replicas."""
    found = resume.find(experiment, RunFolder(broken)).checkpoint
    assert found.about["workers"] == 1
    monkeypatch.setattr(experiment.trainer.device.exchange, "workers", 4)
    there = content(broken)
    with pytest.raises(ConfigError, match="it is from a run with 1 workers, and here there are 4"):
        resume.find(experiment, RunFolder(broken))
    assert content(broken) == there


def left(folder, *names):
    """A folder with what a run has left that was killed before it had settings."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n" if name == "run.json" else "")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("run.json",),
        ("run.json", ".lock", "tune/tune.json"),
        ("run.json", ".lock", ".draft-config.yaml"),
        (".lock",),
    ],
)
def test_a_run_that_was_killed_before_it_had_settings_begins_again(tmp_path, names):
    resume.clear_abandoned(left(tmp_path, *names))
    assert not list(tmp_path.iterdir())
    check_free(tmp_path)


@pytest.mark.parametrize(
    "names", [("run.json", ".lock", "mine.txt"), (".draft-config.yaml",), ("tune/a",), ("config.yaml", "run.json")]
)
def test_a_folder_with_other_things_is_left_as_it_is(tmp_path, names):
    resume.clear_abandoned(left(tmp_path, *names))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / name for name in names}
    resume.clear_abandoned(tmp_path / names[0])  # no folder
    resume.clear_abandoned(tmp_path / "none")


def test_of_two_that_clear_a_folder_one_has_its_lock(tmp_path, monkeypatch):
    """The second one has opened the lock just before the first one removes it."""
    real, calls = files._opened, []

    def opened(path):
        file = real(path)
        calls.append(path)
        if len(calls) == 1:
            resume.clear_abandoned(tmp_path)
        return file

    left(tmp_path, "run.json", ".lock")
    monkeypatch.setattr(files, "_opened", opened)
    with locked(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
        with pytest.raises(ConfigError, match=f"another run is at work there, process {os.getpid()}"):
            resume.clear_abandoned(tmp_path)
    assert len(calls) == 4  # the second one's, that of the first, the second one's anew, and the refused one


def test_who_waited_for_a_folder_to_be_cleared_looks_again(tmp_path, monkeypatch):
    """Meanwhile another process has begun a run there, and ended."""
    real = files._taken

    def taken(file):
        left(tmp_path, "config.yaml")
        return real(file)

    monkeypatch.setattr(files, "_taken", taken)
    resume.clear_abandoned(left(tmp_path, "run.json"))
    assert sorted(os.listdir(tmp_path)) == [".lock", "config.yaml", "run.json"]


def test_where_they_are_gone_nothing_happens(broken, experiment):
    for path in listed(broken / "checkpoints"):
        path.unlink()
    with pytest.raises(ConfigError, match="no checkpoint to go on from, though the run has recorded epochs"):
        resume.find(experiment, RunFolder(broken))


def test_goes_on_from_the_one_before_and_ends_as_if_nothing_had_been(broken, whole, capsys):
    """The last checkpoint is damaged, and the metrics were ahead of it, with a line that was torn."""
    last, before = listed(broken / "checkpoints")[:2]
    flipped(last)
    damaged = last.read_bytes()
    with open(broken / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    (broken / "checkpoints" / f".draft-{last.name}").write_bytes(b"half a checkpoi")
    assert main(["train", "--quiet", "--resume", "--output", str(broken), "--set", "checkpoint_seconds=0"]) == 0
    error = capsys.readouterr().err
    assert f"rbd-ipu: {last} is left alone: its model/" in error and "is damaged, cut short or altered" in error
    same_as(broken, whole)
    assert not list((broken / "checkpoints").glob(".draft-*"))
    facts = json.loads((broken / "run.json").read_text())
    assert facts["outcome"] == "finished" and facts["d"] == 10
    (resumed,) = facts["resumed"]
    assert (resumed["step"], resumed["epochs"]) == (checkpoints.load(before).step, 1)
    assert resumed["command"].startswith("rbd-ipu train --quiet --resume") and resumed["versions"]
    assert last.read_bytes() != damaged  # the same step came again, and was saved


# --- what may change, and what not --------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, said",
    [
        ("dim=11", "dim: 10 -> 11"),
        ("seed=1", "seed: 0 -> 1"),
        ("network=cnn", "network: fc -> cnn"),
        ("dataset=mnist", "dataset: digits -> mnist"),
        ("method=sgd", "method: rbd -> sgd"),
        ("learning_rate=2", "learning_rate: 1.0 -> 2.0"),
        ("batch_size=16", "batch_size: 32 -> 16"),
        ("distribution=uniform", "distribution: normal -> uniform"),
        ("hold_out=false", "hold_out: True -> False"),
        ("epochs=2", "2 are wanted, but 3 are recorded"),
        ("dim=many", "must be an integer"),
        ("sede=1", "unknown key 'sede'"),
    ],
)
def test_settings_that_decided_the_numbers_cannot_change(broken, capsys, setting, said):
    there = content(broken)
    assert main(["train", "--resume", "--output", str(broken), "--set", setting]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert content(broken) == there


def test_all_differences_are_shown_at_once(broken):
    with pytest.raises(ConfigError, match="these differ: dim: 10 -> 3, seed: 0 -> 4; only epochs, device, "):
        resume.settings(RunFolder(broken), from_assignments(["dim=3", "epochs=9", "seed=4"]))


def test_the_same_settings_again_are_fine(broken):
    given = {**from_file(broken / "config.yaml"), **from_assignments(["data_dir=/elsewhere", "epochs=7"])}
    config = resume.settings(RunFolder(broken), given)
    assert (config.dim, config.epochs, config.data_dir) == (10, 7, "/elsewhere")
    assert resume.settings(RunFolder(broken), from_assignments(["learning_rate=null"])).learning_rate == 1.0


@pytest.mark.parametrize(
    "stored, given, said",
    [
        ({"top_k": 5}, "top_k", "top_k: 5 -> None"),
        ({}, "top_k", None),
        ({"method": "nes", "sigma": 0.5}, "sigma", "sigma: 0.5 -> None"),
        ({"dataset": "tiny_shakespeare", "network": "gpt", "width": 64}, "width", "width: 64 -> 96"),
        ({"dataset": "tiny_shakespeare", "network": "gpt"}, "width", None),
        ({}, "width", None),
        ({"method": "switch"}, "switch_epoch", None),
        ({"method": "switch"}, "sgd_learning_rate", None),
        ({"method": "switch", "switch_step": 9}, "switch_step", "switch_step: 9 -> None"),
        ({"data_dir": "there"}, "data_dir", None),
    ],
)
def test_null_stands_for_what_a_run_without_the_setting_has(tmp_path, stored, given, said):
    config = resolve({"dim": 10, "learning_rate": 1.0, **stored})
    (tmp_path / "config.yaml").write_text(dumps(config.as_dict()))
    words = from_assignments([f"{given}=null", "epochs=40"])
    if said is None:
        known = getattr(config, given) if given != "data_dir" else None
        assert getattr(resume.settings(RunFolder(tmp_path), words), given) == known
    else:
        with pytest.raises(ConfigError, match=f"these differ: {said};"):
            resume.settings(RunFolder(tmp_path), words)


# --- folders that there is nothing to do in -----------------------------------------------------------


def test_a_finished_run_says_so(whole, capsys):
    there = content(whole)
    assert main(["train", "--resume", "--output", str(whole)]) == 0
    assert capsys.readouterr().out == f"finished already after 3 epochs\nfolder      {whole}\n"
    assert content(whole) == there


def test_without_a_run_there_is_nothing_to_resume(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "claimed").mkdir()
    (tmp_path / "claimed" / "run.json").write_text("{}\n")
    for name, said in (("none", "is not there"), ("empty", "is not there"), ("claimed", "before it had written")):
        assert main(["train", "--resume", "--output", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["claimed", "empty"] and os.listdir(tmp_path / "empty") == []
    assert main(["train", "--resume"]) == 2
    assert "--resume needs --output" in capsys.readouterr().err


def test_a_second_run_in_the_folder_is_refused(broken, capsys):
    with locked(broken):
        assert main(["train", "--resume", "--output", str(broken)]) == 2
    assert f"another run is at work there, process {os.getpid()}" in capsys.readouterr().err


# --- SIGTERM, in the middle of an epoch ---------------------------------------------------------------


def test_sigterm_saves_and_the_run_goes_on_from_there(tmp_path, whole, capsys, monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)  # a step a call
    check, calls = callbacks.StopOnInterrupt._check, []

    def terminate(self):
        calls.append(1)
        if len(calls) == 50:
            os.kill(os.getpid(), 15)
        check(self)

    monkeypatch.setattr(callbacks.StopOnInterrupt, "_check", terminate)
    folder = tmp_path / "run"
    assert main(["train", *WORDS, "--set", "epochs=3", "--output", str(folder)]) == 143
    assert "SIGTERM: stopping" in capsys.readouterr().err or calls
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["outcome"], facts["message"]) == ("terminated", "ended by SIGTERM")
    found = checkpoints.newest(folder / "checkpoints")
    assert found.progress.epoch == 1 and found.progress.step == 12
    assert (folder / "checkpoints" / "stopped.weights.h5").exists()
    assert main(["train", "--quiet", "--resume", "--output", str(folder)]) == 0
    same_as(folder, whole)
    assert not (folder / "checkpoints" / "stopped.weights.h5").exists()


# --- what the disk and other people do ----------------------------------------------------------------


def test_a_folder_that_is_removed_while_the_run_is_at_work(tmp_path, capsys, monkeypatch):
    real = metrics.append

    def append(path, row):
        if row["epoch"] == 2:
            shutil.rmtree(str(tmp_path / "run"))
        real(path, row)

    monkeypatch.setattr(metrics, "append", append)
    status = main(["train", *WORDS, "--set", "epochs=3", "--output", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert status == 4
    assert f"rbd-ipu: cannot write {tmp_path}/run/metrics.jsonl: No such file or directory" in error
    assert "Traceback" not in error and not (tmp_path / "run").exists()


@pytest.mark.skipif(not installed("tensorboard"), reason="needs tensorboard")
def test_a_file_where_the_events_would_be(broken, capsys):
    shutil.rmtree(str(broken / "tensorboard"))
    (broken / "tensorboard").write_text("")
    assert main(["train", "--quiet", "--resume", "--output", str(broken)]) == 4
    error = capsys.readouterr().err
    assert f"rbd-ipu: cannot write {broken}/tensorboard" in error and "Traceback" not in error
    assert json.loads((broken / "run.json").read_text())["outcome"] == "not written"


def test_data_that_were_cut_short_are_refused_by_name(tmp_path, tfds_dir, capsys):
    shutil.copytree(str(tfds_dir / "mnist"), str(tmp_path / "mnist"))
    (victim,) = (tmp_path / "mnist").rglob("*train.tfrecord*")
    os.truncate(str(victim), victim.stat().st_size // 2)
    words = ["--set", "dataset=mnist", "--set", f"data_dir={tmp_path}", "--output", str(tmp_path / "run")]
    assert main(["train", *WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert victim.name in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()
