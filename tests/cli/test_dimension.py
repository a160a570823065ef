"""``rbd-ipu dimension``: what it leaves, how it goes on, and what it refuses; one real search on the digits."""

import csv
import json
from pathlib import Path

import fake_runs
import pytest

from rbd_ipu.cli import main
from rbd_ipu.cli.lab import METHODS
from rbd_ipu.config import from_assignments, resolve
from rbd_ipu.dimension import keras_model
from rbd_ipu.files import installed
from rbd_ipu.lab import pool

SHORT = ("dimension", "--epochs", "1", "--output", "here")
RATES = ("--rates", "4", "--full-rates", "2**-2")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def facts(folder="here"):
    return json.loads((Path(folder) / "dimension.json").read_text())


@pytest.fixture
def trained(monkeypatch):
    """Runs by a formula instead of training, which reach 90 % at d = 100; gives their settings."""
    made = []

    def train(folder, words):
        config = resolve(from_assignments(words))
        made.append(config)
        accuracy = min(1.0, 0.9 * config.dim / 100) if config.dim else 1.0
        diverges = config.learning_rate > 4
        fake_runs.folder(
            folder / "1", config, [] if diverges else [accuracy], "not finite" if diverges else "finished"
        )
        return 3 if diverges else 0

    monkeypatch.setattr(pool, "train", train)
    return made


def test_a_search_leaves_the_curve_the_picture_and_every_run(trained, capsys):
    assert main([*SHORT, *RATES, "--seeds", "2", "--set", "seed=5"]) == 0
    out = capsys.readouterr().out
    kept = facts()
    assert 100 <= kept["dim"] <= 110 and kept["below"] < 100 and kept["finished"] and kept["size"] == 9610
    assert f"d = {kept['dim']} of D = 9,610 reaches 90.00%, 90% of the full space's 100.00%" in out
    assert kept["full"]["accuracy"] == 1.0 and kept["full"]["n"] == 2 and kept["full"]["learning_rate"] == 0.25
    assert {run["seed"] for run in kept["runs"]} == {5, 6}
    assert [one["reaches"] for one in kept["curve"]] == [one["dim"] >= kept["dim"] for one in kept["curve"]]
    (sitting,) = kept["sittings"]
    assert sitting["command"].startswith("rbd-ipu dimension --epochs 1") and sitting["outcome"] == "finished"
    assert {"commit", "modified", "versions", "machine", "started", "ended"} <= set(sitting)
    assert {"commit", "modified", "versions", "machine", "command"} <= set(kept)
    with open("here/curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["dim"]) for row in rows] == [*(one["dim"] for one in kept["curve"]), 9610]
    assert [row["space"] for row in rows][-2:] == ["subspace", "full"]
    assert Path("here/curve.png").exists() == installed("matplotlib")
    assert trained[0].method == "sgd" and trained[0].distribution is None
    assert {config.method for config in trained[2:]} == {"fpd"}
    assert {config.distribution for config in trained[2:]} == {"hadamard"}

    # Again: nothing is trained. Another share, or more seeds: only what is missing.
    count = len(trained)
    assert main([*SHORT, *RATES, "--seeds", "2", "--set", "seed=5"]) == 0
    assert len(trained) == count and "(kept)" in capsys.readouterr().out and len(facts()["sittings"]) == 2
    assert main([*SHORT, *RATES, "--seeds", "2", "--set", "seed=5", "--share", "0.8"]) == 0
    assert len(trained) > count and facts()["dim"] < kept["dim"]
    assert len({(c.method, c.dim, c.learning_rate, c.seed) for c in trained}) == len(trained)


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(trained, monkeypatch, capsys):
    train, count = pool.train, 4

    def interrupted(folder, words):
        return 130 if len(trained) == count else train(folder, words)

    monkeypatch.setattr(pool, "train", interrupted)
    assert main([*SHORT, *RATES]) == 130
    assert "go on with --output here" in capsys.readouterr().err
    assert facts()["sittings"][0]["outcome"] == "interrupted" and not facts()["finished"] and facts()["runs"]
    monkeypatch.setattr(pool, "train", train)
    assert main([*SHORT, *RATES]) == 0
    assert len({(c.dim, c.learning_rate) for c in trained}) == len(trained) == len(facts()["runs"])
    assert capsys.readouterr().out.count("(kept)") == count and facts()["sittings"][1]["outcome"] == "finished"


def test_a_run_that_diverges_is_a_row(trained, capsys):
    assert main([*SHORT, "--rates", "8,4", "--full-rates", "16,0.25"]) == 0
    rows = facts()["runs"]
    lost = [run for run in rows if run["outcome"] == "not finite"]
    assert lost and all(run["accuracy"] is None and run["learning_rate"] > 4 for run in lost)
    assert all(one["diverged"] == 1 and one["learning_rate"] == 4 for one in facts()["curve"])
    assert "not finite" in capsys.readouterr().out and facts()["full"]["diverged"] == 1


def test_no_d_reaches_the_share(trained, capsys):
    assert main([*SHORT, *RATES, "--to", "64"]) == 1
    assert (
        "No d reaches 90.00%, 90% of the full space's 100.00%; the greatest one was d = 64" in capsys.readouterr().out
    )
    assert facts()["dim"] is None and facts()["finished"] and facts()["below"] == 64


def test_every_run_of_the_full_space_diverges(trained, capsys):
    assert main([*SHORT, "--full-rates", "8,16"]) == 1
    assert "Every run of the full space diverged: try lower learning rates." in capsys.readouterr().out


def test_a_run_that_fails_otherwise_stops_the_search_and_is_made_again(trained, monkeypatch, capsys):
    train = pool.train
    monkeypatch.setattr(pool, "train", lambda folder, words: 1 if len(trained) == 2 else train(folder, words))
    assert main([*SHORT, *RATES]) == 1
    assert "failed: exit status 1" in capsys.readouterr().err and facts()["sittings"][0]["outcome"] == "failed"
    monkeypatch.setattr(pool, "train", train)
    assert main([*SHORT, *RATES]) == 0


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda run: (run / "metrics.jsonl").write_text(""), "a run has finished there without a val_accuracy"),
        (lambda run: (run / "metrics.jsonl").unlink(), "a run has finished there without a val_accuracy"),
        (lambda run: (run / "metrics.jsonl").write_text('{"loss": 1}\n'), "finished there without a val_accuracy"),
        (lambda run: (run / "config.yaml").unlink(), "a run has ended there, and its settings are not"),
        (lambda run: (run / "../../../dimension.json").write_text('{"sittings": null}'), "must be a list, not null"),
    ],
)
def test_a_damaged_record_is_named(damage, message, trained, capsys):
    assert main([*SHORT, *RATES, "--to", "4", "--share", "0.01"]) == 0
    damage(next(Path("here/runs").glob("*-sgd-*/1")))
    capsys.readouterr()
    assert main([*SHORT, *RATES, "--to", "4", "--share", "0.01"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--set", "learning_rate=0.5"], "takes no learning_rate: it is looked for at every d; give those to try as"),
        (["--set", "dim=3"], "takes no dim: this is what is looked for; --from and --to are its range"),
        (["--set", "method=nes"], "takes no method: give it as --method fpd or --method rbd"),
        (["--method", "nes"], "invalid choice: 'nes'"),
        (["--set", "netwrk=fc"], "did you mean network?"),
        (["--set", "epochs=2"], "epochs is already set by --epochs 1"),
        (["--set", "compartments=factor:9"], "has a d of its own"),
        (
            ["--set", "compartments=layer"],
            "dim=1 is less than the 2 compartments; each needs at least 1; --from",
        ),
        (["--share", "1.5"], "must be a finite number above 0 to 1, not '1.5'"),
        (["--share", "0"], "must be a finite number above 0 to 1, not '0'"),
        (["--share", "all"], "must be a finite number above 0 to 1, not 'all'"),
        (["--tolerance", "-1"], "must be a finite number from 0 to 1, not '-1'"),
        (["--set", "seed=2147483647", "--seeds", "2"], "--seeds 2: seed: must be an integer from 0 to 2147483647"),
        (["--seeds", "0"], "must be an integer from 1, not '0'"),
        (["--from", "none"], "must be an integer from 1, not 'none'"),
        (["--to", "99999"], "--to must be an integer from 1 to D = 9,610, got 99999"),
        (["--from", "64", "--to", "32"], "--from must be at most --to, got --from=64 and --to=32"),
        (["--also", "1,99999"], "--also must be an integer from 1 to D = 9,610, got 99999"),
        (["--rates", "0"], "must be a finite number above 0, not '0'"),
        (["--rates", "1,one"], "must be a finite number above 0, not 'one'"),
        (["--rates", "1,1"], "must be different ones, not '1,1'"),
        (["--full-rates", "inf"], "must be a finite number above 0, not 'inf'"),
        (["--set", "dataset=mnist", "--set", "data_dir=nowhere"], "nowhere"),
    ],
)
def test_what_is_refused_writes_nothing(words, message, trained, capsys):
    try:
        status = main([*SHORT, *words])
    except SystemExit as error:  # argparse
        status = error.code
    assert status == 2 and message in capsys.readouterr().err
    assert not trained and not Path("here").exists()


def test_other_folders_and_other_settings_are_refused(trained, capsys):
    assert main([*SHORT, *RATES]) == 0
    before = {path: path.read_bytes() for path in Path("here").glob("*.*")}
    assert main([*SHORT, *RATES, "--set", "batch_size=16", "--method", "rbd"]) == 2
    said = capsys.readouterr().err
    assert "a search with other settings is kept there: batch_size as usual there and 16 here, method fpd" in said
    assert {path: path.read_bytes() for path in Path("here").glob("*.*")} == before
    Path("other").mkdir()
    (Path("other") / "notes.txt").write_text("mine")
    assert main([*SHORT[:-1], "other"]) == 2
    assert "exists and is not empty, and holds no search (dimension.json)" in capsys.readouterr().err
    Path("file").write_text("")
    assert main([*SHORT[:-1], "file"]) == 2 and "it is a file" in capsys.readouterr().err


def test_the_methods_are_those_of_the_library():
    assert METHODS == keras_model.METHODS


@pytest.mark.slow
def test_a_real_search(capsys):
    words = ["--set", "batch_size=128", "--rates", "16", "--full-rates", "1", "--share", "0.5", "--to", "64"]
    assert main([*SHORT, *words, "--from", "16", "--tolerance", "1"]) in (0, 1)
    kept = facts()
    assert kept["finished"] and 0.3 < kept["full"]["accuracy"] <= 1 and 16 <= kept["curve"][0]["dim"] <= 64
    runs = [json.loads(path.read_text()) for path in Path("here/runs").glob("*/1/run.json")]
    assert sorted(run["d"] for run in runs) == sorted([*(one["dim"] for one in kept["curve"]), 9610])
    for run in kept["runs"]:
        assert run["epochs"] == 1 and run["outcome"] == "finished"
