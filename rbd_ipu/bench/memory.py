"""Peak memory of a case, in a process of its own: ``python -m rbd_ipu.bench.memory CASE-AS-JSON``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

from rbd_ipu.bench.cases import Case

MEGABYTE = 2**20
STEPS = 3


def peak_now() -> float:
    """The most memory that this process has held so far, in MB (2^20 bytes)."""
    # Linux hands ru_maxrss down from a parent through fork and exec; VmHWM begins anew.
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / MEGABYTE
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEGABYTE if sys.platform == "darwin" else peak * 1024 / MEGABYTE


def peak_of(case: Case, timeout: float = 600.0) -> Optional[float]:
    """Peak memory in MB of a new process that runs a few steps of a case; None if it fails or takes too long."""
    environment = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rbd_ipu.bench.memory", json.dumps(case._asdict())]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=timeout, check=True)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main(text: str) -> None:
    """Runs a few steps of the case and prints the peak."""
    from rbd_ipu.bench.runners import make

    runner = make(Case(**json.loads(text)))
    runner.run(1)
    runner.run(STEPS)
    print(peak_now())


if __name__ == "__main__":
    main(sys.argv[1])
