"""``learning_rate=auto``: the short search that a run begins with."""

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from rbd_ipu.config import Config, ConfigError
from rbd_ipu.paper import learning_rates
from rbd_ipu.tuning import record, report
from rbd_ipu.tuning.grid import HIGHEST, LOWEST, exponents, written
from rbd_ipu.tuning.search import best, following
from rbd_ipu.tuning.workers import Order, one_by_one
from rbd_ipu.workers.task import task

EPOCHS = 3  # of a trial, at most
FOLDER = "tune"  # in the folder of the run
FOUND = "RBD_IPU_SEARCH"  # tells the workers of a run where the search was kept


def shortened(config: Config) -> Config:
    """The settings of a trial: fewer epochs, and in one process what several workers would do.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> trial = shortened(resolve({"epochs": 20, "workers": 2}))
      >>> trial.epochs, trial.workers, trial.simulate_workers
      (3, 1, 2)
    """
    # A switch of methods after half of the epochs is part of the setting.
    epochs = config.epochs if config.method == "switch" else min(config.epochs, EPOCHS)
    workers = max(config.workers, config.simulate_workers)
    return dataclasses.replace(config, epochs=epochs, workers=1, simulate_workers=workers)


def search(config: Config, output: Optional[Path], command: str, say: Callable[[str], None]) -> Tuple[int, Path]:
    """Walks outwards from a likely rate as ``rbd-ipu tune --start`` does; says what it finds.

    Args:
      config: the settings of the run; its learning rate does not count.
      output: the folder of the search, a new one or one to go on in; None makes a new one under runs/.
      command: the command line, for the record.
      say: prints a line.

    Returns:
      the exponent of the rate with the lowest held-out loss, and the folder.

    Raises:
      ConfigError: no rate could be finished, or the folder holds something else.
    """
    trials, grid = shortened(config), exponents()
    start = learning_rates.likely_exponent(config.as_dict())
    options = {"from": written(HIGHEST), "to": written(LOWEST), "start": written(start), "jobs": 1}
    with record.opened(output, trials, options, command) as folder:

        def orders() -> List[Order]:
            return [Order(trials, e, again=e in folder.trials) for e in following(grid, folder.trials, start)]

        say(f"learning_rate=auto: rates are tried for {trials.epochs} epochs each, from {written(start)} outwards")
        say(report.HEADING)
        for trial in folder.trials.values():
            say(f"{report.line(trial)} (kept)")
        try:
            with contextlib.closing(one_by_one(orders)) as done:
                for trial in done:
                    folder.add(trial)
                    say(report.line(trial))
        except BaseException as error:
            folder.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        folder.end("finished")
        chosen = best(folder.trials)
        if chosen is None:
            raise ConfigError(f"learning_rate=auto: no rate could be finished; what was tried is in {folder.path}")
        from rbd_ipu._stack import keras

        keras.backend.clear_session()  # the run begins as one that is given its rate
        os.environ[FOUND] = str(folder.path.resolve())
        rate, count = written(chosen.exponent), len(folder.trials)
        say(f"learning_rate {rate} is chosen: its held-out loss, {chosen.loss:.4f}, is the lowest of {count}")
    return chosen.exponent, folder.path


def found() -> Optional[Path]:
    """The folder of the search that the process made which has started this worker; None where there was none."""
    own = task()
    return Path(os.environ[FOUND]) if own is not None and own.mpi and FOUND in os.environ else None


def keep(found: Path, run: Path) -> None:
    """Copies the record of a search into the folder of its run."""
    (run / FOLDER).mkdir(exist_ok=True)
    for name in (record.FACTS, record.GRID):
        shutil.copyfile(found / name, run / FOLDER / name)


def is_kept(run: Path) -> bool:
    """Whether the rate of a run was searched for."""
    return (run / FOLDER / record.FACTS).exists()


def rewritten(words: List[str], exponent: int) -> List[str]:
    """The command line with the rate in the place of auto, for the workers of a run.

    Example:
      >>> rewritten(["train", "--set", "learning_rate=auto", "--set", "dim=3"], -2)
      ['train', '--set', 'dim=3', '--set', 'learning_rate=2**-2']
    """
    kept: List[str] = []
    for word in words:
        key = word.split("=", 1)[1] if word.startswith("--set=") else word
        if key.replace(" ", "") != "learning_rate=auto":
            kept.append(word)
        elif not word.startswith("--set="):
            kept.pop()  # its --set
    return [*kept, "--set", f"learning_rate={written(exponent)}"]
