"""``rbd-ipu train`` with several workers: which process does what.

The process that the user starts without a launcher starts the ranks by one and watches them. Worker 0 trains and
writes the folder of the run; the others train and write nothing. So do, on a POD, the instances that poprun starts.
"""

from typing import Any, Dict, Optional, Sequence

from rbd_ipu.config import FIELDS, Config
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.parallel.ranks import TIMEOUT, connect, connected
from rbd_ipu.parallel.task import running, task
from rbd_ipu.process import deferred


def several(given: Dict[str, Given]) -> Dict[str, Given]:
    """The settings, with as many ``workers`` as the launcher has started; those of a run that goes on stay its own.

    Raises:
      ConfigError: the user wants another number of them.
    """
    own = task()
    if own is None or own.workers == 1:
        return given
    wanted = given.get("workers")
    if wanted is None:
        return {**given, "workers": Given(own.workers, f"{own.source} with {own.workers} processes")}
    if wanted.value != own.workers:
        raise ConfigError(f"{wanted.origin}: the launcher has started {own.workers} processes ({own.source})")
    return given


def join(given: Optional[Dict[str, Given]] = None) -> None:
    """Connects a rank of MPI with the others, before TensorFlow is there; elsewhere nothing.

    Raises:
      ConfigError: see :func:`rbd_ipu.parallel.ranks.connect`.
    """
    own = task()
    if own is not None and own.mpi:
        wanted = (given or {}).get("worker_timeout")
        connect(TIMEOUT if wanted is None else FIELDS["worker_timeout"]["kind"].check(wanted.value))


def as_first(value: bool) -> bool:
    """Worker 0's value, on all ranks."""
    ranks = connected()
    return value if ranks is None else bool(ranks.facts(value)[0])


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
        from rbd_ipu.parallel import launch  # late: most processes start no others

        return launch.run(["rbd_ipu", *words], config.workers)
    return follow(config, folder) if own.index else None


def is_follower() -> bool:
    """Whether this process is one of the workers that write nothing."""
    own = task()
    return _later_instance() if own is None else own.index > 0


def _later_instance() -> bool:
    """Whether poprun has started this process, and others before it."""
    poprun = running()
    return poprun is not None and poprun.getInstanceIndex() > 0


def follow(config: Config, folder: Any) -> int:
    """Trains as worker 1, 2, ..., from the checkpoint that worker 0 begins with; returns the exit status."""
    from rbd_ipu.checkpoints import restore
    from rbd_ipu.errors import NonFiniteError
    from rbd_ipu.runs import resume
    from rbd_ipu.runs.callbacks import StopOnInterrupt
    from rbd_ipu.runs.experiment import prepare

    if folder is not None and as_first(resume.is_finished(folder, config)):
        return 0
    experiment = prepare(config)
    start = None
    if folder is not None:
        found = resume.find(experiment, folder).checkpoint
        start = None if found is None else restore(experiment.trainer, found)
    with deferred() as interrupt:
        try:
            experiment.fit(verbose=0, start=start, callbacks=[StopOnInterrupt(interrupt)])
        except KeyboardInterrupt:
            # With another status poprun would end instance 0 before it has written its files.
            return 0 if _later_instance() else 128 + interrupt.number
        except NonFiniteError:
            return 3
    return 0
