"""A disk that takes no more: what was there stays, the file is named, the exit status is 4."""

import json
import os

import numpy as np
import pytest
from nets import blobs, dense, flat

import rbd_ipu
from rbd_ipu import checkpoints, methods, training
from rbd_ipu._compat import KERAS_3, keras
from rbd_ipu.checkpoints.file import listed
from rbd_ipu.cli import main
from rbd_ipu.runs import metrics, new_folder


def test_the_checkpoints_before_stay_and_serve(tmp_path, monkeypatch, file_size_limit):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    data = blobs(128)

    class Fill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if t.step == 6:
                file_size_limit(1000)

    def trainer():
        return rbd_ipu.Trainer(dense(), methods.create("rbd", learning_rate=0.25, dim=20), "cpu")

    t = trainer()
    keeper = checkpoints.Checkpoints(tmp_path, t, seconds=0)
    with pytest.raises(OSError) as caught:
        t.fit(data, epochs=2, verbose=0, callbacks=[Fill(), keeper])
    assert caught.value.filename == str(tmp_path / "step-000000006.checkpoint")
    assert [path.name for path in listed(tmp_path)] == [f"step-00000000{n}.checkpoint" for n in (5, 4, 3)]
    assert not list(tmp_path.glob(".draft*"))

    file_size_limit(10**9)  # somebody has made room
    t, whole = trainer(), trainer()
    t.fit(data, epochs=2, verbose=0, start=checkpoints.restore(t, checkpoints.newest(tmp_path)))
    whole.fit(data, epochs=2, verbose=0)
    np.testing.assert_array_equal(flat(t.model), flat(whole.model))


@pytest.mark.parametrize("end", ["h5", "keras"] if KERAS_3 else ["h5"])
def test_a_model_that_does_not_fit_is_an_error_with_its_name(end, tmp_path, capsys, file_size_limit):
    model, base = dense(), tmp_path / f"base.{end}"
    model.save(str(base))
    model.compile(rbd_ipu.FixedProjectionDescent(0.5, dim=16), "mse")
    rbd_ipu.save_delta(tmp_path / "a.delta", model, dense())
    file_size_limit(4000)
    words = ["apply", str(tmp_path / "a.delta"), "--model", str(base), "--output", str(tmp_path / f"b.{end}")]
    assert main(["delta", *words]) == 4
    error = capsys.readouterr().err
    assert error.startswith("rbd-ipu: error: cannot write ") and f"b.{end}" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.delta", f"base.{end}"]


def test_a_folder_on_a_full_disk_can_be_taken_again(tmp_path, file_size_limit):
    file_size_limit(0)
    with pytest.raises(OSError) as caught:
        new_folder(tmp_path / "run", "")
    assert caught.value.filename == str(tmp_path / "run" / "run.json")
    file_size_limit(10**9)
    assert new_folder(tmp_path / "run", "") == tmp_path / "run"


def test_a_run_whose_disk_is_full_goes_on_once_there_is_room(tmp_path, capsys, monkeypatch, file_size_limit):
    real = metrics.append

    def append(path, row):
        real(path, row)
        if row["epoch"] == 1:
            file_size_limit(3000)

    monkeypatch.setattr(metrics, "append", append)
    folder = tmp_path / "run"
    words = ["--quiet", "--set", "dim=10", "--set", "learning_rate=1", "--set", "epochs=2", "--output", str(folder)]
    assert main(["train", *words]) == 4
    error = capsys.readouterr().err
    assert f"rbd-ipu: cannot write {folder}/checkpoints/" in error and "Traceback" not in error
    assert len(metrics.read(folder / "metrics.jsonl")) == 1
    # The epoch's row was written and the state after it was not: the row is not counted, and comes again.
    assert checkpoints.newest(folder / "checkpoints").progress.epoch == 0
    monkeypatch.undo()
    file_size_limit(10**9)
    assert main(["train", "--quiet", "--resume", "--output", str(folder)]) == 0
    assert [row["epoch"] for row in metrics.read(folder / "metrics.jsonl")] == [1, 2]
    assert json.loads((folder / "run.json").read_text())["outcome"] == "finished"
    assert not [name for name in os.listdir(folder / "checkpoints") if name.startswith(".draft")]
