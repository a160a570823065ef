"""The queue: killed at any moment and started again, it repeats no finished run and changes no number."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbd_ipu.config import from_assignments, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import pool
from rbd_ipu.lab.pool import Taken, attempts, claimed, is_claimed, job, note_cores
from rbd_ipu.lab.results import Costs, rough_epoch
from rbd_ipu.process import divided, usable

SETTINGS = {"learning_rate": 0.5, "dim": 8, "epochs": 4}
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "-1"}
ENVIRONMENT["TF_CPP_MIN_LOG_LEVEL"] = "3"

# Stands in for `rbd-ipu train`: the same folders and exit statuses, an epoch in no time, numbers from the seed.
FAKE = """
import json, os, sys, time
from pathlib import Path
import rbd_ipu.cli
from rbd_ipu import files
from rbd_ipu.config import from_assignments, from_file, resolve
from rbd_ipu.lab import pool
from rbd_ipu.config.yaml import dumps

def go_on(given, words, output, quiet):
    return train(given, words, output, quiet)

def train(given, words, output, quiet):
    folder = Path(words[words.index("--output") + 1])
    if "--resume" in words and os.environ["FAKE_RESUME"] == "no":
        return 2
    if "--resume" not in words:
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        config = resolve(from_assignments(settings))
        begun = folder.with_name(".begun")  # a kill leaves a whole folder or none
        begun.mkdir(parents=True, exist_ok=True)
        (begun / "config.yaml").write_text(dumps(config.as_dict()))
        (begun / "run.json").write_text(json.dumps({"outcome": "running"}))
        begun.rename(folder)
    config = resolve(from_file(folder / "config.yaml"))
    path = folder / "metrics.jsonl"
    done = path.read_text().count("\\n") if path.exists() else 0
    if config.seed == 99:
        print("rbd-ipu: error: this one fails")
        return 2
    for epoch in range(done, config.epochs):
        time.sleep(0.05)
        with open(path, "a") as file:
            file.write(json.dumps({"epoch": epoch + 1, "val_accuracy": (config.seed + 1) / (epoch + 2)}) + "\\n")
    files.write_text(folder / "run.json", json.dumps({"outcome": "finished"}))
    return 0

pool.train_run, pool.go_on = train, go_on
sys.exit(pool.main())
"""

# A queue in a process of its own, to be killed.
QUEUE = """
import sys
from pathlib import Path
from rbd_ipu.config import resolve
from rbd_ipu.lab import pool as queue
from rbd_ipu.lab.pool import job

folder, fake, settings = Path(sys.argv[1]), sys.argv[2], [eval(text) for text in sys.argv[3:]]
if fake != "-":
    queue.WORKER = (fake,)
queue.POLL = 0.02
jobs = [job(resolve(each), f"run {i}", folder) for i, each in enumerate(settings)]
failures = queue.run(jobs, 2, lambda config: 1.0, lambda line: print(line, flush=True))
sys.exit(len(failures))
"""


def jobs_of(folder, seeds, **settings):
    return [job(resolve({**SETTINGS, "seed": seed, **settings}), f"seed {seed}", folder) for seed in seeds]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the queue of some settings; whatever is left of it at the end is killed."""
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    started = []

    def run(settings, resume="yes", real=False):
        words = [
            sys.executable,
            "-c",
            QUEUE,
            str(tmp_path / "runs"),
            "-" if real else str(fake),
            *map(repr, settings),
        ]
        environment = {**ENVIRONMENT, "FAKE_RESUME": resume}
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()
    until = time.monotonic() + 20
    while any(is_claimed(folder) for folder in (tmp_path / "runs").glob("*")) and time.monotonic() < until:
        time.sleep(0.05)


def accuracies(one):
    return [json.loads(line)["val_accuracy"] for line in (one / "metrics.jsonl").read_text().splitlines()]


def holder(folder):
    """The process that trains in a job's folder."""
    text = (folder / ".lock").read_text().strip() if (folder / ".lock").exists() else ""
    return int(text) if text and is_claimed(folder) else None


@pytest.mark.parametrize("resume", ["yes", "no"])
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again_it_ends_with_the_same_numbers(seed, resume, tmp_path, start):
    rng = random.Random(seed)
    settings = [{**SETTINGS, "seed": s} for s in range(5)]
    jobs = jobs_of(tmp_path / "runs", range(5))
    finished = {}
    for _ in range(3):
        process = start(settings, resume)
        time.sleep(rng.uniform(0.2, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        victims = [pid for pid in (holder(one.folder) for one in jobs) if pid]
        for pid in victims[: rng.randrange(3)]:  # a machine that is switched off kills the runs too
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        for one in jobs:
            for attempt in attempts(one.folder):
                facts = attempt / "run.json"
                if facts.exists() and "finished" in facts.read_text():
                    finished.setdefault(facts, facts.stat().st_mtime_ns)
    process = start(settings, resume)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    for number, one in enumerate(jobs):
        assert one.ended() and accuracies(attempts(one.folder)[-1]) == [(number + 1) / (e + 2) for e in range(4)]
        assert sum("finished" in (a / "run.json").read_text() for a in attempts(one.folder)) == 1
        if resume == "yes":
            assert len(attempts(one.folder)) == 1
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # never touched again


def test_runs_of_a_killed_queue_are_waited_for_not_started_twice(tmp_path, start):
    settings = [{**SETTINGS, "epochs": 200}]
    (one,) = jobs_of(tmp_path / "runs", [0], epochs=200)
    process = start([{**settings[0], "seed": 0}])
    while one.epochs_done() < 2:
        time.sleep(0.02)
    process.kill()
    pid = holder(one.folder)
    assert pid is not None
    again = start([{**settings[0], "seed": 0}])
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and "[1/1]" in output
    assert len(attempts(one.folder)) == 1 and len(accuracies(attempts(one.folder)[0])) == 200


def test_the_cores_of_a_run_that_goes_on_are_not_given_to_another(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "usable", lambda: [0, 1, 2])
    jobs = jobs_of(tmp_path, range(4))
    begun = {}
    monkeypatch.setattr(pool._Queue, "_start", lambda self, one, slot: begun.setdefault(one.label, self.slots[slot]))
    with claimed(jobs[3].folder), claimed(jobs[2].folder):
        note_cores(jobs[3].folder, [1])  # the other one was claimed by hand, and is anywhere
        started = pool._Queue(jobs, 3, lambda config: 1.0, print)
        started._begin()
    assert begun == {"seed 0": [0]}
    assert {entry.job.label: started.slots[entry.slot] for entry in started.running if entry.process is None} == {
        "seed 2": [2],
        "seed 3": [1],
    }


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, start):
    process = start([{**SETTINGS, "seed": s} for s in (99, 0, 1)])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "failed: run 0: rbd-ipu: error: this one fails" in output
    failed, *others = jobs_of(tmp_path / "runs", (99, 0, 1))
    assert not failed.ended() and all(one.ended() for one in others)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_queue_that_is_asked_to_stop_stops_its_runs(number, tmp_path, start):
    process = start([{**SETTINGS, "epochs": 100, "seed": 0}])
    (one,) = jobs_of(tmp_path / "runs", [0], epochs=100)
    while one.epochs_done() < 2:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode not in (0, None) and not is_claimed(one.folder) and not one.ended()


def test_progress_tells_what_is_over_what_runs_and_the_time_left(tmp_path, start):
    process = start([{**SETTINGS, "seed": s} for s in range(3)])
    output, _ = process.communicate(timeout=60)
    lines = output.splitlines()
    assert len(lines) == 3 and lines[-1].startswith("[3/3] 0 s left") and "ended: run " in lines[-1]
    over = [line.split("]")[0] for line in lines]  # two may end between two looks
    assert over == sorted(over) and set(over) <= {"[1/3", "[2/3", "[3/3"}


# --- parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "sgd", "learning_rate": 2.0**-19, "augment": False},
        {"learning_rate": 0.1, "dim": 3, "compartments": "even:3", "distribution": "bernoulli-0.5"},
        {"learning_rate": 3e-7, "compartments": "factor:10", "epochs": 2000, "hold_out": False},
    ],
)
def test_the_words_of_a_job_give_its_settings(settings, tmp_path):
    config = resolve(settings)
    assert resolve(from_assignments(job(config, "", tmp_path).words())) == config


def test_folders_are_named_by_what_decides_the_numbers(tmp_path):
    one, same, other = (
        job(resolve({**SETTINGS, **more}), "", tmp_path).folder for more in ({}, {"source": "counter"}, {"dim": 9})
    )
    assert one == same != other and one.name.startswith("digits-fc-rbd-s0-")


def test_of_two_processes_one_has_a_run(tmp_path):
    folder = tmp_path / "job"
    assert not is_claimed(folder) and not folder.exists()
    with claimed(folder):
        assert is_claimed(folder)
        with pytest.raises(Taken), claimed(folder, patience=0.0):
            pass
        assert pool.main([",".join(map(str, usable())), str(folder), "seed=0"]) == pool.TAKEN
    assert not is_claimed(folder)


def test_an_ended_run_is_not_made_again(tmp_path):
    (one,) = jobs_of(tmp_path, [0])
    (one.folder / "1").mkdir(parents=True)
    (one.folder / "1" / "run.json").write_text('{"outcome": "not finite"}')
    assert one.ended() and pool.run([one], 2, lambda config: 1.0, print) == []
    assert pool.train(one.folder, one.words()) == 0 and len(attempts(one.folder)) == 1


@pytest.mark.parametrize("parts", range(1, 9))
@pytest.mark.parametrize("cores", [1, 2, 3, 4, 7])
def test_cores_are_divided_evenly(cores, parts):
    groups = divided(list(range(cores)), parts)
    assert len(groups) == parts and len({len(group) for group in groups}) == 1
    if parts <= cores:
        flat = [core for group in groups for core in group]
        assert len(set(flat)) == len(flat)


def test_costs_are_measured_where_they_can_be():
    from fake_runs import result

    config = resolve({**SETTINGS, "epochs": 10})
    costs = Costs([result(resolve({**SETTINGS, "seed": 5}), [0.1] * 4, seconds=7.0)])
    assert costs.measured(config) and costs.seconds(config) == pytest.approx(8.0 + 70.0)
    other = resolve({**SETTINGS, "dim": 9})
    assert not costs.measured(other) and costs.seconds(other) == pytest.approx(8.0 + 4 * rough_epoch(other))
    assert str(costs.total([config])).endswith("(from measured epochs)")
    assert str(costs.total([config, other])).startswith("2 runs, ") and "rough" in str(costs.total([other]))


# --- the real thing ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
def test_a_real_training_killed_in_the_middle_has_the_numbers_of_one_that_was_not(seed, tmp_path, start):
    rng = random.Random(seed)
    settings = [
        {**SETTINGS, "method": method, "epochs": 25, **({"dim": None} if method == "sgd" else {})}
        for method in ("rbd", "sgd")
    ]
    settings = [{name: value for name, value in each.items() if value is not None} for each in settings]
    jobs = [job(resolve(each), "", tmp_path / "runs") for each in settings]
    process = start(settings, real=True)
    stop = rng.randrange(2, 12)
    while process.poll() is None and sum(one.epochs_done() for one in jobs) < stop:
        time.sleep(0.05)
    process.kill()
    for one in jobs:
        pid = holder(one.folder)
        if pid:
            os.kill(pid, signal.SIGKILL)
    assert not all(one.ended() for one in jobs)
    process = start(settings, real=True)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    clean = tmp_path / "clean"
    for each in settings:
        whole = job(resolve(each), "", clean)
        names = ",".join(map(str, divided(sorted(os.sched_getaffinity(0)), 2)[0]))
        words = [sys.executable, "-m", "rbd_ipu.lab.pool", str(whole.folder), names, *whole.words()]
        subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
        killed = job(resolve(each), "", tmp_path / "runs")
        assert numbers(attempts(killed.folder)[-1]) == numbers(attempts(whole.folder)[-1])


def numbers(run: Path):
    """All that a run has measured but times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    test = json.loads((run / "result.json").read_text())["test"]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows], test


def test_a_run_of_another_process_is_named(tmp_path):
    jobs = jobs_of(tmp_path, [0])
    with claimed(jobs[0].folder), pytest.raises(
        ConfigError, match="another run is at work there.*this command waits"
    ):
        pool.run(jobs, 0, lambda config: 1.0, print)


def test_sigterm_ends_all_runs_of_this_process(tmp_path, monkeypatch):
    begun = []

    def ended_by_sigterm(folder, words):
        begun.append(folder)
        return 128 + signal.SIGTERM

    monkeypatch.setattr(pool, "train", ended_by_sigterm)
    said = []
    with pytest.raises(SystemExit) as stop:
        pool.run(jobs_of(tmp_path, [0, 1]), 0, lambda config: 1.0, said.append)
    assert stop.value.code == 143 and len(begun) == 1 and "ended by SIGTERM" in said[-1]
