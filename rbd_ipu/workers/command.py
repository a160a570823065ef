"""``rbd-ipu train`` with several workers: which process does what.

The process that the user starts, without a ``TF_CONFIG``, starts the workers and watches them. Worker 0 trains and
writes the folder of the run; the others train and write nothing. So do, on a POD, the instances that poprun starts.
"""

import contextlib
import signal
import sys
from typing import Any, Iterator, List, Optional, Sequence

from rbd_ipu.config import Config
from rbd_ipu.workers.errors import STATUS, Dismissed
from rbd_ipu.workers.processes import Processes, ended
from rbd_ipu.workers.task import task

GRACE = 10.0  # seconds that workers have to write what they have, once one of them is lost


def elsewhere(config: Config, words: Sequence[str], folder: Any = None) -> Optional[int]:
    """The exit status of a process that is not the one that trains and writes; None for the one that is.

    Args:
      config: the settings.
      words: the command line, for the workers to be started.
      folder: the RunFolder to go on in; None for a new run.
    """
    if config.workers == 1:
        return follow(config, folder) if _later_instance() else None
    own = task()
    if own is None:
        return launch(config.workers, words)
    return follow(config, folder) if own.index else None


def is_follower() -> bool:
    """Whether this process is one of the workers that write nothing."""
    own = task()
    return _later_instance() if own is None else own.index > 0


def _later_instance() -> bool:
    """Whether poprun has started this process, and others before it."""
    from rbd_ipu.devices import popdist  # here, because a CPU needs nothing of an IPU

    poprun = popdist.running()
    return poprun is not None and poprun.getInstanceIndex() > 0


def launch(count: int, words: Sequence[str]) -> int:
    """Starts workers on this machine, passes signals on to them, and waits; returns the exit status.

    It is worker 0's, unless a worker was lost.
    """
    with Processes(["rbd_ipu", *words], count) as workers, _passing_on(workers):
        statuses = workers.wait(GRACE)
        first = workers.first_failed
        if first is None or (first == 0 and statuses[0] > 0 and statuses[0] != STATUS):
            return statuses[0]
        said = workers.last_words(first)
        print(f"rbd-ipu: worker {first} of {count} {ended(statuses[first])}", file=sys.stderr)
        for late in workers.overdue:
            print(f"rbd-ipu: worker {late} of {count} did not end {GRACE:g} s later and was killed", file=sys.stderr)
        if first and said:
            print(said, file=sys.stderr)
        return STATUS


def follow(config: Config, folder: Any) -> int:
    """Trains as worker 1, 2, ..., from the checkpoint that worker 0 begins with; returns the exit status."""
    from rbd_ipu.callbacks import StopOnInterrupt
    from rbd_ipu.checkpoints import restore
    from rbd_ipu.experiment import prepare
    from rbd_ipu.interrupt import deferred
    from rbd_ipu.records import resume
    from rbd_ipu.training import NonFiniteError

    experiment = prepare(config)
    start = None
    if folder is not None:
        if resume.is_finished(folder, config):
            return 0
        found = resume.find(experiment, folder).checkpoint
        start = None if found is None else restore(experiment.trainer, found)
    with contextlib.ExitStack() as stack:
        callbacks: List[Any] = []
        if _later_instance():  # MPI gives a signal to all; each ends where all end (Device.agree)
            callbacks.append(StopOnInterrupt(stack.enter_context(deferred())))
        try:
            experiment.fit(verbose=0, start=start, callbacks=callbacks)
        except (Dismissed, KeyboardInterrupt):
            return 0  # another status would have MPI end instance 0 before it has written its files
        except NonFiniteError:
            return 3
    return 0


@contextlib.contextmanager
def _passing_on(workers: Processes) -> Iterator[None]:
    """Gives the first Ctrl-C or SIGTERM to worker 0, which ends the run in order; the second one ends all at once."""
    asked: List[int] = []

    def pass_on(number: int, *_: Any) -> None:
        if asked:
            workers.kill()
        asked.append(number)
        workers.signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
