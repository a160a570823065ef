"""Bytes that a process of a TF_CONFIG cluster sends in a step, as the kernel counts them on its TCP sockets.

    python benchmarks/cluster_bytes.py [--seconds 15]

Starts two processes of `rbd-ipu train` on the loopback interface, waits until they train, and reads the counters of
`ss -ti` twice, at ends of epochs. The digits, the FC network (D = 9,610): RBD by coordinates with d = 250, and SGD.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

from rbd_ipu.parallel.workers import tf_config

METHODS = {"rbd": ["method=rbd", "dim=250", "exchange=coordinates"], "sgd": ["method=sgd"]}
ENDLESS = ["workers=2", "epochs=100000", "learning_rate=0.01"]


def sent(processes: List[int]) -> Dict[int, int]:
    """The bytes sent so far, by process."""
    lines = subprocess.run(["ss", "-tinpH"], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
    total = dict.fromkeys(processes, 0)
    for owner, counters in zip(lines, lines[1:]):
        found = re.search(r"bytes_sent:(\d+)", counters)
        for process in processes:
            if found and f"pid={process}," in owner:
                total[process] += int(found.group(1))
    return total


def at_the_end_of_an_epoch(metrics: Path, processes: List[int]) -> Tuple[int, Dict[int, int]]:
    """(steps, bytes) when a line of metrics has just been written."""
    before = len(metrics.read_text().splitlines())
    while len(metrics.read_text().splitlines()) == before:
        time.sleep(0.002)
    counted = sent(processes)
    return json.loads(metrics.read_text().splitlines()[-1])["step"], counted


def measured(method: str, seconds: float, folder: Path) -> List[float]:
    """Bytes a step of each of the two processes."""
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{end.getsockname()[1]}" for end in ends]
    for end in ends:
        end.close()
    words = [word for setting in [*ENDLESS, *METHODS[method]] for word in ("--set", setting)]
    command = [sys.executable, "-m", "rbd_ipu", "train", "--quiet", "--output", str(folder / method), *words]
    running = [
        subprocess.Popen(command, env={**os.environ, "TF_CONFIG": tf_config(k, addresses)}, stdout=subprocess.DEVNULL)
        for k in range(2)
    ]
    try:
        metrics, processes = folder / method / "metrics.jsonl", [process.pid for process in running]
        while not metrics.exists():
            time.sleep(0.1)
        time.sleep(5.0)
        first, before = at_the_end_of_an_epoch(metrics, processes)
        time.sleep(seconds)
        last, after = at_the_end_of_an_epoch(metrics, processes)
        print(f"{method}: {last - first} steps")
        return [(after[process] - before[process]) / (last - first) for process in processes]
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Measures both methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            print(f"{method}: {measured(method, seconds, Path(folder))} bytes a step")


if __name__ == "__main__":
    main()
