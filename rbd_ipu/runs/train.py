"""One run, from its settings to its folder: what ``rbd-ipu train`` does, and what tables and figures are made of."""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from rbd_ipu.config import resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import locked, missing
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import RunFolder, check_free, new_folder, resume, workers


def with_all_ranks(read: Callable[[], Dict[str, Given]]) -> Dict[str, Given]:
    """The settings that ``read`` gives, in a process that then knows the other ones of its launcher.

    Raises:
      ConfigError: they are wrong; the other ranks hear of it, and do not wait.
    """
    try:
        given = workers.several(read())
    except ConfigError:
        workers.join()
        raise
    workers.join(given)
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
    if not workers.is_follower():
        resume.clear_abandoned(output)
    return workers.as_first((output / "config.yaml").exists())


def free(output: Optional[Path]) -> None:
    """Refuses a folder that a new run cannot have; only the process that writes it looks."""
    if output is not None and not workers.is_follower():
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
      made: if given, called with the folder once it is there.

    Raises:
      ConfigError: settings that cannot be used, or a folder that is taken; nothing was written.
    """
    config = resolve(given)
    free(output)
    status = workers.elsewhere(config, words)
    if status is not None:
        return status

    from rbd_ipu.runs.experiment import prepare

    experiment = prepare(config)
    if experiment.trainer.device.compiles_only:
        return _compile(experiment)
    folder = RunFolder(new_folder(output, f"{config.dataset}-{config.network}-{config.method}"))
    if made is not None:
        made(folder.path)
    with locked(folder.path):
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
    status = workers.elsewhere(config, words, folder)
    if status is not None:
        return status
    with locked(folder.path):
        config = resume.settings(folder, given)
        if workers.as_first(resume.is_finished(folder, config)):
            said = f"finished already after {config.epochs} epochs\nfolder      {folder.path}"
            print(folder.path if quiet else said)
            return 0

        from rbd_ipu.runs.experiment import prepare

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
