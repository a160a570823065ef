"""One run, from its settings to its folder: what ``rbd-ipu train`` does, and what tables and figures are made of.

With several workers, the process that the user starts without a launcher starts the ranks by one and watches them.
Worker 0 trains and writes the folder of the run; the others train and write nothing. So do, on a POD, the instances
that poprun starts.
"""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from rbd_ipu import checkpoints
from rbd_ipu.config import FIELDS, Config, resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError, NonFiniteError
from rbd_ipu.files import locked, missing
from rbd_ipu.parallel import launch
from rbd_ipu.parallel.ranks import TIMEOUT, connect, connected
from rbd_ipu.parallel.workers import running, task
from rbd_ipu.process import deferred
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import RunFolder, check_free, new_folder, resume
from rbd_ipu.runs.experiment import prepare


def with_all_ranks(read: Callable[[], Dict[str, Given]]) -> Dict[str, Given]:
    """The settings that ``read`` gives, in a process that then knows the other ones of its launcher.

    Raises:
      ConfigError: they are wrong; the other ranks hear of it, and do not wait.
    """
    try:
        given = several(read())
    except ConfigError:
        join()
        raise
    join(given)
    return given


def goes_on(asked: Optional[str], output: Optional[Path]) -> bool:
    """Whether to go on in a folder; worker 0 decides for all, as it may make the folder before others look.

    Args:
      asked: None for a new run, "yes" for one that is there, "auto" for either.
      output: the folder.

    Raises:
      ConfigError: no folder was given.
    """
    if output is None:
        if asked:
            raise ConfigError("--resume needs --output DIR, the folder to go on in")
        return False
    if asked != "auto":
        return bool(asked)
    if not is_follower():
        resume.clear_abandoned(output)
    return as_first((output / "config.yaml").exists())


def free(output: Optional[Path]) -> None:
    """Refuses a folder that a new run cannot have; only the process that writes it looks."""
    if output is not None and not is_follower():
        check_free(output)


def train(
    given: Mapping[str, Given],
    words: Sequence[str],
    output: Optional[Path] = None,
    quiet: bool = False,
    made: Optional[Callable[[Path], None]] = None,
) -> int:
    """Begins a run and trains to its end; returns the exit status.

    Args:
      given: its settings; all others have their defaults.
      words: the command line after ``rbd-ipu``, for the record and for the workers that are started.
      output: the folder to make; None makes one under runs/.
      quiet: whether to print the path of the folder only.
      made: if given, called with the folder once it is there and locked.

    Raises:
      ConfigError: settings that cannot be used, or a folder that is taken; nothing was written.
    """
    config = resolve(given)
    free(output)
    status = elsewhere(config, words)
    if status is not None:
        return status

    experiment = prepare(config)
    if experiment.trainer.device.compiles_only:
        return _compile(experiment)
    folder = RunFolder(new_folder(output, f"{config.dataset}-{config.network}-{config.method}"))
    with locked(folder.path):
        if (folder / "config.yaml").exists():  # before the lock, a start with --resume auto may take it for abandoned
            raise ConfigError(f"--output {folder.path}: another run has just taken the folder")
        if made is not None:
            made(folder.path)
        return _train(experiment, folder, words, quiet)


def go_on(given: Mapping[str, Given], words: Sequence[str], output: Path, quiet: bool = False) -> int:
    """Goes on in the folder of a run from where it last saved; returns the exit status.

    Args:
      given: settings that may change, see ``resume.MAY_CHANGE``; others must be those of the run.
      words, quiet: as for :func:`train`.
      output: the folder.

    Raises:
      ConfigError: there is no run, or it has other settings; nothing was changed.
    """
    folder = RunFolder(output)
    config = resume.settings(folder, given)  # refuses a folder without a run before a lock is put into it
    status = elsewhere(config, words, folder)
    if status is not None:
        return status
    with locked(folder.path):
        config = resume.settings(folder, given)
        if as_first(resume.is_finished(folder, config)):
            said = f"finished already after {config.epochs} epochs\nfolder      {folder.path}"
            print(folder.path if quiet else said)
            return 0

        experiment = prepare(config)
        if experiment.trainer.device.compiles_only:
            raise ConfigError(f"device: {config.device} only compiles programs; a run cannot go on there")
        found = resume.find(experiment, folder)
        for path, reason in found.refused:
            print(f"rbd-ipu: {path} is left alone: {reason}", file=sys.stderr)
        if not quiet:
            print(f"goes on at {found.checkpoint.place}" if found.checkpoint else "nothing was done yet: begins anew")
        return _train(experiment, folder, words, quiet, found.checkpoint)


def _compile(experiment: Any) -> int:
    """On a machine without IPUs: compiles all programs of the run and makes no folder, for there are no numbers."""
    experiment.fit(verbose=0)
    experiment.test()
    print(f"compiled for {experiment.config.device}: training, validation and test; nothing was trained")
    return 0


def _train(experiment: Any, folder: RunFolder, words: Sequence[str], quiet: bool, start: Any = None) -> int:
    from rbd_ipu.runs.record import record

    if not quiet:
        print(f"{experiment.title}, seed {experiment.config.seed}")
        if experiment.trainer.device.exchange.note:
            print(experiment.trainer.device.exchange.note)
        for line in missing():
            print(f"rbd-ipu: {line}")
    # A progress bar is for a terminal; elsewhere one line an epoch.
    verbose = 0 if quiet else 1 if sys.stdout.isatty() else 2
    outcome, result = record(experiment, folder, command_line(words), verbose, start)
    if outcome.message:
        print(f"rbd-ipu: {outcome.message}", file=sys.stderr)
    sample = folder / "sample.txt"
    if not quiet and outcome.status == 0 and sample.exists():
        print(f"--- what it writes\n{sample.read_text(encoding='utf-8').rstrip()}\n---")
    print(folder.path if quiet else summary(result, folder.path))
    return outcome.status


def summary(result: Mapping[str, Any], folder: Path) -> str:
    """What the user wants to know at the end."""
    lines = [f"{result['outcome']} after {result['epochs']} epochs"]
    for name in ("validation", "test"):
        numbers = result[name]
        if numbers and None not in numbers.values():
            accuracy, loss = 100 * numbers["accuracy"], numbers["loss"]
            line = f"{name:<10}  accuracy {accuracy:.2f} %  loss {loss:.4f}"
            if "perplexity" in numbers:
                line += f"  perplexity {numbers['perplexity']:.3f}"
            lines.append(line)
    return "\n".join([*lines, f"folder      {folder}"])


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
    if folder is not None and as_first(resume.is_finished(folder, config)):
        return 0
    from rbd_ipu.runs.callbacks import StopOnInterrupt  # late: worker 0 may be refused before it needs TensorFlow

    experiment = prepare(config)
    start = None
    if folder is not None:
        found = resume.find(experiment, folder).checkpoint
        start = None if found is None else checkpoints.restore(experiment.trainer, found)
    with deferred() as interrupt:
        try:
            experiment.fit(verbose=0, start=start, callbacks=[StopOnInterrupt(interrupt)])
        except KeyboardInterrupt:
            # With another status poprun would end instance 0 before it has written its files.
            return 0 if _later_instance() else 128 + interrupt.number
        except NonFiniteError:
            return 3
    return 0
