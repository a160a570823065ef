"""The searches behind Table 4: ``rbd-ipu tune`` for each cell, in folders that it goes on in.

``learning_rate=auto``: the short search that a run begins with.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import files
from rbd_ipu.config import Config, ConfigError, rates
from rbd_ipu.lab import tuning_folder
from rbd_ipu.lab.costs import Costs, Total
from rbd_ipu.lab.jobs import job
from rbd_ipu.lab.presets import Budget, Cell
from rbd_ipu.lab.trials import HIGHEST, LOWEST, best, exponents, following, written
from rbd_ipu.lab.tuning_workers import Order, one_by_one
from rbd_ipu.parallel.ranks import task

_RATES = 6  # that a search from a good start takes, about


class Search(NamedTuple):
    """One search: its settings, exponent to start from, folder."""

    config: Config
    start: int
    folder: Path

    def choice(self) -> Optional[Dict[str, Any]]:
        """What ``rbd-ipu tune`` has chosen: learning_rate, exponent, loss, accuracy; None before its end."""
        return files.found(self.folder / "tune.json").get("choice")

    def command(self, limits: Budget, parallel: Optional[int]) -> List[str]:
        """The command line after ``rbd-ipu``; under the smallest budget two rates, otherwise a walk."""
        settings = [
            word for word in job(self.config, "", self.folder).words() if not word.startswith("learning_rate=")
        ]
        words = ["tune", *(part for word in settings for part in ("--set", word)), "--output", str(self.folder)]
        if limits.tiny:
            return [*words, "--from", f"2**{self.start}", "--to", f"2**{self.start - 1}"]
        return [*words, "--start", f"2**{self.start}", "--jobs", str(parallel or 1)]


def searches(found: Sequence[Cell], folder: Path) -> Dict[Any, Search]:
    """The search of each cell by (row, column); it starts at the rate on record, or at the paper's."""
    by_place = {}
    for cell in found:
        config = cell.configs[0]
        start = cell.paper.get("exponent", 0) if cell.untuned else round(math.log2(config.learning_rate))
        name = "-".join([config.dataset, config.network, config.method, *([str(config.dim)] if config.dim else [])])
        by_place[cell.row, cell.column] = Search(config, start, folder / f"{name}-{config.epochs}")
    return by_place


def cost(all_searches: Sequence[Search]) -> Total:
    """Of all searches, from the beginning."""
    return Costs().total(search.config for search in all_searches for _ in range(_RATES))


def run(to_do: Sequence[Search], limits: Budget, parallel: Optional[int], tell: Callable[[str], None]) -> int:
    """Makes the searches that have no choice yet, one after the other; returns the worst exit status.

    Raises:
      KeyboardInterrupt: Ctrl-C; rates that are done are kept.
    """
    from rbd_ipu.cli import main

    worst = 0
    for search in dict.fromkeys(to_do):
        if search.choice() is not None:
            continue
        tell(f"tuning in {search.folder}")
        search.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            status = main(search.command(limits, parallel))
        if status == 130:
            raise KeyboardInterrupt
        worst = max(worst, status)
    return worst


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
    start = rates.likely_exponent(config.as_dict())
    options = {"from": written(HIGHEST), "to": written(LOWEST), "start": written(start), "jobs": 1}
    with tuning_folder.opened(output, trials, options, command) as folder:

        def orders() -> List[Order]:
            return [Order(trials, e, again=e in folder.trials) for e in following(grid, folder.trials, start)]

        say(f"learning_rate=auto: rates are tried for {trials.epochs} epochs each, from {written(start)} outwards")
        say(tuning_folder.HEADING)
        for trial in folder.trials.values():
            say(f"{tuning_folder.line(trial)} (kept)")
        try:
            with contextlib.closing(one_by_one(orders)) as done:
                for trial in done:
                    folder.add(trial)
                    say(tuning_folder.line(trial))
        except BaseException as error:
            folder.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        folder.end("finished")
        chosen = best(folder.trials)
        if chosen is None:
            raise ConfigError(f"learning_rate=auto: no rate could be finished; what was tried is in {folder.path}")
        from rbd_ipu._compat import keras

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
    for name in (tuning_folder.FACTS, tuning_folder.GRID):
        shutil.copyfile(found / name, run / FOLDER / name)


def is_kept(run: Path) -> bool:
    """Whether the rate of a run was searched for."""
    return (run / FOLDER / tuning_folder.FACTS).exists()


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
