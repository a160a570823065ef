"""Results: read from run folders and files, merged, written, and found again by their settings."""

import json

import pytest
from fake_runs import folder, result

from rbd_ipu.config import resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import results
from rbd_ipu.lab.results import key, stem


def config(**settings):
    return resolve({"learning_rate": 0.5, "dim": 8, "epochs": 3, **settings})


def test_a_run_folder_becomes_a_row(tmp_path):
    folder(tmp_path / "deep" / "run", config(seed=7), [0.1, 0.2, 0.3])
    (row,) = results.from_folder(tmp_path)
    assert (row["outcome"], row["epochs"], row["seed"], row["seconds"]) == ("finished", 3, 7, 6.0)
    assert row["values"]["val_accuracy"] == 0.3 and row["values"]["test_accuracy"] == 0.75
    assert row["curves"]["val_accuracy"] == [0.1, 0.2, 0.3] and row["curves"]["loss"] == [0.333333] * 3
    assert (row["commit"], row["d"], row["D"], row["data"]) == ("abc", 8, 1000, {"images.npz": "00c0ffee" * 8})
    assert row["command"].startswith("rbd-ipu train")
    assert results.config_of(row) == config(seed=7)


def test_the_folder_itself_may_be_the_run(tmp_path):
    path = folder(tmp_path / "run", config(), [0.1, 0.2, 0.3])
    assert results.from_folder(path) == results.from_folder(tmp_path)


def test_a_run_that_was_killed_counts_with_its_finished_epochs(tmp_path):
    folder(tmp_path / "a", config(), [0.1, 0.2], outcome="running", half_a_line=True)
    folder(tmp_path / "b", config(seed=1), [], outcome="running")
    (row,) = results.from_folder(tmp_path)
    assert (row["epochs"], row["outcome"]) == (2, "running")


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        results.from_folder(tmp_path / "none")
    path = folder(tmp_path / "a", config(), [0.1])
    (path / "config.yaml").write_text("dimm: 3\n")
    with pytest.raises(ConfigError, match="config.yaml.*unknown key 'dimm'"):
        results.from_folder(tmp_path)


def test_rows_are_written_and_read_back(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text('{"kind": "rate", "x": 1}\n')
    rows = [result(config(seed=s), [0.1, 0.2, 0.3]) for s in (0, 1)]
    results.write(file, rows)
    results.write(file, rows)
    assert results.read(file) == rows == results.read(tmp_path)
    assert file.read_text().count("\n") == 3  # the row of another kind is still there, once
    assert results.read(tmp_path / "none") == []


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"kind": "run"}',
        '{"kind": "run", "settings": {"dimm": 1}}',
        '{"kind": "run", "settings": {"learning_rate": 1.0}, "epochs": 1, "outcome": "finished"}',
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"kind": "other"}\n' + line + "\n")
    with pytest.raises(ConfigError, match="a.jsonl:2: not a result"):
        results.read(tmp_path)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"seconds": None}, "seconds: must be a finite number, not null"),
        ({"values": None}, "values: must be a mapping, not null"),
        ({"values": {"val_accuracy": "x"}}, "values: val_accuracy: must be a finite number, not the text 'x'"),
        ({"values": {"val_accuracy": 10**400}}, "values: val_accuracy: must be a finite number, not 1000"),
        ({"curves": {"loss": [0.5, "x", 1]}}, "curves: loss: must be a finite number, not the text 'x'"),
        ({"curves": {"loss": [0.5]}}, "curves: loss: must have a number for each epoch"),
        ({"epochs": True}, "epochs: must be an integer from 0, not true"),
        ({"commit": 7}, "commit: must be text, not 7"),
        ({"d": "x"}, "d: must be an integer from 0, not the text 'x'"),
        ({"machine": []}, "machine: must be a mapping, not a list"),
        ({"settings": {**config().as_dict(), "dimm": 3}}, "unknown key 'dimm'"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, changed, message):
    row = result(config(), [0.1, 0.2, 0.3])
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, **changed}) + "\n")
    with pytest.raises(ConfigError, match=f"a.jsonl:1: not a result: .*{message}"):
        results.read(tmp_path)
    del row["seconds"]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="seconds: is missing"):
        results.read(tmp_path)


def test_an_analysis_without_its_numbers_is_named(tmp_path):
    row = {"kind": "analysis", "preset": "figure2", "budget": "full"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="a.jsonl:1: not a result: options: is missing"):
        results.read(tmp_path, "analysis")
    row.update(options={}, panels=[], lines=[], command="x", commit=None, modified=False, machine={"processor": "x"})
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="panels and lines: must have one at least"):
        results.read(tmp_path, "analysis")
    assert results.read(tmp_path) == []


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("metrics.jsonl", {"seconds": "x"}, "metrics.jsonl:1: seconds: must be a finite number, not the text 'x'"),
        ("result.json", {"test": {"accuracy": "x"}}, "test: accuracy: must be a finite number, not the text 'x'"),
        ("run.json", {"outcome": "finished", "d": "x"}, "run.json: d: must be an integer from 0, not the text 'x'"),
        ("run.json", {"outcome": "finished", "commit": 7}, "run.json: commit: must be text, not 7"),
    ],
)
def test_a_file_of_a_run_with_a_field_of_another_kind_is_named(tmp_path, name, content, message):
    (folder(tmp_path / "a", config(), [0.1]) / name).write_text(json.dumps(content) + "\n")
    with pytest.raises(ConfigError, match=message):
        results.from_folder(tmp_path)


def test_of_two_rows_of_a_run_the_one_that_ended_counts():
    partial, whole = result(config(), [0.1, 0.2], "running"), result(config(), [0.1, 0.2, 0.3])
    other = result(config(seed=1), [0.5])
    assert results.merge([partial], [whole, other]) == results.merge([whole], [partial, other]) == [whole, other]


def test_the_key_is_that_of_the_settings_that_decide_the_numbers():
    base = config()
    assert key(base) == key(config(source="counter", data_dir="/somewhere"))
    assert key(base) == key(resolve(base.as_dict()))
    changes = {"seed": 1, "epochs": 4, "dim": 9, "learning_rate": 0.25, "augment": False, "batch_size": 16}
    keys = {key(config(**{name: value})) for name, value in changes.items()}
    assert len(keys | {key(base)}) == len(changes) + 1
    same = {name for name, value in changes.items() if stem(config(**{name: value})) == stem(base)}
    assert same == {"seed", "epochs"}


def test_rows_are_strict_json(tmp_path):
    path = folder(tmp_path / "a", config(), [0.1])
    (row,) = results.from_folder(path)
    row["curves"]["loss"] = [float("nan")]
    results.write(tmp_path / "x.jsonl", [row])
    assert json.loads((tmp_path / "x.jsonl").read_text())["curves"]["loss"] == [None]
