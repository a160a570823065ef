"""``rbd-ipu table`` and ``rbd-ipu figure``, from end to end under the smallest budget."""

import json
import struct

import pytest

from rbd_ipu.cli import main
from rbd_ipu.files import installed
from rbd_ipu.lab import presets
from rbd_ipu.lab.pool import attempts

# Table 4 makes six trainings that nothing else needs; those beside the paper go through the same code.
SLOW = ("table3", "table4", "tableX1", "tableX3", "figureX1", "figureX3", "figureB9", "figureB10", "figureB12")
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in presets.names()]
TWICE = ("table1", "figure2", "figure3")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One folder for all tables and figures: runs that they share are made once."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "none").mkdir()
    return folder


def command(name, *words):
    kind = "table" if name.startswith("table") else "figure"
    return [kind, name[len(kind) :], *words]


def smoke(name, shared):
    words = ("--budget", "smoke", "--jobs", "0", "--output", str(shared), "--results", str(shared / "none"))
    return main(command(name, *words))


@pytest.mark.parametrize("name", ALL)
def test_it_runs_from_end_to_end(name, shared, capsys):
    assert smoke(name, shared) == 0
    captured = capsys.readouterr()
    assert "[budget smoke: " in captured.out
    assert "a rough guess" in captured.err or "measured epochs" in captured.err or not presets.load(name).cells
    assert "not measured" not in captured.out
    files = {path.name for path in shared.glob(f"{name}-smoke.*")}
    wanted = {f"{name}-smoke.{end}" for end in ("md", "csv", "tex", "txt")}
    if presets.load(name).kind not in ("table", "rates") and installed("matplotlib"):
        wanted.add(f"{name}-smoke.png")
        head = (shared / f"{name}-smoke.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">2I", head[16:])) > 400
    assert wanted <= files


@pytest.mark.parametrize("name", TWICE)
def test_a_second_time_nothing_is_left_to_do_and_the_same_is_shown(name, shared, capsys):
    assert smoke(name, shared) == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in shared.glob("runs/*/*/run.json")}
    assert smoke(name, shared) == 0
    again = capsys.readouterr()
    assert again.out == first and "to do: none" in again.err
    assert before == {path: path.stat().st_mtime_ns for path in shared.glob("runs/*/*/run.json")}


def test_runs_of_one_setting_are_shared(shared):
    for name in ("table1", "figureB6"):
        assert smoke(name, shared) == 0
    folders = list((shared / "runs").iterdir())
    assert len({folder.name for folder in folders}) == len(folders) and all(len(attempts(f)) == 1 for f in folders)
    same = [
        json.loads((shared / f"{name}-smoke.jsonl").read_text().splitlines()[0]) for name in ("table1", "figureB6")
    ]
    assert same[0]["kind"] == "run" and set(same[0]) == set(same[1])


def test_other_runs_are_found_by_their_settings(shared, tmp_path, capsys):
    assert smoke("table1", shared) == 0
    shown = capsys.readouterr().out
    words = ("--budget", "smoke", "--only-show", "--results", str(shared / "none"))
    assert main(command("table1", *words, "--output", str(tmp_path / "new"), "--runs", str(shared))) == 0
    assert capsys.readouterr().out == shown
    published = str(shared / "table1-smoke.jsonl")
    assert main(command("table1", *words[:3], "--results", published, "--output", str(tmp_path / "other"))) == 0
    assert capsys.readouterr().out == shown


def test_only_show_trains_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "3", "--only-show", "--budget", "smoke"]) == 0
    captured = capsys.readouterr()
    assert "not measured" in captured.out and "to do: 3 runs" in captured.err
    assert captured.err.count("there is no folder results here, so that no run on record is known") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("only", "to_do"), [(["rbd, 10x"], "1 runs"), (["RBD"], "4 runs"), (["sgd", "FPD"], "2 runs"), ([], "6 runs")]
)
def test_only_some_cells_are_trained_and_all_are_shown(only, to_do, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word for text in only for word in ("--only", text)]
    assert main(["table", "3", "--only-show", "--budget", "1x1", *words]) == 0
    captured = capsys.readouterr()
    assert f"budget 1x1: {to_do}" in captured.err and "FPD, 10x reduction" in captured.out


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "latex"])
def test_rates_need_no_training(form, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "4", "--format", form, "--only-show"]) == 0
    assert {"text": "Table 4: ", "markdown": "| FC-MNIST |", "csv": "table4,FC-MNIST,RBD,", "latex": r"\hline"}[
        form
    ] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "9"], "invalid choice: '9'"),
        (["figure", "B.7"], "invalid choice: 'B.7'"),
        (["table", "1", "--jobs", "-1"], "--jobs"),
        (["table", "1", "--jobs", "two"], "must be an integer from 0, not 'two'"),
        (["table", "1", "--budget", "half"], "--budget half: must be full"),
        (["table", "1", "--runs", "nowhere"], "nowhere: there is no such folder"),
        (["table", "1", "--only-show", "--results", "nope"], "--results nope: there is no such file or folder"),
        (["figure", "B9", "--results", "nope"], "--results nope: there is no such file or folder"),
        (["table", "1", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["table", "1", "--only", "FC-MINST"], '--only FC-MINST: no cell has that in its name; there are "FC-MNIST,'),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_is_said_once_and_the_rest_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RBD_DATA_DIR", str(tmp_path / "no_data"))
    words = ["table", "1", "--budget", "1x1", "--output", str(tmp_path / "here"), "--results", str(tmp_path)]
    assert main(words) == 0
    error = capsys.readouterr().err
    for dataset in ("mnist", "fashion_mnist", "cifar10"):
        assert error.count(f"data set '{dataset}' is not in ") == 1
    assert "to do: none" in error
