"""Runs on record: each once, without the folder it was made in, and only with the data it was trained on."""

import json
from pathlib import Path

import pytest
from fake_runs import folder, result

from rbd_ipu import files
from rbd_ipu.config import resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import results
from rbd_ipu.lab.publish import main, publish
from rbd_ipu.lab.results import key

PUBLISHED = Path(__file__).parents[2] / "results"


def config(**settings):
    return resolve({"learning_rate": 0.5, "dim": 8, "epochs": 2, **settings})


def test_ended_runs_are_added_once(tmp_path, capsys):
    runs, published = tmp_path / "runs", tmp_path / "results"
    published.mkdir()
    before = result(config(), [0.1, 0.2])
    results.write(published / "digits-fc.jsonl", [before])
    folder(runs / "known", config(), [0.3, 0.4])
    folder(runs / "new", config(seed=1), [0.1, 0.2])
    folder(runs / "other", config(network="cnn"), [0.5, 0.6])
    folder(runs / "unfinished", config(seed=2), [0.1], outcome="running")
    assert main([str(runs), "--results", str(published)]) == 0
    assert capsys.readouterr().out.count(": 1 more\n") == 2
    assert publish([runs], published) == {}
    first, second = results.read(published / "digits-fc.jsonl")
    assert first == before and second["seed"] == 1 and second["data"] == {"images.npz": "00c0ffee" * 8}
    assert second["command"] == "rbd-ipu train --quiet" and str(tmp_path) not in json.dumps(second)
    assert len(results.read(published / "digits-cnn.jsonl")) == 1


def test_a_run_without_its_data_is_refused(tmp_path):
    path = folder(tmp_path / "runs", config(), [0.1, 0.2])
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(files.document({**facts, "data": None}))
    with pytest.raises(ConfigError, match="does not say which data"):
        publish([tmp_path / "runs"], tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_analyses_too(tmp_path):
    row = {
        "kind": "analysis",
        "preset": "figureB8",
        "budget": "full",
        "options": {"pairs": 3},
        "panels": [{"title": "", "xlabel": "n", "ylabel": "", "lines": []}],
        "lines": [["n", "mean |cos|"]],
        "command": "rbd-ipu x",
        "commit": None,
        "modified": False,
        "machine": {"processor": "A processor"},
    }
    (tmp_path / "paper").mkdir()
    results.write(tmp_path / "paper" / "figureB8.jsonl", [{**row, "command": "rbd-ipu x --output /somewhere"}])
    (tmp_path / "results").mkdir()
    assert publish([tmp_path / "paper"], tmp_path / "results") == {"analyses.jsonl": 1}
    assert publish([tmp_path / "paper"], tmp_path / "results") == {}
    assert results.read(tmp_path / "results", "analysis") == [row]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no results beside the package")
def test_the_rows_of_this_repository():
    rows = results.read(PUBLISHED)
    keys = [key(results.config_of(row)) for row in rows]
    assert len(keys) == len(set(keys))  # each run once
    assert keys == [row["key"] for row in rows]  # by which the pages name it
    for row in rows:
        if row["settings"]["dataset"] == "cifar10" or row["started"] >= "2026-11-29":
            assert row["data"], row["command"]  # or it may be of JPEG copies
    copies = {(row["settings"]["dataset"], tuple(sorted(row["data"].items()))) for row in rows if row.get("data")}
    assert len(copies) == len({dataset for dataset, _ in copies})  # one copy of each data set
    assert {row["settings"]["dataset"] for row in results.read(PUBLISHED / "jpeg")} == {"cifar10"}
