"""`rbd-ipu train --set replay_log=true`, resumed and replayed by `rbd-ipu replay`."""

import json
import shutil

import h5py
import numpy as np
import pytest
from workers import starting

from rbd_ipu import checkpoints, replay
from rbd_ipu._compat import KERAS_3, keras
from rbd_ipu.checkpoints.file import listed
from rbd_ipu.cli import main

WORDS = ["--quiet", "--set", "method=compressed", "--set", "learning_rate=2**-7", "--set", "replay_log=true"]


def weights(path):
    """All arrays of a file of weights, by name; not those of an optimizer, which a run's file has none of."""
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, x: found.update({name: x[...]}) if isinstance(x, h5py.Dataset) else None)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_last_weights_are_made_again(whole, tmp_path, capsys):
    output = tmp_path / "again.weights.h5"
    assert main(["replay", str(whole), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "111 steps, method compressed, workers 1, d = 76 of D = 9,610" in said
    assert "108 bytes a step" in said and "step 111 made again in" in said and "steps a second" in said
    assert same(weights(output), weights(whole / "checkpoints" / "last.weights.h5"))
    assert main(["replay", str(whole), "--output", str(output)]) == 2
    assert "is there already, and is not written over" in capsys.readouterr().err


def test_the_weights_of_a_checkpoint_are_made_again_from_the_file_alone(whole, tmp_path):
    log, end = tmp_path / "a.log", "keras" if KERAS_3 else "h5"
    shutil.copy(str(whole / "replay.log"), str(log))
    found = next(path for path in listed(whole / "checkpoints") if checkpoints.load(path).progress.epoch == 2)
    wanted = checkpoints.load(found)
    line = ["replay", str(log), "--step", str(wanted.step)]
    assert main([*line, "--output", str(tmp_path / f"a.{end}")]) == 0
    model = keras.models.load_model(str(tmp_path / f"a.{end}"), compile=False)
    for one, other in zip(model.get_weights(), wanted.arrays["model"]):
        np.testing.assert_array_equal(one, other)


def test_starting_weights_may_be_given(whole, tmp_path, capsys):
    start = tmp_path / "start.weights.h5"
    assert main(["replay", str(whole), "--step", "0", "--output", str(start)]) == 0
    assert main(["replay", str(whole), "--step", "4", "--weights", str(start)]) == 0
    capsys.readouterr()
    other = whole / "checkpoints" / "last.weights.h5"
    assert main(["replay", str(whole), "--weights", str(other), "--output", str(tmp_path / "a.h5")]) == 2
    said = capsys.readouterr().err
    assert "starting weights with SHA-256" in said and "give them with --weights FILE" in said
    assert not (tmp_path / "a.h5").exists()


def broken(whole, folder):
    """That run, as if it had been killed in its third epoch, with a record half written."""
    shutil.copytree(str(whole), str(folder))
    for path in listed(folder / "checkpoints"):
        if checkpoints.load(path).progress.epoch == 3:
            path.unlink()
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "outcome": "running"}))
    with open(folder / "replay.log", "ab") as file:
        file.write(b"a part")
    return folder


def test_a_killed_run_goes_on_with_the_same_log(whole, tmp_path):
    folder = broken(whole, tmp_path / "run")
    assert main(["train", "--quiet", "--resume", "--output", str(folder)]) == 0
    assert (folder / "replay.log").read_bytes() == (whole / "replay.log").read_bytes()


def test_a_damaged_log_ends_no_run_silently(whole, tmp_path, capsys):
    folder = broken(whole, tmp_path / "run")
    data = bytearray((folder / "replay.log").read_bytes())
    data[replay.read_log(folder).start + 3 * 108] ^= 1
    (folder / "replay.log").write_bytes(bytes(data))
    assert main(["train", "--quiet", "--resume", "--output", str(folder)]) == 0  # from the checkpoint of step 0
    said = capsys.readouterr().err
    assert "replay.log does not begin with the steps that it had when this was written" in said
    assert (folder / "replay.log").read_bytes() == (whole / "replay.log").read_bytes()


@pytest.mark.parametrize("settings, words", [
    ({"method": "sgd"}, "replay_log is for the methods rbd, fpd, compressed"),
    ({"method": "rbd", "network": "resnet8", "dim": "10"}, "moving statistics of batch normalisation"),
    ({"method": "rbd", "simulate_workers": "2", "exchange": "update"}, "exchange=update"),
])  # fmt: skip
def test_what_cannot_be_replayed_is_refused_before_anything_is_written(settings, words, tmp_path, capsys):
    given = {"learning_rate": "1", "replay_log": "true", **settings}
    line = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", "--quiet", *line, "--output", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_is_no_log(whole, tmp_path, capsys):
    (tmp_path / "a").write_bytes(b"nothing of the kind")
    for words, said in (
        ([str(tmp_path / "a")], "is no replay log of rbd_ipu: it begins with b'nothing of the'"),
        ([str(tmp_path / "none")], "none: there is no such file"),
        ([str(tmp_path)], "there is no replay.log; a run with replay_log=true has one"),
        ([str(whole), "--weights", str(tmp_path / "none.h5")], "none.h5: there is no such file"),
        ([str(whole), "--step", "112"], "has 111 steps, and step 112 is asked for"),
        ([str(whole), "--output", "a.npz"], "accepted endings are .weights.h5, .keras, .h5"),
    ):
        assert main(["replay", *words]) == 2
        assert said in capsys.readouterr().err


@starting.mpi
@starting.linux
def test_ranks_write_the_log_of_simulated_workers(tmp_path):
    words = ["train", *WORDS, "--set", "epochs=1", "--output"]
    assert main([*words, str(tmp_path / "simulated"), "--set", "simulate_workers=2"]) == 0
    process = starting.module(["rbd_ipu", *words, str(tmp_path / "ranks"), "--workers", "2"])
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    logs = [replay.read_log(tmp_path / name) for name in ("simulated", "ranks")]
    assert logs[0].steps == logs[1].steps == 18
    np.testing.assert_array_equal(*[log.records(0, 18) for log in logs])
