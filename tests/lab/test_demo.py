"""The demonstration: its table, its files, and that random bases lie where the paper says."""

import csv
import json
import os

import pytest

from rbd_ipu import files
from rbd_ipu.cli import main
from rbd_ipu.config import resolve
from rbd_ipu.lab import demo


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _run(method, seed, accuracy, speed=(1.0, 100.0, 300.0)):
    config = resolve({"method": method, "seed": seed, "learning_rate": 1.0, "epochs": len(speed)})
    rows = [
        {"epoch": epoch + 1, "val_accuracy": 0.5, "images_per_second": value} for epoch, value in enumerate(speed)
    ]
    d = 1000 if method == "sgd" else 10
    return demo.Run(config, rows, {"accuracy": accuracy, "loss": 1.0}, 1.0, d, 1000)


def test_the_table_is_mean_sample_deviation_and_median():
    runs = [_run("rbd", 0, 0.90), _run("rbd", 1, 0.94), _run("sgd", 0, 0.97)]
    sgd, rbd = demo.table(runs)
    assert (sgd["method"], sgd["d"], sgd["compression"], sgd["seeds"]) == ("SGD", 1000, 1.0, 1)
    assert sgd["test_accuracy_std"] is None
    assert rbd["test_accuracy_mean"] == pytest.approx(92.0)
    assert rbd["test_accuracy_std"] == pytest.approx(8.0**0.5)
    assert rbd["compression"] == 100.0
    # The first epoch of each run, which compiles, does not count.
    assert rbd["images_per_second_median"] == 200.0
    text = demo.render([sgd, rbd])
    assert "92.0 +- 2.8" in text and "97.0 " in text and len(text.splitlines()) == 3


def test_the_plan_is_three_methods_with_rates_on_record():
    configs = demo.configs(demo.FULL)
    assert [config.method for config in configs] == ["sgd"] * 3 + ["rbd"] * 3 + ["fpd"] * 3
    assert {config.seed for config in configs} == {0, 1, 2}
    assert {config.dim for config in configs} == {None, demo.FULL.dim}
    assert {config.epochs for config in configs} == {40}  # as the rates were tuned


def test_the_command_leaves_table_numbers_and_picture(monkeypatch, capsys):
    monkeypatch.setattr(demo, "QUICK", demo.Plan(epochs=1, seeds=(0,)))
    assert main(["demo", "--quick", "--output", "here"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("SGD", "RBD", "FPD", "images/s", "here"))
    names = {"demo.json", "demo.csv"}
    names |= {"curves.png"} if files.installed("matplotlib") else set()
    assert set(os.listdir("here")) == names
    with open("here/demo.json") as file:
        document = json.load(file)
    assert document["command"] == "rbd-ipu demo --quick --output here"
    assert [run["config"]["method"] for run in document["runs"]] == ["sgd", "rbd", "fpd"]
    assert [row["D"] for row in document["table"]] == [9610] * 3
    with open("here/demo.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["SGD", "RBD", "FPD"]


def test_ctrl_c_keeps_the_runs_that_are_done(monkeypatch, capsys):
    done = iter([_run("sgd", 0, 0.97), _run("sgd", 1, 0.98)])

    def train(config):
        try:
            return next(done)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(demo, "train", train)
    assert main(["demo", "--output", "here"]) == 130
    captured = capsys.readouterr()
    assert "97.5 +- 0.7" in captured.out and "Ctrl-C" in captured.err
    with open("here/demo.json") as file:
        assert len(json.load(file)["runs"]) == 2


def test_an_existing_folder_is_never_written_over(tmp_path, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").touch()
    assert main(["demo", "--output", "here"]) == 2
    assert "never written over" in capsys.readouterr().err


@pytest.mark.slow
def test_random_bases_lie_between_a_fixed_projection_and_sgd():
    plan = demo.FULL._replace(seeds=(0, 1))
    sgd, rbd, fpd = demo.table([demo.train(config) for config in demo.configs(plan)])
    assert sgd["test_accuracy_mean"] > 96.0
    assert sgd["test_accuracy_mean"] - 8.0 < rbd["test_accuracy_mean"] < sgd["test_accuracy_mean"]
    assert rbd["test_accuracy_mean"] > fpd["test_accuracy_mean"] + 20.0
    assert rbd["compression"] > 300.0
