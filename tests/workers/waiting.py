"""A worker that waits, says what it listens on, or fails when told; needs no TensorFlow."""

import json
import os
import sys
import time
from pathlib import Path

from rbd_ipu.workers import task
from rbd_ipu.workers.processes import Processes


def listening():
    """Local addresses on which this process listens, as /proc has them."""
    own = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    found = []
    for table in ("tcp", "tcp6"):
        if os.path.exists(f"/proc/net/{table}"):
            with open(f"/proc/net/{table}", encoding="utf-8") as file:
                rows = [line.split() for line in file][1:]
            found += [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
    return found


def _is_open(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


def main():
    if sys.argv[1] == "parent":
        folder = Path(sys.argv[2])
        with Processes(["workers.waiting", "ready", str(folder)], 2) as workers:
            while len(list(folder.iterdir())) < 2:
                time.sleep(0.05)
            print(json.dumps([worker.pid for worker in workers.running]), flush=True)
            workers.wait()
        return
    if sys.argv[1:] == ["fail", str(task().index)]:
        print(f"worker {task().index} fails", file=sys.stderr)
        sys.exit(7)
    if sys.argv[1] == "ready":
        (Path(sys.argv[2]) / str(task().index)).touch()
    else:
        print(json.dumps({"listening": listening() if os.path.isdir("/proc/net") else []}), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
