"""A learning rate that is not on record: the commands that the message proposes, and learning_rate=auto."""

import json
import re
import shlex

import pytest

from rbd_ipu import cli
from rbd_ipu.config import from_assignments, from_file, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import tuning
from rbd_ipu.lab.trials import Trial
from rbd_ipu.runs import train

SETTINGS = ["--set", "dim=50", "--set", "epochs=1", "--set", "learning_rate=auto"]


def proposed(assignments):
    with pytest.raises(ConfigError) as caught:
        resolve(from_assignments(assignments))
    return [shlex.split(line) for line in str(caught.value).splitlines() if line.startswith("  rbd-ipu ")]


@pytest.mark.parametrize(
    "assignments",
    [["dim=50"], ["momentum=0.5", "dim=250", "augment=false"], ["dim=50", "workers=2", "data_dir=/a b"]],
)
def test_the_message_proposes_commands_for_just_this_setting(assignments):
    tune, run = proposed(assignments)
    assert tune[:2] == ["rbd-ipu", "tune"] and run[:2] == ["rbd-ipu", "train"]
    arguments = cli.build_parser().parse_args(tune[1:])
    assert arguments.start == 4 or "dim=250" in assignments
    rate = {"learning_rate": 1.0}
    wanted = resolve({**from_assignments(assignments), **rate})
    found = resolve({**from_assignments(arguments.settings), **rate})
    assert found.all_workers == wanted.all_workers
    assert (found.dim, found.momentum, found.augment) == (wanted.dim, wanted.momentum, wanted.augment)
    settings = cli.build_parser().parse_args(run[1:]).settings
    assert settings.pop() == "learning_rate=auto" and resolve({**from_assignments(settings), **rate}) == wanted


def test_a_rate_of_sgd_within_another_method_is_tuned_for_sgd():
    (tune,) = proposed(["dataset=mnist", "network=resnet8", "sgd_layers=logits", "learning_rate=1"])
    assert "method=sgd" in tune and not any(word.startswith("sgd_layers") for word in tune)


def trial(order):
    loss = 1.0 + abs(order.exponent - 2)
    return Trial(order.exponent, "finished", 9.0, [loss], [0.5], [loss], order.config.epochs, 0.1)


def test_a_search_says_what_it_chose_and_keeps_it(tmp_path, monkeypatch):
    def one_by_one(orders):
        while orders():
            yield trial(orders()[0])

    monkeypatch.setattr(tuning, "one_by_one", one_by_one)
    said = []
    config = resolve({"dim": 50, "learning_rate": 1.0, "workers": 2})
    exponent, path = tuning.search(config, tmp_path / "run-tune", "rbd-ipu train", said.append)
    assert exponent == 2 and re.search("learning_rate 2[*][*]2 is chosen.*1.0000.*lowest of", said[-1])
    facts = json.loads((path / "tune.json").read_text())
    assert facts["choice"]["learning_rate"] == 4.0 and facts["settings"]["epochs"] == 3
    tried = [json.loads(line)["exponent"] for line in (path / "grid.jsonl").read_text().splitlines()]
    assert tried[0] == 4 and set(tried) >= {0, 1, 2, 3, 4, 5, 6}


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """A search that has found 2**-1."""

    def search(config, output, command, say):
        calls.append((config, output))
        output.mkdir()
        for name in ("tune.json", "grid.jsonl"):
            (output / name).write_text("{}")
        return -1, output

    calls = []
    monkeypatch.setattr(tuning, "search", search)
    return calls


def test_a_run_goes_on_with_what_was_found(tmp_path, searched):
    run = tmp_path / "run"
    assert cli.main(["train", *SETTINGS, "--output", str(run), "--quiet"]) == 0
    assert searched[0][1] == tmp_path / "run-tune" and (run / "tune" / "tune.json").exists()
    assert from_file(run / "config.yaml")["learning_rate"].value == 0.5
    again = ["train", "--set", "epochs=2", "--set", "learning_rate=auto", "--output", str(run), "--resume", "--quiet"]
    assert cli.main(again) == 0 and len(searched) == 1
    assert from_file(run / "config.yaml")["learning_rate"].value == 0.5
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_workers_are_started_after_the_search_with_what_was_found(tmp_path, searched, monkeypatch):
    started = []

    def elsewhere(config, words, folder=None):
        started.append((config.learning_rate, words))
        return 0

    monkeypatch.setattr(train, "elsewhere", elsewhere)
    assert cli.main(["train", *SETTINGS, "--workers", "2", "--output", str(tmp_path / "run")]) == 0
    ((rate, words),) = started
    assert rate == 0.5 and "learning_rate=2**-1" in words and "learning_rate=auto" not in words


def test_one_process_of_several_does_not_search(tmp_path, searched, monkeypatch, capsys):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert cli.main(["train", *SETTINGS, "--workers", "2", "--output", str(tmp_path / "run")]) == 2
    assert "this process is one of several" in capsys.readouterr().err and not searched


@pytest.mark.slow
def test_a_search_and_its_run_are_real(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", *SETTINGS, "--output", str(run)]) == 0
    exponent = int(re.search(r"learning_rate 2[*][*](-?\d+) is chosen", capsys.readouterr().out)[1])
    assert from_file(run / "config.yaml")["learning_rate"].value == 2.0**exponent
    assert json.loads((run / "tune" / "tune.json").read_text())["choice"]["exponent"] == exponent
    given = tmp_path / "given"
    words = ["--set", "dim=50", "--set", "epochs=1", "--set", f"learning_rate=2**{exponent}"]
    assert cli.main(["train", *words, "--output", str(given), "--quiet"]) == 0
    losses = [json.loads((d / "metrics.jsonl").read_text().splitlines()[0])["loss"] for d in (run, given)]
    assert losses[0] == losses[1]
