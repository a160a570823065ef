"""Ranks of MPI without TensorFlow: what they say to each other, and what happens when one does not answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from workers import starting
from workers.ranking import SIZES, rows
from workers.starting import eventually, gone

from rbd_ipu.parallel import ranks
from rbd_ipu.parallel.launch import PATIENCE, Launch, run
from rbd_ipu.process import divided, usable

pytestmark = [starting.mpi, starting.linux]


def segments():
    return set(map(str, Path("/dev/shm").glob("mpich_shm_*")))


def ended(what, folder, count=3):
    """What the ranks found, by rank; the lost ones; what was printed. All are gone soon after the fault."""
    words = ["workers.ranking", what, str(folder)]
    before = segments()
    with open(folder / "said", "w") as said, Launch(words, count, stderr=said) as started:
        lost = started.wait()
        processes = list(started.processes.values())
    assert all(map(gone, processes))
    assert not started._segments & segments() - before, "shared memory was left"
    found = {
        k: json.loads((folder / f"{k}.json").read_text()) for k in range(count) if (folder / f"{k}.json").exists()
    }
    return found, lost, (folder / "said").read_text(), started


def test_gather_total_from_first_and_facts(tmp_path):
    found, lost, _, _ = ended("collectives", tmp_path)
    assert lost == [] and sorted(found) == [0, 1, 2]
    for one in found.values():
        assert all(one[f"{way} {n}"] for n in SIZES for way in ("gather", "groups"))
        for n in SIZES:
            assert one[f"total {n}"] == found[0][f"total {n}"], "all ranks have the same bits"
            np.testing.assert_allclose(one[f"total {n}"], rows(3, n).astype(np.float64).sum(axis=0)[:7], atol=1e-5)
        assert one["first"] == "of rank 0" and [row["rank"] for row in one["facts"]] == [0, 1, 2]


@pytest.mark.slow
def test_eight_ranks_in_groups(tmp_path):
    found, lost, _, _ = ended("collectives", tmp_path, 8)
    assert lost == [] and len(found) == 8
    for one in found.values():
        assert all(one[groups] for groups in ("2, 1", "2, 2", "2, 3", "4, 1"))


def test_a_rank_of_a_group_that_is_stopped_is_named(tmp_path):
    """Rank 1 sends nothing to its leader 0; the leader of the other group waits for that one."""
    found, _, _, _ = ended("stopped in groups", tmp_path, 4)
    assert "no answer from rank 1 for" in found[0]["error"] and all("error" in one for one in found.values())


def test_a_rank_of_a_group_that_dies_is_named(tmp_path):
    found, lost, _, _ = ended("killed in groups", tmp_path, 4)
    assert lost == [1] and all("rank 1 has ended" in found[k]["error"] for k in found) and found


def test_ranks_of_one_machine_share_its_cores(tmp_path):
    found, _, _, _ = ended("collectives", tmp_path)
    assert [found[k]["local"] for k in range(3)] == [0, 1, 2] and found[0]["locals"] == 3
    assert [found[k]["cores"] for k in range(3)] == [len(part) for part in divided(usable(), 3)]


def test_ranks_that_differ_are_refused_with_the_difference(tmp_path):
    found, _, _, _ = ended("differs", tmp_path)
    for one in found.values():
        assert one["error"] == "the 3 ranks are not alike: learning_rate: 2.0 on rank 0, 4.0 on rank 2"


def test_a_rank_that_is_killed_is_missed_at_once(tmp_path):
    found, lost, _, started = ended("killed", tmp_path)
    assert lost == [1] and started._segments
    assert found[0]["error"] == "rank 0 of 3: rank 1 has ended; what was recorded before is kept"
    assert found[0]["seconds"] < 5.0


def test_a_rank_that_is_killed_when_all_is_done_keeps_nobody(tmp_path):
    began = time.monotonic()
    assert run(["workers.ranking", "killed at the end", str(tmp_path)], 3) == 0
    assert time.monotonic() - began < PATIENCE + 15.0


def test_a_rank_that_is_stopped_is_named_when_the_time_is_over(tmp_path):
    began = time.monotonic()
    found, lost, _, started = ended("stopped", tmp_path)
    assert "no answer from rank 1 for" in found[0]["error"] and found[0]["seconds"] >= 1.0
    assert 1 in [*started.overdue, *lost]
    assert time.monotonic() - began < 1.0 + PATIENCE + 15.0


def test_a_rank_that_never_comes_ends_the_others(tmp_path):
    found, _, said, _ = ended("late", tmp_path, 2)
    assert found == {} and "rank 0 of 2: not all ranks have come within 1 s" in said


def test_an_exception_on_one_rank_ends_all(tmp_path):
    found, _, said, started = ended("fails", tmp_path)
    assert "rank 1 has stopped: ZeroDivisionError: on purpose" in found[0]["error"]
    assert "Traceback" in said and started.statuses[1] == 1


def test_a_rank_whose_program_ends_early_is_not_waited_for(tmp_path):
    found, _, _, _ = ended("ends early", tmp_path)
    assert "rank 1 has stopped: it has ended with status 0" in found[0]["error"]


@pytest.mark.skipif(not os.path.exists("/usr/bin/ss") and not os.path.exists("/bin/ss"), reason="there is no ss")
def test_nothing_listens_and_nothing_outlives_its_launcher(tmp_path):
    """The launcher gets SIGKILL and cleans up nothing; its ranks end all the same, a stopped one too."""
    words = f"from rbd_ipu.parallel.launch import run; run(['workers.ranking', 'waits', {str(tmp_path)!r}], 2)"
    launcher = subprocess.Popen([sys.executable, "-c", words], env=starting.ENVIRONMENT)
    try:
        eventually(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        processes = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        family = [launcher.pid, *starting.children(launcher.pid), *processes]
        assert set(starting.ranks_of(launcher.pid)) == set(processes)
        assert starting.listening(family) == []
        os.kill(processes[1], signal.SIGSTOP)
    finally:
        launcher.kill()
        launcher.wait()
    eventually(lambda: all(map(gone, family[1:])))


def test_another_mpi_than_the_launchers_is_refused():
    """As where srun or another mpiexec has started processes that this MPI does not know: not so many runs alone."""
    environment = {**starting.ENVIRONMENT, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "rbd_ipu", "train"], env=environment, stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "SLURM_PROCID says that 2 processes were started, but MPI sees 1" in done.stderr


def test_without_mpi4py_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(ValueError, match=r'pip install "rbd-ipu\[mpi\]"'):
        ranks._mpi()


def test_run_returns_the_status_of_the_rank_that_failed(tmp_path):
    assert run(["workers.ranking", "collectives", str(tmp_path)], 2) == 0
    assert run(["workers.ranking", "fails", str(tmp_path)], 2) == 1
