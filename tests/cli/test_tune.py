"""``rbd-ipu tune``: real searches on the digits, killed and gone on with, and what it refuses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu import methods, models
from rbd_ipu.cli import main
from rbd_ipu.config import resolve
from rbd_ipu.data import load
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import trials
from rbd_ipu.lab.trials import FINISHED, NOT_FINITE, STOPPED, Trial, prepared, train
from rbd_ipu.lab.tuning import Order, at_once, opened

SGD = ("--set", "method=sgd", "--epochs", "2")
CONFIG = resolve({"method": "sgd", "epochs": 2, "learning_rate": 1.0})


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines(folder="here"):
    return [json.loads(text) for text in (Path(folder) / "grid.jsonl").read_text().splitlines()]


def facts(folder="here"):
    return json.loads((Path(folder) / "tune.json").read_text())


# --- the images --------------------------------------------------------------------------------------


def keys(split):
    return {image.tobytes() for image in split.images}


def test_a_quarter_of_the_training_images_is_held_out():
    digits = load("digits")
    tuning = digits.for_tuning()
    assert (len(tuning.train), len(tuning.validation)) == (898, 299) and tuning.test is digits.test
    assert keys(tuning.train) | keys(tuning.validation) == keys(digits.train)
    together = np.concatenate([tuning.train.labels, tuning.validation.labels])
    np.testing.assert_array_equal(np.bincount(together), np.bincount(digits.train.labels))
    again, other = digits.for_tuning(), digits.for_tuning(seed=1)
    np.testing.assert_array_equal(again.validation.images, tuning.validation.images)
    assert keys(other.validation) != keys(tuning.validation) and len(digits.train) == 1197
    counts = np.bincount(tuning.validation.labels, minlength=10)
    assert (abs(counts - 0.25 * np.bincount(digits.train.labels)) < 20).all()  # at random, not the first ones


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan"), True, "half", None])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match="share must be a number above 0 and below 1, got"):
        load("digits").for_tuning(share)


def test_validation_and_test_images_take_no_part():
    experiment, digits = prepared(CONFIG), load("digits")
    seen = keys(experiment.data.train) | keys(experiment.data.validation)
    assert seen == keys(digits.train)
    assert experiment.batches.steps_per_epoch == 898 // 32
    joined = prepared(dataclasses.replace(CONFIG, hold_out=False))
    assert len(joined.data.train) + len(joined.data.validation) == 1497


def test_batches_that_do_not_fit_into_three_quarters_are_refused():
    with pytest.raises(ConfigError, match="batch_size 1000 is more than the 898 images of digits"):
        prepared(dataclasses.replace(CONFIG, batch_size=1000))


# --- one rate ----------------------------------------------------------------------------------------


def test_a_trial_is_a_plain_training_on_three_quarters():
    done = train(CONFIG, -3)
    tuning = load("digits").for_tuning()
    trainer = rbd_ipu.Trainer(models.build("fc", (8, 8, 1)), methods.create("sgd", learning_rate=0.125))
    held_out = tuning.evaluation("validation", 256)
    initial = trainer.evaluate(held_out)["loss"]
    history = trainer.fit(tuning.batches(32), held_out, epochs=2, verbose=0).history
    assert (done.exponent, done.outcome, done.epochs, done.again) == (-3, FINISHED, 2, False)
    np.testing.assert_allclose(done.initial_loss, initial, rtol=1e-6)
    np.testing.assert_allclose(done.losses, history["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(done.train_losses, history["loss"], rtol=1e-4)
    np.testing.assert_allclose(done.accuracies, history["val_accuracy"], atol=0.01)
    assert done.loss == done.losses[-1] < initial and done.learning_rate == 0.125


def test_hopeless_rates_are_stopped_unless_run_again():
    assert train(CONFIG, 100).outcome == NOT_FINITE
    slow = train(CONFIG, -19)
    assert slow.outcome == STOPPED and len(slow.losses) == 1 and slow.loss == float("inf")
    again = train(CONFIG, -19, again=True)
    assert again.outcome == FINISHED and len(again.losses) == 2 and again.again
    assert again.losses[0] == pytest.approx(slow.losses[0], rel=1e-6)


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch):
    """Trials by a formula instead of training, lowest at 2**-4; gives the exponents that were tried."""
    exponents = []

    def trial(config, exponent, again):
        exponents.append(exponent)
        outcome = NOT_FINITE if exponent > 7 else FINISHED
        losses = [1.0, 0.1 + abs(exponent + 4)] if outcome == FINISHED else []
        return Trial(exponent, outcome, 2.3, losses, [0.5] * len(losses), losses, 2, 0.0, again)

    monkeypatch.setattr(trials, "train", trial)
    return exponents


def test_a_search_leaves_the_grid_the_choice_and_a_row(made, capsys):
    assert main(["tune", *SGD, "--output", "here", "--from", "2^-2", "--to", "2**-5", "--start", "0.125"]) == 0
    out = capsys.readouterr().out
    assert "<- lowest" in out and "  - {dataset: digits, network: fc, method: sgd, learning_rate: 2**" in out
    rows, kept = lines(), facts()
    assert [row["exponent"] for row in rows] == made and made[0] == -3 and sorted(made) == [-5, -4, -3, -2]
    assert kept["choice"] == {"learning_rate": 2.0**-4, "exponent": -4, "loss": 0.1, "accuracy": 0.5}
    (sitting,) = kept["sittings"]
    assert sitting["command"].startswith("rbd-ipu tune --set method=sgd") and sitting["outcome"] == "finished"
    assert {"commit", "modified", "versions", "machine", "from", "to", "start", "jobs"} <= set(sitting)
    assert kept["held_out"] == 0.25 and kept["settings"]["epochs"] == 2 and "learning_rate" not in kept["settings"]

    # Again: nothing is trained; and a wider range adds its own rates only.
    before = (Path("here") / "grid.jsonl").read_text()
    assert main(["tune", *SGD, "--output", "here", "--from", "2^-2", "--to", "2**-5"]) == 0
    assert (Path("here") / "grid.jsonl").read_text() == before
    assert main(["tune", *SGD, "--output", "here", "--from", "2^-2", "--to", "2**-6"]) == 0
    after = (Path("here") / "grid.jsonl").read_text()
    assert after.startswith(before) and made[4:] == [row["exponent"] for row in lines()[4:]] == [-6]
    assert [row["sitting"] for row in lines()] == [1, 1, 1, 1, 3] and len(facts()["sittings"]) == 3


def environment():
    """A child finds the same package as this process does, installed or not."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_search_that_is_killed_goes_on_and_changes_no_number():
    words = ["tune", *SGD, "--from", "2**-2", "--to", "2**-4"]
    child = subprocess.Popen(
        [sys.executable, "-m", "rbd_ipu", *words, "--output", "here"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    grid, deadline = Path("here") / "grid.jsonl", time.monotonic() + 120
    while not grid.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    said = child.communicate()[1]
    assert grid.exists(), said
    before = grid.read_text()
    assert 1 <= len(before.splitlines()) < 3
    assert main([*words, "--output", "here"]) == 0
    assert grid.read_text().startswith(before)
    assert [row["exponent"] for row in lines()] == [-2, -3, -4]
    for row in lines()[::2]:  # one from before, one from after
        np.testing.assert_allclose(row["losses"], train(CONFIG, row["exponent"]).losses, rtol=1e-5)


def test_ctrl_c_keeps_what_is_done(made, monkeypatch, capsys):
    trial = trials.train

    def interrupted(config, exponent, again):
        if made:
            raise KeyboardInterrupt
        return trial(config, exponent, again)

    monkeypatch.setattr(trials, "train", interrupted)
    assert main(["tune", *SGD, "--output", "here", "--from", "2**-3", "--to", "2**-4"]) == 130
    assert "--output here" in capsys.readouterr().err
    assert [row["exponent"] for row in lines()] == [-3] and facts()["choice"] is None
    assert facts()["sittings"][0]["outcome"] == "interrupted"


def test_no_rate_at_all(made, capsys):
    assert main(["tune", *SGD, "--output", "here", "--from", "2**40", "--to", "2**41"]) == 1
    assert "no rate could be finished" in capsys.readouterr().err and facts()["choice"] is None


@pytest.mark.parametrize(
    "words, message",
    [
        (["--set", "learning_rate=0.5"], "tune looks for the learning rate"),
        (["--set", "learning_rte=0.5"], "did you mean learning_rate?"),
        (["--epochs", "3", "--set", "epochs=2"], "epochs is already set by --epochs 3"),
        (["--epochs", "none"], "--epochs none: must be an integer from 1"),
        (["--start", "2**8"], "--start 2**8: must lie from 2**7 to 2**-19"),
        (["--from", "0.3"], "must be a power of two such as 2**-3, 2^-3 or 0.125, not '0.3'"),
        (["--jobs", "0"], "must be an integer from 1, not '0'"),
        (["--set", "batch_size=1000"], "batch_size 1000 is more than the 898 images"),
        (["--output", "taken"], "exists and is not empty"),
        (["--output", "search"], "other settings is kept there: epochs 9 there and as usual here"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(words, message, capsys):
    Path("taken").mkdir()
    (Path("taken") / "mine").touch()
    Path("search").mkdir()
    (Path("search") / "tune.json").write_text(json.dumps({"decisive": {"method": "sgd", "epochs": 9}}))
    before = sorted(map(str, Path().rglob("*")))
    try:
        status = main(["tune", "--set", "method=sgd", *words])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
    assert sorted(map(str, Path().rglob("*"))) == before


def test_two_searches_cannot_have_one_folder():
    busy = pytest.raises(ConfigError, match="another run is at work there")
    with opened("here", CONFIG, {}, "first"), busy, opened("here", CONFIG, {}, "second"):
        pytest.fail("the second one got the folder")
    with opened("here", CONFIG, {}, "third"):  # the lock ends with its holder
        assert [sitting["command"] for sitting in facts()["sittings"]] == ["first", "third"]


def test_a_folder_claimed_but_not_begun_can_be_used():
    Path("here").mkdir()
    (Path("here") / "tune.json").write_text("{}\n")
    with opened("here", CONFIG, {}, "command"):
        assert facts()["settings"]["method"] == "sgd"


# --- several at once ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_at_once_give_the_same_trials(capsys):
    words = ["tune", *SGD, "--from", "2**-3", "--to", "2**-5", "--jobs", "2", "--output", "here"]
    assert main(words) == 0
    rows = {row["exponent"]: row for row in lines()}
    assert sorted(rows) == [-5, -4, -3]
    for exponent, row in rows.items():
        np.testing.assert_allclose(row["losses"], train(CONFIG, exponent).losses, rtol=1e-4)


def test_a_worker_that_is_refused_says_why():
    wrong = dataclasses.replace(CONFIG, batch_size=1000)
    with pytest.raises(ConfigError, match="batch_size 1000 is more than"):
        list(at_once(lambda: [Order(wrong, -3)], 2))


def test_a_worker_ends_with_its_search(tmp_path):
    long = dataclasses.replace(CONFIG, epochs=100_000)
    order = json.dumps([long.as_dict(), -3, True])
    worker = subprocess.Popen(
        [sys.executable, "-m", "rbd_ipu.lab.tuning", "0", str(tmp_path / "answer"), order],
        env=environment(),
        stdin=subprocess.PIPE,
    )
    worker.stdin.close()  # as when the search is killed
    assert worker.wait(60) != 0 and not (tmp_path / "answer").exists()
