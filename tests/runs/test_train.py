"""The settings of several workers."""

from unittest import mock

import pytest

from rbd_ipu.config import resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.runs import train
from rbd_ipu.runs.train import several

GROUPED = {"method": "compressed", "learning_rate": 0.01, "group_size": 4}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"workers": 0}, "must be an integer from 1"),
        ({"workers": 2, "simulate_workers": 2}, "only one of them may be more than 1"),
        ({"simulate_workers": 3, "parallel": "split"}, "dim must be a multiple of 3, not 250"),
        ({**GROUPED, "simulate_workers": 6}, "makes 4 workers one; .* must be a multiple of 4, not 6"),
        ({**GROUPED, "workers": 8, "group_levels": 2}, "makes 16 workers one; .* must be a multiple of 16, not 8"),
        (
            {**GROUPED, "group_size": 1, "group_levels": 2},
            "group_levels=2 is for groups: group_size must be 2 or more",
        ),
        ({"method": "rbd", "group_size": 4, "simulate_workers": 4}, "group_size"),
        ({"exchange": "update", "wire": "int8"}, "with exchange=update it must be float32"),
        ({"parallel": "all"}, "must be one of own, shared, same-data, split"),
        ({"worker_timeout": 0}, "must be a finite number above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(settings)


def test_a_folder_that_another_run_took_before_the_lock_is_refused(tmp_path, monkeypatch):
    def new_folder(*_):
        (tmp_path / "config.yaml").write_text("epochs: 1\n")
        return tmp_path

    monkeypatch.setattr(train, "prepare", mock.MagicMock(**{"return_value.trainer.device.compiles_only": False}))
    monkeypatch.setattr(train, "new_folder", new_folder)
    made = []
    with pytest.raises(ConfigError, match="another run has just taken the folder"):
        train.train({}, [], tmp_path, made=made.append)
    assert not made and (tmp_path / "config.yaml").read_text() == "epochs: 1\n"


def test_groups_are_options_of_the_method():
    config = resolve({**GROUPED, "simulate_workers": 16, "group_levels": 2})
    assert (config.options()["group_size"], config.options()["group_levels"]) == (4, 2)


def test_split_gives_each_worker_its_share_of_the_directions():
    config = resolve({"simulate_workers": 5, "parallel": "split", "dim": 250})
    assert config.dim == 250 and config.options()["dim"] == 50


def test_a_run_has_as_many_workers_as_the_launcher_has_started(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "4")
    assert several({})["workers"].value == 4
    assert several({"workers": Given(4, "--workers 4")})["workers"].value == 4
    with pytest.raises(ConfigError, match="--workers 8: the launcher has started 4 processes"):
        several({"workers": Given(8, "--workers 8")})
