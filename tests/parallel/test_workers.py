"""Which worker a process is, by the variables of its launcher; groups of workers.

In groups everybody's message arrives, everybody gets an answer, and the bytes are counted once.
"""

import math

import pytest

from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.cost_model import gathered, groups_time, traffic
from rbd_ipu.parallel.workers import LAUNCHERS, Groups, Task, groups, task, tf_config, tree

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
    with pytest.raises(ConfigError, match="one of 2 that communicate by MPI, and TF_CONFIG one of 2"):
        task(environment)


CASES = [(16, Groups(4, 1)), (16, Groups(4, 2)), (24, Groups(2, 3)), (9, Groups(3, 2)), (12, Groups(6, 1))]


@pytest.mark.parametrize("size", range(1, 35))
def test_the_tree_reaches_all_in_log2_hops(size):
    depth = {0: 0}
    for index in range(size):  # a parent comes before its children
        parent, children = tree(index, size)
        assert (parent is None) == (index == 0)
        for child in children:
            assert child not in depth and tree(child, size)[0] == index
            depth[child] = depth[index] + 1
    assert sorted(depth) == list(range(size))
    assert max(depth.values()) <= math.ceil(math.log2(size))
    assert len(tree(0, size)[1]) == math.ceil(math.log2(size))


@pytest.mark.parametrize("workers, made", CASES)
def test_every_worker_but_the_last_leaders_is_in_one_group_above_it(workers, made):
    taken = []
    for k in range(workers):
        for level in range(1, made.leads(k) + 1):
            members = made.members(k, level)
            assert members[0] == k and len(members) == made.size
            assert all(made.leader(member) == k for member in members[1:])
            assert all(made.leads(member) == level - 1 for member in members[1:])
            taken += members[1:]
    last = [k for k in range(workers) if made.leader(k) is None]
    assert sorted([*taken, *last]) == list(range(workers)) and len(last) == made.messages(workers)


@pytest.mark.parametrize("workers, made", CASES)
def test_what_is_sent_is_received(workers, made):
    all_of = [traffic(7, workers, made, k) for k in range(workers)]
    assert sum(one.sent for one in all_of) == sum(one.received for one in all_of)
    assert all(
        one.received >= 7 * (made.messages(workers) - (made.leader(k) is None)) for k, one in enumerate(all_of)
    )


@pytest.mark.parametrize("workers", [2, 16, 64])
def test_without_groups_it_is_an_all_gather(workers):
    assert {traffic(41, workers, Groups(), k) for k in range(workers)} == {(gathered(41, workers),) * 2}
    assert groups_time(41, workers, Groups(), 100.0, 0.0) == gathered(41, workers) / 100.0
    assert groups_time(0, workers, Groups(), 100.0, 0.5) == 0.5 * math.log2(workers)


def test_bytes_of_whole_trees_do_not_grow_with_the_workers():
    """Of an ordinary worker; a leader's grow with the logarithm."""
    ways = [(4**levels, Groups(4, levels)) for levels in range(1, 7)]
    assert {traffic(41, K, made, K - 1) for K, made in ways} == {(41.0, 41.0)}
    assert [traffic(1, K, made, 0) for K, made in ways] == [(2.0 * n, 3.0 * n) for n in range(1, 7)]
    times = [groups_time(1, K, made, 1.0, 0.0) for K, made in ways]
    assert times == [5.0 * n for n in range(1, 7)]


@pytest.mark.parametrize("size, levels, words", [
    (0, 1, "group_size"), (1.5, 1, "group_size"), (2, 0, "group_levels"), (True, 1, "group_size"),
    (1, 3, "group_levels=3 is for groups"),
])  # fmt: skip
def test_refusals(size, levels, words):
    with pytest.raises((TypeError, ValueError), match=words):
        groups(size, levels)
