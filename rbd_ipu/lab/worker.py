"""The process of one run: ``python -m rbd_ipu.lab.worker FOLDER CORES KEY=VALUE...``.

It keeps to its cores (``0,1``; ``-`` for all), takes the lock of the job's folder and trains as ``rbd-ipu train``
does. A run that was cut short goes on; where that is refused (it was killed before its first checkpoint), a new one
begins beside it.
"""

import functools
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from rbd_ipu.config import from_assignments
from rbd_ipu.cores import keep_to, usable
from rbd_ipu.errors import exit_status
from rbd_ipu.lab.jobs import Taken, attempts, claimed, note_cores, outcome
from rbd_ipu.lab.results import ENDED
from rbd_ipu.runs.train import go_on
from rbd_ipu.runs.train import train as train_run

TAKEN = 75  # exit status: another process has this run
REFUSED = 2  # of rbd-ipu train: nothing was changed


def train(folder: Path, settings: Sequence[str]) -> int:
    """Trains one run under its lock; returns the exit status of ``rbd-ipu train``."""
    with claimed(folder):
        note_cores(folder, usable())
        done = attempts(folder)
        if any(outcome(attempt) in ENDED for attempt in done):
            return 0
        if done:
            words = ["train", "--quiet", "--resume", "--output", str(done[-1])]
            status = exit_status(functools.partial(go_on, {}, words, done[-1], quiet=True))
            if status != REFUSED:
                return status
        number = int(done[-1].name) + 1 if done else 1
        output = folder / str(number)
        words = ["train", "--quiet", *(word for setting in settings for word in ("--set", setting))]
        words += ["--output", str(output)]
        return exit_status(lambda: train_run(from_assignments(settings), words, output, quiet=True))


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs one command line."""
    folder, cores, *settings = sys.argv[1:] if arguments is None else arguments
    keep_to([] if cores == "-" else [int(core) for core in cores.split(",")])
    try:
        return train(Path(folder), settings)
    except Taken:
        return TAKEN


if __name__ == "__main__":
    sys.exit(main())
