"""The settings of a command line: the file, --set over it, options that stand for a setting."""

import argparse

import pytest

from rbd_ipu.cli import train
from rbd_ipu.errors import ConfigError


def parsed(*words):
    parser = argparse.ArgumentParser()
    train.add_search(parser, "test", "runs at a time", "The end.")
    return parser.parse_args(words)


def test_set_and_options_go_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("dim: 3\nepochs: 5\nseed: 1\n")
    given = train.settings_of(parsed("--config", str(path), "--set", "dim=4", "--epochs", "6"), "epochs")
    assert {key: entry.value for key, entry in given.items()} == {"dim": 4, "epochs": 6, "seed": 1}
    origins = [given[key].origin for key in ("dim", "epochs", "seed")]
    assert origins == ["--set dim=4", "--epochs 6", f"{path}: seed"]


def test_an_option_and_set_do_not_give_the_same_setting():
    with pytest.raises(ConfigError, match="^--set epochs=2: epochs is already set by --epochs 2$"):
        train.settings_of(parsed("--set", "epochs=2", "--epochs", "2"), "epochs")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "two"])
def test_a_count_is_an_integer_from_1(text, capsys):
    with pytest.raises(SystemExit):
        parsed(f"--jobs={text}")
    assert f"must be an integer from 1, not {text!r}" in capsys.readouterr().err
