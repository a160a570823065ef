"""The command line: what it prints, its exit status, and real runs from settings to a folder."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbd_ipu import __version__
from rbd_ipu.cli import COMMANDS, main
from rbd_ipu.config import FIELDS, from_file, resolve
from rbd_ipu.runs import metrics

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
# Tests run against an installed wheel or against the checkout; a child finds the same package.
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _fails(capsys, *words):
    """Runs a command that must be refused: status 2, one message, nothing written."""
    try:
        status = main(words)
    except SystemExit as stop:  # argparse's own errors
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2, captured
    assert "Traceback" not in captured.err
    assert os.listdir(".") == [] or words[-1] == "prepared"
    return captured.err


# --- words ---------------------------------------------------------------------------------------


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"rbd-ipu {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], *([row.name, "--help"] for row in COMMANDS)])
def test_help_needs_no_tensorflow(words):
    code = (
        "import sys; from rbd_ipu.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules), 'a slow import'"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: rbd-ipu")


def test_the_help_of_train_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for key in FIELDS:
        assert f"\n  {key} " in text
    assert "exit status:" in text


def test_commands_and_options_that_do_not_exist(capsys):
    message = _fails(capsys, "trian")
    assert "trian" in message and all(row.name in message for row in COMMANDS)
    assert "COMMAND" in _fails(capsys)
    assert "unrecognized arguments: --epochs=3" in _fails(capsys, "train", "--epochs=3")
    assert "unrecognized arguments: --conf" in _fails(capsys, "train", "--conf", "a.yaml")


def test_choices_are_the_rows_of_the_registries():
    from rbd_ipu.compartments import SCHEMES
    from rbd_ipu.data import DATASETS
    from rbd_ipu.devices import DEVICES
    from rbd_ipu.directions import SOURCES, distribution_names, source
    from rbd_ipu.methods import METHODS
    from rbd_ipu.models import NETWORKS

    def choices(key):
        return set(FIELDS[key]["kind"].names)

    assert choices("dataset") == set(DATASETS)
    assert choices("network") == set(NETWORKS)
    assert choices("method") == set(METHODS)
    source.resolve("auto")  # brings the rows
    assert choices("source") == {"auto", *SOURCES}
    assert choices("device") == set(DEVICES)
    forms = FIELDS["distribution"]["kind"].rule.split(" | ")
    assert {form.partition(":")[0] for form in forms} == set(distribution_names())
    schemes = {name.lower() for name in FIELDS["compartments"]["kind"].rule.split(" | ")}
    assert schemes == {name.lower() for name in SCHEMES}


@pytest.mark.parametrize("method", FIELDS["method"]["kind"].names)
def test_a_method_takes_exactly_the_keys_that_the_schema_gives_it(method):
    from rbd_ipu.methods import METHODS
    from rbd_ipu.methods.base import options_of

    accepted, required = options_of(METHODS.get(method))
    config = resolve({"method": method, "learning_rate": 1.0})
    assert set(required) <= set(config.options()) <= set(accepted)
    own = {key for key, facts in FIELDS.items() if method in (facts["methods"] or ())} - {"switch_epoch"}
    assert own | {"learning_rate", "momentum"} == set(accepted) - {"seed"}


# --- bad input: status 2, one message, nothing written -------------------------------------------


@pytest.mark.parametrize(
    "settings, reason",
    [
        (["dim=0"], "--set dim=0: must be an integer from 1, not 0"),
        (["dim=-5"], "--set dim=-5: must be an integer from 1, not -5"),
        (["dim=2.5"], "must be an integer from 1, not 2.5"),
        (["seed=2147483648"], "must be an integer from 0 to 2147483647, not 2147483648"),
        (["distribution=cauchy"], "must be normal | uniform | rademacher | "),
        (["compartments=even"], "must be global | even:K"),
        (["learning_rate=.nan"], "must be a finite number above 0 in float32, 1.2e-38 to 3.4e38, not nan"),
        (["lr=1"], "unknown key 'lr'"),
        (["epoch=1"], "did you mean epochs?"),
        (["dim=3"], "set learning_rate: none is on record for rbd with dim 3 on digits fc"),
        (["method=sgd", "dim=3"], "method sgd takes no dim"),
        (["seed=1", "seed=1"], "seed is already set by --set seed=1"),
        (["batch_size=5000"], "batch_size 5000 is more than the 1197 training images of digits"),
        (["compartments=even:20000", "learning_rate=1"], "more compartments than the 9610"),
        (["compartments=even:251", "learning_rate=1"], "251 compartments"),
        (["compartments=factor:50", "dim=7", "learning_rate=1"], "dim=7 contradicts it"),
        (["device=gpu"], "GPU"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(capsys, settings, reason):
    if settings == ["device=gpu"]:
        from rbd_ipu._compat import tf

        if tf.config.list_logical_devices("GPU"):
            pytest.skip("there is a GPU here")
    words = [word for setting in settings for word in ("--set", setting)]
    assert reason in _fails(capsys, "train", *words)


def test_a_data_set_that_is_not_there(capsys, tmp_path):
    message = _fails(capsys, "train", "--set", "dataset=mnist", "--set", f"data_dir={tmp_path}/none")
    assert f"{tmp_path}/none" in message


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_config_that_cannot_be_read(capsys, name):
    assert f"rbd-ipu: error: {name}: cannot be read" in _fails(capsys, "train", "--config", name)


def test_an_existing_folder_is_never_written_over(capsys, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "thesis.tex").write_text("years of work")
    assert "never written over" in _fails(capsys, "train", "--output", "prepared")
    assert os.listdir("prepared") == ["thesis.tex"]


def test_an_output_whose_name_is_no_text_is_refused(capsys):
    """TensorFlow takes UTF-8 only: it would fail in the middle of the first epoch."""
    assert r"'x\udcff': the name is not UTF-8" in _fails(capsys, "train", "--output", "x\udcff")


def test_an_output_folder_that_cannot_be_made(capsys, monkeypatch):
    def mkdir(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    status = main(["train", "--output", "frozen/run", "--set", "epochs=1"])
    error = capsys.readouterr().err
    assert (status, error) == (4, "rbd-ipu: error: cannot write frozen/run: Read-only file system\n")
    assert os.listdir(".") == []


def test_without_tensorflow_the_message_names_the_extra(tmp_path):
    (tmp_path / "empty").mkdir()
    code = "import sys; sys.modules['tensorflow'] = None; from rbd_ipu.cli import main\nsys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "rbd-ipu[cpu]" in done.stderr and "Traceback" not in done.stderr
    assert not Path("runs").exists()


# --- real runs -----------------------------------------------------------------------------------


def test_train_from_nothing_to_a_folder_and_again(capsys, tmp_path):
    assert main(["train", "--set", "epochs=2", "--quiet"]) == 0
    captured = capsys.readouterr()
    folder = Path(captured.out.strip())  # --quiet prints the path alone
    assert folder.parent == Path("runs") and folder.name.startswith("digits-fc-rbd-")
    config = resolve(from_file(folder / "config.yaml"))
    assert config == resolve({"epochs": 2})

    rows = metrics.read(folder / "metrics.jsonl")
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 37), (2, 74)]
    assert all(row[name] is not None for row in rows for name in metrics.COLUMNS)
    result = json.loads((folder / "result.json").read_text())
    assert result["outcome"] == "finished"
    assert rows[1]["val_accuracy"] == result["validation"]["accuracy"]
    assert result["test"]["accuracy"] > 0.3
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["d"], facts["D"]) == (250, 9610)
    assert facts["command"] == "rbd-ipu train --set epochs=2 --quiet"

    # The folder's own settings give the same run again, to the last bit.
    again = tmp_path / "again"
    words = ["train", "--config", str(folder / "config.yaml"), "--output", str(again), "--quiet"]
    assert main(words) == 0
    for old, new in zip(rows, metrics.read(again / "metrics.jsonl")):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "correlation"):
            assert old[name] == new[name], name


def test_what_train_says(capsys):
    words = ["--set", "method=sgd", "--set", "epochs=1", "--set", "learning_rate=2**-3"]
    assert main(["train", *words, "--output", "here"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fc on digits, sgd, D = 9,610, learning rate 0.125, seed 0\n")
    assert "37/37 - " in out and "val_accuracy: " in out  # Keras' line for the epoch
    assert out.rstrip().splitlines()[-1] == "folder      here"
    assert "finished after 1 epochs" in out


def test_a_run_that_is_not_finite(capsys):
    words = ["--set", "method=sgd", "--set", "learning_rate=2**100", "--set", "epochs=3"]
    assert main(["train", *words, "--output", "here", "--quiet"]) == 3
    captured = capsys.readouterr()
    assert "not finite" in captured.err and "learning rate" in captured.err
    assert json.loads(Path("here/run.json").read_text())["outcome"] == "not finite"
    assert Path("here/checkpoints/stopped.weights.h5").exists()


def _wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_ctrl_c_ends_a_run_cleanly(tmp_path):
    words = ["train", "--set", "epochs=1000000", "--output", "here", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rbd_ipu", *words],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = tmp_path / "here" / "metrics.jsonl"
        _wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 3, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "interrupted by Ctrl-C" in error and "Traceback" not in error
    rows = metrics.read(lines)
    result = json.loads(Path("here/result.json").read_text())
    assert (result["outcome"], result["epochs"]) == ("interrupted", len(rows))
    assert Path("here/checkpoints/last.weights.h5").exists()
    assert json.loads(Path("here/run.json").read_text())["outcome"] == "interrupted"


@pytest.mark.skipif(shutil.which("rbd-ipu") is None, reason="the package is not installed")
def test_the_installed_command():
    done = subprocess.run(["rbd-ipu", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"rbd-ipu {__version__}\n"


def test_nothing_is_held_out_where_so_asked(capsys):
    """The validation images are trained on; the validation numbers are the test's."""
    words = ["train", "--set", "epochs=1", "--set", "hold_out=false", "--output", "run", "--quiet"]
    assert main(words) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["validation"]["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-6)
    assert metrics.read("run/metrics.jsonl")[0]["step"] == 1497 // 32
