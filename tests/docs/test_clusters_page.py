"""The commands of docs/clusters.md that can run on one machine, as they stand there but for hosts and settings."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workers import starting

from rbd_ipu.parallel.launch import launcher

PAGE = Path(__file__).resolve().parents[2] / "docs" / "clusters.md"
SCRIPTS = PAGE.parents[1] / "scripts"
HYDRA = "mpiexec.hydra"
pytestmark = [starting.mpi, pytest.mark.skipif(not PAGE.is_file(), reason="the page is not beside the tests")]


def commands(beginning):
    lines = (
        re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL) if PAGE.is_file() else []
    )
    return [line for block in lines for line in block.splitlines() if line.startswith(beginning)]


def config(folder):
    (folder / "run.yaml").write_text("epochs: 1\nlearning_rate: 0.5\ndim: 10\nworker_timeout: 60\n")


def runs(words, folder):
    """Runs a command of the page in a folder; what it has recorded."""
    command = [sys.executable, "-m", "rbd_ipu"]
    words = [part for word in words for part in (command if word == "rbd-ipu" else [word])]
    done = subprocess.run(
        words, cwd=str(folder), env=starting.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/*")
    return run


def test_one_machine(tmp_path):
    (line,) = commands("rbd-ipu train --workers")
    words = [*shlex.split(line), "--set", "epochs=1", "--set", "learning_rate=0.5", "--set", "dim=10"]
    run = runs(words, tmp_path)
    assert "workers: 2" in (run / "config.yaml").read_text()
    assert len((runs(words, tmp_path) / "metrics.jsonl").read_text().splitlines()) == 1, "finished: the same again"


# MPICH's mpiexec listens on all interfaces: it gets a network of its own, with nothing but a loopback interface.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [False, True])
def test_mpiexec(tmp_path, hosts):
    hydra = Path(launcher()).with_name("mpiexec.hydra")
    if not hydra.exists() or shutil.which("unshare") is None or subprocess.run([*ALONE, "true"]).returncode:
        pytest.skip("there is no mpiexec.hydra beside the launcher, or no network of its own to be had for it")
    words = shlex.split(commands("mpiexec -n")[int(hosts)])
    if hosts:  # two names of this machine
        words[words.index("-n") + 1] = "2"
        words[words.index("-hosts") + 1] = "localhost,127.0.0.1"
    words[:1] = [*ALONE, str(hydra), "-launcher", "fork"]
    config(tmp_path)
    run = runs(words, tmp_path)
    assert "workers: 2" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_tf_config(tmp_path):
    lines = commands("TF_CONFIG=")
    assert len(lines) == 2
    config(tmp_path)
    ports = starting.free_ports(2)
    running = []
    try:
        for line in lines:
            setting, *words = shlex.split(line)
            facts = json.loads(setting.partition("=")[2])
            facts["cluster"]["worker"] = [f"127.0.0.1:{port}" for port in ports]
            environment = {**starting.ENVIRONMENT, "TF_CONFIG": json.dumps(facts)}
            running.append(starting.module(["rbd_ipu", *words[1:]], environment, cwd=str(tmp_path)))
        for process in running:
            said = process.communicate(timeout=200)[1]
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert (tmp_path / "runs" / "tf" / "metrics.jsonl").exists()


@pytest.mark.skipif(not (SCRIPTS / "slurm.sh").is_file(), reason="no scripts beside the tests")
def test_slurm_starts_a_rank_for_each_task_and_goes_on(tmp_path):
    """What the script runs, by an srun that prints its words."""
    (line,) = commands("sbatch")
    words = shlex.split(line)
    place = words.index("scripts/slurm.sh")
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "slurm.sh"), *words[place + 1 :]],
        env={**starting.ENVIRONMENT, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert said[:2] == ["--mpi=pmi2", "--kill-on-bad-exit=1"]
    assert said[said.index("train") :] == ["train", "--resume", "auto", *words[place + 1 :]]


@pytest.mark.skipif(not (SCRIPTS / "kubernetes.yaml").is_file(), reason="no scripts beside the tests")
def test_the_mpijob_is_one_launcher_and_as_many_workers_as_ranks():
    import yaml

    job = yaml.safe_load((SCRIPTS / "kubernetes.yaml").read_text(encoding="utf-8"))
    kinds = job["spec"]["mpiReplicaSpecs"]
    command = kinds["Launcher"]["template"]["spec"]["containers"][0]["command"]
    assert command[:5] == ["mpiexec", "-n", str(kinds["Worker"]["replicas"]), "rbd-ipu", "train"]
    assert command[5:7] == ["--resume", "auto"]
