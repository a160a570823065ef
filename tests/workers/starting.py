"""Processes that tests start: ranks of MPI, the workers of a TF_CONFIG on the loopback interface."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from rbd_ipu.parallel.workers import tf_config

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

mpi = pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def free_ports(count):
    """Ports below those that systems give out by themselves: none is taken while its user starts."""
    found = []
    with contextlib.ExitStack() as held:
        for port in range(20_000 + os.getpid() % 10_000, 32_000):
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"{count} free ports wanted, {len(found)} found")


@contextlib.contextmanager
def cluster(words, count, **environment):
    """The processes of a TF_CONFIG, each ``python -m`` these words; they end with the block."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    running = []
    try:
        for index in range(count):
            surroundings = {**ENVIRONMENT, "TF_CONFIG": tf_config(index, addresses), **environment}
            running.append(module(words, surroundings))
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def module(words, environment=None, **options):
    """``python -m`` these words, its standard error kept."""
    return subprocess.Popen(
        [sys.executable, "-m", *words], env=environment or ENVIRONMENT, stderr=subprocess.PIPE,
        **{"stdout": subprocess.DEVNULL, "text": True, **options},
    )  # fmt: skip


def children(process):
    """The processes that one has started, by age."""
    return sorted(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def ranks_of(launcher):
    """The ranks that ``rbd-ipu train --workers K`` has started, or none yet."""
    with contextlib.suppress(FileNotFoundError):
        return [rank for mpiexec in children(launcher) for rank in children(mpiexec)]
    return []


def gone(process):
    """Whether a process has ended; one that its parent has not asked about is a zombie, which has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def eventually(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def listening(processes):
    """The addresses on which these processes listen, by ``ss``."""
    lines = subprocess.run(["ss", "-ltnpH"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [line for line in lines if any(f"pid={process}," in line for process in processes)]
