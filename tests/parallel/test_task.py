"""Which worker a process is, by the variables of its launcher."""

import pytest

from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.task import LAUNCHERS, Task, task, tf_config

# --- TF_CONFIG -------------------------------------------------------------------------------------


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
