"""``python -m rbd_ipu.workers.member MODULE WORDS...``: the life of a worker that :class:`Processes` has started.

Before TensorFlow is imported it ties itself to its parent and keeps to its share of the cores; then it runs a module
as ``python -m`` would.
"""

import os
import runpy
import signal
import sys

from rbd_ipu.cores import keep_to
from rbd_ipu.workers.task import task
from rbd_ipu.workers.tie import tie


def main() -> None:
    """Runs the module named by the first argument, with those after it."""
    tie(os.fdopen(os.dup(0), "r"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    cores = os.environ.pop("RBD_WORKER_CORES", "")
    keep_to([int(core) for core in cores.split(",") if core])
    own = task()
    if own and own.index:  # signals are for worker 0, which lets the others know
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    module = sys.argv[1]
    sys.argv[:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
