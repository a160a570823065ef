"""Processes: started, watched, never left behind; and the command that starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rbd_ipu.config import ConfigError, resolve
from rbd_ipu.workers import STATUS, ports, task
from rbd_ipu.workers.processes import Processes, ended
from rbd_ipu.workers.task import tf_config

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


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


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"workers": 0}, "must be an integer from 1"),
        ({"workers": 2, "simulate_workers": 2}, "only one of them may be more than 1"),
        ({"simulate_workers": 3, "parallel": "split"}, "dim must be a multiple of 3, not 250"),
        ({"exchange": "update", "wire": "int8"}, "with exchange=update it must be float32"),
        ({"parallel": "all"}, "must be one of own, shared, same-data, split"),
        ({"worker_timeout": 0}, "must be a finite number above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(settings)


def test_split_gives_each_worker_its_share_of_the_directions():
    config = resolve({"simulate_workers": 5, "parallel": "split", "dim": 250})
    assert config.dim == 250 and config.options()["dim"] == 50


# --- processes that only wait: no TensorFlow, so quick ---------------------------------------------

WAIT = "workers.waiting"


def started(*words):
    return Processes([WAIT, *(words or ["wait"])], 2, stdout=subprocess.PIPE)


def first_line(workers):
    return json.loads(workers.running[0].stdout.readline())


def gone(pid):
    """Whether a process has ended; one that its parent has not asked about is a zombie, which has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def eventually(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_leaving_ends_them():
    with started() as workers:
        first_line(workers)
        assert workers.statuses() == [None, None]
    assert workers.statuses() == [-signal.SIGKILL, -signal.SIGKILL]


def test_one_that_fails_takes_the_others_with_it_after_a_while():
    with started("fail", "1") as workers:
        statuses = workers.wait(grace=0.5)
        assert statuses == [-signal.SIGKILL, 7] and workers.first_failed == 1 and workers.overdue == [0]
        assert workers.last_words(1) == "worker 1 fails"
        assert ended(statuses[0]) == "was killed by SIGKILL" and ended(7) == "ended with status 7"


@linux
def test_the_ring_listens_on_nothing():
    with started() as workers:
        assert first_line(workers)["listening"] == []


@linux
@pytest.mark.parametrize("stopped", [False, True])
def test_no_orphans_when_their_parent_is_killed(stopped, tmp_path):
    """A parent that gets SIGKILL cleans up nothing; its workers end all the same, stopped ones too."""
    command = [sys.executable, "-m", "workers.waiting", "parent", str(tmp_path)]
    parent = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        pids = json.loads(parent.stdout.readline())
        if stopped:
            os.kill(pids[1], signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    eventually(lambda: all(map(gone, pids)))


# --- the command -----------------------------------------------------------------------------------


@linux
def test_a_worker_that_is_killed_ends_the_run_with_a_clear_error(tmp_path):
    """One run of two workers from start to end: it trains, a worker is killed, the others and the folder end well."""
    folder = tmp_path / "run"
    words = [
        "train",
        "--workers",
        "2",
        "--output",
        str(folder),
        "--set",
        "epochs=100000",
        "--set",
        "worker_timeout=60",
    ]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "rbd_ipu", *words], env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        eventually(lambda: (folder / "metrics.jsonl").exists(), 90.0)
        with open(f"/proc/{launcher.pid}/task/{launcher.pid}/children", encoding="utf-8") as file:
            pids = sorted(map(int, file.read().split()))
        os.kill(pids[1], signal.SIGKILL)
        _, said = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
        launcher.wait()
    assert launcher.returncode == STATUS
    assert "worker 1 has ended; what was recorded before is kept" in said
    assert "worker 1 of 2 was killed by SIGKILL" in said and "Traceback" not in said
    assert all(map(gone, pids))
    facts = json.loads((folder / "run.json").read_text())
    assert facts["outcome"] == "failed" and "worker 1 has ended" in facts["message"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["exchange_bytes"] > 0 and rows[0]["step"] == 1197 // 64


def training(folder, *settings):
    words = ["train", "--quiet", "--output", str(folder)]
    for setting in ("workers=2", *settings):
        words += ["--set", setting]
    return words


@pytest.mark.parametrize("index, said", [(0, "workers [1] did not come"), (1, "does not answer")])
def test_a_worker_of_a_cluster_does_not_wait_for_ever_for_one_that_does_not_come(tmp_path, index, said):
    addresses = [f"127.0.0.1:{port}" for port in ports.free(2)]
    done = subprocess.run(
        [sys.executable, "-m", "rbd_ipu", *training(tmp_path / "run", "worker_timeout=0.5")],
        env={**ENVIRONMENT, "TF_CONFIG": tf_config(index, addresses)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == STATUS
    assert f"rbd-ipu: worker {index} of 2: " in done.stderr and said in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_of_a_cluster_that_is_killed_is_missed_at_once(tmp_path, victim):
    folder = tmp_path / "run"
    words = training(folder, "epochs=100000", "worker_timeout=60", "exchange=coordinates")
    with Processes(["rbd_ipu", *words], 2, environment=ENVIRONMENT, tf_cluster=True) as workers:
        eventually(lambda: (folder / "metrics.jsonl").exists(), 90.0)
        workers.running[victim].kill()
        statuses = workers.wait(grace=30.0)
        other = 1 - victim
        assert (statuses[victim], statuses[other], workers.overdue) == (-signal.SIGKILL, STATUS, [])
        assert f"worker {other} of 2: worker {victim} has ended" in workers.last_words(other)
