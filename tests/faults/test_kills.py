"""kill -9 at random moments: what is resumed ends as what was never disturbed, to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workers import starting

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"

pytestmark = [
    pytest.mark.skipif(not SCRIPT.is_file(), reason="no benchmarks beside the tests"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork"),
]


def _kills(tmp_path, *words):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(tmp_path), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_three_kills(tmp_path):
    said = _kills(tmp_path, "--kills", "3", "--seed", "0", "--longest", "0.2", "--epochs", "10")
    assert "3 kills" in said and said.endswith("no bit differs\n")
    assert not list(tmp_path.glob("*/checkpoints/.draft-step-*")), "a draft was left"


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    said = _kills(
        tmp_path, "--kills", "50", "--seed", "1", "--set", "compartments=layer", "--set", "keep_checkpoints=1"
    )
    assert "50 kills" in said and said.endswith("no bit differs\n")


@starting.mpi
@pytest.mark.slow
def test_twenty_kills_of_two_ranks(tmp_path):
    words = ("--kills", "20", "--seed", "3", "--workers", "2", "--epochs", "60", "--longest", "2")
    said = _kills(tmp_path, *words)
    assert "20 kills" in said and said.endswith("no bit differs\n")


@pytest.mark.slow
def test_kills_of_a_run_with_batch_normalisation(tmp_path):
    words = ("--kills", "4", "--seed", "2", "--epochs", "3", "--longest", "5", "--call", "0.1")
    said = _kills(tmp_path, *words, "--set", "network=resnet8")
    assert said.endswith("no bit differs\n")
