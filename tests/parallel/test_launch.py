"""``rbd-ipu train`` as several ranks, in real processes: what befalls one of them, and how the run ends."""

import json
import os
import signal
import subprocess
import sys

import pytest
from workers import starting
from workers.starting import ENVIRONMENT, eventually, gone

from rbd_ipu import checkpoints
from rbd_ipu.errors import STATUS
from rbd_ipu.files import locked
from rbd_ipu.parallel.launch import launcher

pytestmark = [starting.mpi, starting.linux]
ENDLESS = ("epochs=100000", "worker_timeout=60", "exchange=coordinates", "learning_rate=0.5", "dim=10")


def train(folder, *settings, words=("--workers", "2")):
    words = ["rbd_ipu", "train", "--quiet", "--output", str(folder), *words]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def training(folder, *settings, **options):
    """A run of two ranks that has recorded an epoch: its launcher, and its ranks."""
    process = starting.module(train(folder, *settings, **options))
    eventually(lambda: (folder / "metrics.jsonl").exists() or process.poll() is not None, 120.0)
    return process, starting.ranks_of(process.pid)


def ended(process, ranks):
    """What it printed; it is gone with all its ranks within ten seconds."""
    try:
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    eventually(lambda: all(map(gone, ranks)), 5.0)
    return said


def facts(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_rank_that_is_killed_ends_the_run_and_it_goes_on(tmp_path):
    folder = tmp_path / "run"
    process, ranks = training(folder, *ENDLESS)
    os.kill(ranks[1], signal.SIGKILL)
    said = ended(process, ranks)
    assert process.returncode == STATUS
    assert "rank 0 of 2: rank 1 has ended; what was recorded before is kept" in said
    assert "lost of 2 ranks: 1 " in said and "Traceback" not in said
    assert facts(folder)["outcome"] == "failed" and "rank 1 has ended" in facts(folder)["message"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["exchange_bytes"] == 4 * (10 + 4) and rows[0]["step"] == 1197 // 64
    # The same command goes on, and comes to its end.
    more = [f"epochs={len(rows) + 1}", *ENDLESS[1:]]
    process = starting.module(train(folder, *more, words=("--workers", "2", "--resume", "auto")))
    assert process.communicate(timeout=120)[1].count("Traceback") == 0 and process.returncode == 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= len(rows)
    # Another number of workers is another run.
    words = train(folder, words=("--workers", "3", "--resume"))
    done = subprocess.run([sys.executable, "-m", *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "workers: 2 -> 3" in done.stderr


@pytest.mark.parametrize(
    "who, number, status",
    [
        ("launcher", signal.SIGTERM, 143),
        pytest.param("rank 1", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("rank 1", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("launcher", signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_all_after_the_same_step(tmp_path, who, number, status):
    folder = tmp_path / "run"
    process, ranks = training(folder, *ENDLESS)
    os.kill(process.pid if who == "launcher" else ranks[1], number)
    said = ended(process, ranks)
    assert process.returncode == status and "Traceback" not in said
    assert facts(folder)["outcome"] == {143: "terminated", 130: "interrupted"}[status]
    last = checkpoints.newest(folder / "checkpoints")
    assert last is not None and (folder / "checkpoints" / "stopped.weights.h5").exists()


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named(tmp_path):
    folder = tmp_path / "run"
    process, ranks = training(folder, "worker_timeout=8", *(s for s in ENDLESS if "timeout" not in s))
    os.kill(ranks[1], signal.SIGSTOP)
    said = ended(process, ranks)
    assert process.returncode == STATUS and "rank 0 of 2: no answer from rank 1 for 8" in said
    assert facts(folder)["outcome"] == "failed"


@pytest.mark.slow
def test_an_exception_on_one_rank_ends_all(tmp_path):
    """Rank 0 finds its folder gone while it trains: no disk to write on is an error of one rank alone."""
    folder = tmp_path / "run"
    process, ranks = training(folder, *ENDLESS)
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    ended(process, ranks)
    assert process.returncode == 4


def test_ranks_with_other_settings_are_refused(tmp_path):
    """By an mpiexec of the user's, with a command for each rank."""
    words = [train(tmp_path / "run", "epochs=1", f"learning_rate={rate}", words=()) for rate in (0.5, 0.25)]
    commands = [["-n", "1", sys.executable, "-m", *one] for one in words]
    environment = {**ENVIRONMENT, "UCX_TLS": "posix,sysv,self"}
    done = subprocess.run(
        [launcher(), *commands[0], ":", *commands[1]], env=environment, stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert "learning_rate: 0.5 on rank 0, 0.25 on rank 1" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 2 and not (tmp_path / "run").exists()


def test_a_refusal_of_rank_0_ends_the_others_at_once(tmp_path):
    (tmp_path / "config.yaml").write_text("workers: 2\nlearning_rate: 0.5\ndim: 10\n")
    with locked(tmp_path):
        process = starting.module(train(tmp_path, words=("--resume",)))
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.count("another run is at work there") == 1
    assert "did not end" not in said and "lost" not in said


def test_other_commands_are_refused_several_times_at_once():
    environment = {**ENVIRONMENT, "PMI_RANK": "1", "PMI_SIZE": "2"}
    words = [sys.executable, "-m", "rbd_ipu", "tune"]
    done = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and "rbd-ipu tune runs in one process, and the launcher has started 2" in done.stderr


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_of_a_cluster_that_is_killed_is_missed(tmp_path, victim):
    folder = tmp_path / "run"
    words = train(folder, "workers=2", *ENDLESS, words=())
    with starting.cluster(words, 2) as workers:
        eventually(lambda: (folder / "metrics.jsonl").exists(), 120.0)
        workers[victim].kill()
        said = workers[1 - victim].communicate(timeout=60)[1]
        assert workers[1 - victim].returncode == STATUS
        assert f"worker {1 - victim} of 2: another worker ended or cannot be reached" in said
