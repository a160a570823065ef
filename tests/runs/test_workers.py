"""A process's place among the workers, by the variables of its launcher; and the settings of workers."""

import pytest

from rbd_ipu.config import resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.ranks import LAUNCHERS, Task, task, tf_config
from rbd_ipu.runs.workers import several

# --- whose place is whose --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {}, "task": {}}',
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:http"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": true}}',
    ],
)
def test_a_wrong_tf_config_is_quoted(text):
    with pytest.raises(ConfigError, match="TF_CONFIG must be of the form") as caught:
        task({"TF_CONFIG": text})
    assert text in str(caught.value)


def test_the_index_may_be_text_as_some_schedulers_write_it():
    assert task({"TF_CONFIG": tf_config(0, ["a:1", "b:1"]).replace('"index": 0', '"index": "1"')}).index == 1


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


def test_groups_are_options_of_the_method():
    config = resolve({**GROUPED, "simulate_workers": 16, "group_levels": 2})
    assert (config.options()["group_size"], config.options()["group_levels"]) == (4, 2)


def test_split_gives_each_worker_its_share_of_the_directions():
    config = resolve({"simulate_workers": 5, "parallel": "split", "dim": 250})
    assert config.dim == 250 and config.options()["dim"] == 50


# --- launchers of MPI ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank, size", LAUNCHERS)
def test_a_launcher_of_mpi_says_who_a_process_is(rank, size):
    found = task({rank: "2", size: "4"})
    assert found == Task(2, 4, rank) and found.mpi
    assert task({rank: "0", size: "1"}) is None, "one process alone is a worker on its own"


def test_a_batch_script_of_slurm_is_no_rank():
    assert task({"SLURM_PROCID": "0", "SLURM_NTASKS": "64", "SLURM_JOB_ID": "7"}) is None


def test_a_launcher_and_a_tf_config_contradict_each_other():
    environment = {"PMI_RANK": "0", "PMI_SIZE": "2", "TF_CONFIG": tf_config(0, ["a:1", "b:1"])}
    with pytest.raises(ConfigError, match="one of 2 that talk through MPI, and TF_CONFIG one of 2"):
        task(environment)


def test_a_run_has_as_many_workers_as_the_launcher_has_started(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "4")
    assert several({})["workers"].value == 4
    assert several({"workers": Given(4, "--workers 4")})["workers"].value == 4
    with pytest.raises(ConfigError, match="--workers 8: the launcher has started 4 processes"):
        several({"workers": Given(8, "--workers 8")})
