"""The search for a learning rate: ``rbd-ipu tune``, the searches of Table 4, and ``learning_rate=auto``.

Trials are made one after the other in this process, or several at once in processes of their own. Such a process is
``python -m rbd_ipu.lab.tuning CORES ANSWER ORDER``: it writes its Trial as JSON into the file ANSWER, and ends
when its standard input does, so that none outlives a search that is killed.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Generator, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import files
from rbd_ipu.config import Config, from_assignments, rates, resolve
from rbd_ipu.errors import ConfigError, exit_status
from rbd_ipu.lab import tuning_folder
from rbd_ipu.lab.jobs import REFUSED, job, last_words
from rbd_ipu.lab.pool import Pool, Running
from rbd_ipu.lab.presets import Budget, Cell
from rbd_ipu.lab.results import Costs, Total
from rbd_ipu.lab.trials import Trial, Wanted, best, exponents, following, prepared, written
from rbd_ipu.parallel.task import task
from rbd_ipu.process import keep_to
from rbd_ipu.provenance import command_line


class Order(NamedTuple):
    """A trial to be made: settings, exponent of the rate, and whether it may not be stopped early."""

    config: Config
    exponent: int
    again: bool = False


def one_by_one(following: Callable[[], List[Order]]) -> Generator[Trial, None, None]:
    """Makes trials in this process until ``following()``, asked anew after each, has no more."""
    from rbd_ipu.lab.trials import train

    while True:
        orders = following()
        if not orders:
            return
        yield train(*orders[0])


def at_once(following: Callable[[], List[Order]], jobs: int) -> Generator[Trial, None, None]:
    """The same with up to ``jobs`` at a time, each in a process that has its share of the cores.

    Yields trials as they end. Leaving the loop, by an error or Ctrl-C too, ends the processes.

    Raises:
      ConfigError: settings were refused.
      RuntimeError: a trial failed otherwise; with the last line of what it said.
    """
    pool = Pool(jobs)
    with tempfile.TemporaryDirectory(prefix="rbd-trials-") as folder:
        try:
            while True:
                begun = [entry.job for entry in pool.running]
                for order in [order for order in following() if order not in begun][: len(pool.free)]:
                    answer = Path(folder) / f"{order.exponent}"
                    words = [str(answer), files.line([order.config.as_dict(), order.exponent, order.again])]
                    process = pool.start(pool.free[0], TRIAL, words, answer.with_suffix(".log"), tied=True)
                    pool.begin(order, process, pool.free[0])
                if not pool.running:
                    return
                for entry in pool.ended():
                    yield _answered(Path(folder) / f"{entry.job.exponent}", entry)
        finally:
            pool.stop(signal.SIGKILL)


def _answered(answer: Path, entry: Running) -> Trial:
    if answer.exists():
        facts = files.found(answer)
        answer.unlink()
        return Trial.of(facts)
    status = entry.process and entry.process.returncode
    words = last_words(answer.with_suffix(".log")) or f"exit status {status}"
    if status == REFUSED:
        raise ConfigError(words.replace("rbd-ipu: error: ", ""))
    raise RuntimeError(f"the trial at 2**{entry.job.exponent} ended without a result: {words}")


TRIAL = ("-m", "rbd_ipu.lab.tuning")


def main() -> int:
    """The life of a process that makes one trial."""
    cores, answer, order = sys.argv[1:]
    keep_to([int(core) for core in cores.split(",")])
    threading.Thread(target=_end_with_input, daemon=True).start()
    settings, exponent, again = json.loads(order)

    def made() -> int:
        from rbd_ipu.lab.trials import train

        files.write_text(answer, files.line(train(resolve(settings), exponent, again).as_dict()))
        return 0

    return exit_status(made)


def _end_with_input() -> None:
    while os.read(0, 4096):  # not by sys.stdin, whose lock Python wants to have when it ends
        pass
    os._exit(1)


_RATES = 6  # that a search from a good start takes, about


class Search(NamedTuple):
    """One search: its settings, exponent to start from, folder."""

    config: Config
    start: int
    folder: Path

    def choice(self) -> Optional[Dict[str, Any]]:
        """What ``rbd-ipu tune`` has chosen: learning_rate, exponent, loss, accuracy; None before its end."""
        return files.found(self.folder / "tune.json").get("choice")

    def run(self, limits: Budget, parallel: Optional[int]) -> int:
        """Makes it, or goes on; under the smallest budget two rates, otherwise a walk. Returns the exit status."""
        wanted = Wanted(start=self.start, jobs=parallel or 1)
        range_of = [f"--start=2**{self.start}", f"--jobs={wanted.jobs}"]
        if limits.tiny:
            wanted = Wanted(self.start, self.start - 1)
            range_of = [f"--from=2**{self.start}", f"--to=2**{self.start - 1}"]
        settings = [
            word for word in job(self.config, "", self.folder).words() if not word.startswith("learning_rate=")
        ]
        words = ["tune", *(part for word in settings for part in ("--set", word)), "--output", str(self.folder)]
        config = resolve({**from_assignments(settings), "learning_rate": 1.0})
        return tune(config, wanted, self.folder, command_line([*words, *range_of]))


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


def run(to_do: Sequence[Search], limits: Budget, parallel: Optional[int], say: Callable[[str], None]) -> int:
    """Makes the searches that have no choice yet, one after the other; returns the worst exit status.

    Raises:
      KeyboardInterrupt: Ctrl-C; rates that are done are kept.
    """
    worst = 0
    for search in dict.fromkeys(to_do):
        if search.choice() is not None:
            continue
        say(f"tuning in {search.folder}")
        search.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            status = exit_status(functools.partial(search.run, limits, parallel))
        if status == 130:
            raise KeyboardInterrupt
        worst = max(worst, status)
    return worst


def tune(config: Config, wanted: Wanted, output: Optional[Path], command: str) -> int:
    """What ``rbd-ipu tune`` does: tries rates, keeps and prints each; returns the exit status.

    Args:
      config: the settings of all trials; their learning rate is a place holder.
      wanted: which rates.
      output: the folder to make or to go on in; None makes one under runs/.
      command: the command line, for the record.

    Raises:
      ConfigError: the folder holds something else, or the data are missing; nothing was written.
    """
    tuning_folder.check(output, config)
    prepared(config)  # what is missing is said before anything is written
    with tuning_folder.opened(output, config, wanted.facts(), command) as folder:
        print(f"{_title(config)}; {folder.path}")
        try:
            _tried(config, wanted, folder, functools.partial(print, flush=True))
        except KeyboardInterrupt:
            print("\nrbd-ipu: interrupted by Ctrl-C; the rates that are done are kept:", file=sys.stderr)
            print(f"rbd-ipu: go on with --output {folder.path}", file=sys.stderr)
            return 130
        print(f"\n{tuning_folder.table(folder.trials)}\n")
        if best(folder.trials) is None:
            print("rbd-ipu: no rate could be finished; try other rates by --from and --to", file=sys.stderr)
            return 1
        print(f"a row for rbd_ipu/config/learning_rates.yaml:\n{tuning_folder.row(config, folder.trials)}")
        return 0


def _tried(config: Config, wanted: Wanted, folder: Any, say: Callable[[str], None]) -> None:
    """Tries the rates of a search that its folder does not hold; keeps and says each, and notes how it ended."""
    grid = exponents(wanted.first, wanted.last)

    def orders() -> List[Order]:
        return [Order(config, e, again=e in folder.trials) for e in following(grid, folder.trials, wanted.start)]

    for trial in folder.trials.values():
        say(f"{tuning_folder.line(trial)} (kept)")
    try:
        with contextlib.closing(at_once(orders, wanted.jobs) if wanted.jobs > 1 else one_by_one(orders)) as trials:
            for trial in trials:
                folder.add(trial)
                say(tuning_folder.line(trial))
    except BaseException as error:
        folder.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    folder.end("finished")


def _title(config: Config) -> str:
    dim = f" with {config.dim} directions" if config.dim else ""
    return (
        f"the learning rate of {config.method}{dim} for {config.network} on {config.dataset}, {config.epochs} epochs"
    )


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
    trials = shortened(config)
    start = rates.likely_exponent(config.as_dict())
    wanted = Wanted(start=start)
    with tuning_folder.opened(output, trials, wanted.facts(), command) as folder:
        say(f"learning_rate=auto: rates are tried for {trials.epochs} epochs each, from {written(start)} outwards")
        say(tuning_folder.HEADING)
        _tried(trials, wanted, folder, say)
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


if __name__ == "__main__":
    sys.exit(main())
