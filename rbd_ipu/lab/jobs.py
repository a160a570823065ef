"""A run of a table or a figure: its folder, its attempts, and the process that makes it.

    FOLDER/                 DATASET-NETWORK-METHOD-sSEED-KEY
      .lock                 held by the process that trains, whoever started it
      .cores                those of that process, "0,1"
      log.txt               what it printed
      1/ 2/ ...             attempts, each a run folder; a second one only where the first cannot be gone on with

A lock of the operating system goes with the process that holds it, so that a killed run never looks alive.

The process of one run: ``python -m rbd_ipu.lab.jobs CORES FOLDER KEY=VALUE...``.

It keeps to its cores (``0,1``), takes the lock of the job's folder and trains as ``rbd-ipu train``
does. A run that was cut short goes on; where that is refused (it was killed before its first checkpoint), a new one
begins beside it.
"""

import contextlib
import functools
import sys
import time
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

from rbd_ipu import files
from rbd_ipu.config import FIELDS, Config, from_assignments
from rbd_ipu.errors import ConfigError, exit_status
from rbd_ipu.files import locked
from rbd_ipu.lab.results import ENDED, key
from rbd_ipu.process import keep_to, usable
from rbd_ipu.runs.train import go_on
from rbd_ipu.runs.train import train as train_run


class Job(NamedTuple):
    """One run to be made.

    Attributes:
      config: its settings.
      label: for people: table, cell and seed.
      folder: of its own.
    """

    config: Config
    label: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def words(self) -> List[str]:
        """``KEY=VALUE`` of every setting that is not at its default, for ``rbd-ipu train --set``."""
        given = {k: v for k, v in self.config.as_dict().items() if v != FIELDS[k]["default"]}
        return [f"{name}={_written(value)}" for name, value in given.items()]

    def ended(self) -> bool:
        """Whether an attempt has come to its end."""
        return any(outcome(attempt) in ENDED for attempt in attempts(self.folder))

    def epochs_done(self) -> int:
        """Finished epochs of the latest attempt."""
        latest = attempts(self.folder)[-1:]
        return _lines(latest[0] / "metrics.jsonl") if latest else 0

    def last_words(self) -> str:
        """The last line of the log that says something."""
        return last_words(self.log)


def last_words(log: Path) -> str:
    """The last line of a log that says something: an error of ours, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("rbd-ipu: ")]
        return (errors or lines or [""])[-1]
    return ""


def job(config: Config, label: str, queue: Path) -> Job:
    """The job of a run in the folder of a queue."""
    name = f"{config.dataset}-{config.network}-{config.method}-s{config.seed}-{key(config)}"
    return Job(config, label, queue / name)


def attempts(folder: Path) -> List[Path]:
    """The run folders in a job's folder, oldest first."""
    found = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def outcome(attempt: Path) -> Optional[str]:
    """The word of run.json for how a run ended; "running" also for one that was killed."""
    return files.found(attempt / "run.json").get("outcome")


def note_cores(folder: Path, cores: Sequence[int]) -> None:
    """Writes down where a run is trained, for a queue that finds it running."""
    (folder / ".cores").write_text(",".join(map(str, cores)), encoding="ascii")


def noted_cores(folder: Path) -> List[int]:
    """What :func:`note_cores` wrote; nothing where it has not."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return [int(core) for core in (folder / ".cores").read_text(encoding="ascii").split(",")]
    return []


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Taken(RuntimeError):
    """Another process trains this run."""


@contextlib.contextmanager
def claimed(folder: Path, patience: float = 1.0) -> Iterator[None]:
    """Holds a job's lock.

    Args:
      folder: of the job.
      patience: seconds to try for; a queue that only looks has the lock for a moment.

    Raises:
      Taken: somebody else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except ConfigError as error:
                if time.monotonic() >= until:
                    raise Taken(str(error)) from None
                time.sleep(0.05)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a process trains this run now."""
    if not folder.exists():
        return False
    try:
        with claimed(folder, patience=0.0):
            return False
    except Taken:
        return True


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
    cores, folder, *settings = sys.argv[1:] if arguments is None else arguments
    keep_to([int(core) for core in cores.split(",")])
    try:
        return train(Path(folder), settings)
    except Taken:
        return TAKEN


if __name__ == "__main__":
    sys.exit(main())
