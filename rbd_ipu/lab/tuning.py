"""The search for a learning rate: ``rbd-ipu tune``, the searches of Table 4, and ``learning_rate=auto``.

Trials are made one after the other in this process, or several at once in processes of their own. Such a process is
``python -m rbd_ipu.lab.tuning CORES ANSWER ORDER``: it writes its Trial as JSON into the file ANSWER, and ends
when its standard input does, so that none outlives a search that is killed.

Every finished trial is in the folder of its search, and none is made twice:

====================  =================================================================
``tune.json``         settings, range, rule; each sitting with its command, commit, versions and machine; the choice
``grid.jsonl``        one line a trial, as they ended; of two lines for one rate the later one holds
====================  =================================================================
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
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from rbd_ipu import files, provenance
from rbd_ipu.config import FIELDS, Config, from_assignments, resolve
from rbd_ipu.config.resolve import likely_exponent
from rbd_ipu.config.schema import Real
from rbd_ipu.errors import ConfigError, exit_status
from rbd_ipu.files import Maybe, locked
from rbd_ipu.lab.pool import REFUSED, Pool, Running, job, last_words
from rbd_ipu.lab.presets import Budget, Cell
from rbd_ipu.lab.results import Costs, Total, essence
from rbd_ipu.lab.trials import (
    FINISHED,
    HELD_OUT,
    HOPED_FOR,
    JUDGED_AFTER,
    LINE,
    Trial,
    Trials,
    Wanted,
    best,
    exponents,
    following,
    prepared,
    written,
)
from rbd_ipu.parallel.workers import task
from rbd_ipu.process import keep_to, stopped_by_sigterm
from rbd_ipu.provenance import command_line, now
from rbd_ipu.runs import check_free, check_search, facts_of, new_folder

FACTS, GRID = "tune.json", "grid.jsonl"
RULE = (
    f"a rate is given up after {JUDGED_AFTER:.0%} of its epochs or later, if at the pace of its best loss so far "
    f"(held out or training) it would lose less than {HOPED_FOR:.0%} of its loss before the first step; it is run in "
    "full after all, if no other rate ends below what it would have come to"
)


class Folder:
    """The folder of one search; see :func:`opened`."""

    def __init__(self, path: Path, facts: Dict[str, Any], trials: Trials):
        self.path, self.facts, self.trials = path, facts, trials

    def add(self, trial: Trial) -> None:
        """Keeps a trial, on disk before this returns."""
        lines = files.lines(self.path / GRID)
        lines.append({**trial.as_dict(), "sitting": len(self.facts["sittings"])})
        files.write_text(self.path / GRID, "".join(map(files.line, lines)))
        self.trials[trial.exponent] = trial

    def end(self, outcome: str) -> None:
        """Writes how the search went, and its choice if it is finished."""
        chosen = best(self.trials) if outcome == "finished" else None
        self.facts["sittings"][-1].update(ended=now(), outcome=outcome)
        self.facts["choice"] = chosen and {
            "learning_rate": chosen.learning_rate,
            "exponent": chosen.exponent,
            "loss": chosen.loss,
            "accuracy": chosen.accuracies[-1] if chosen.accuracies else None,
        }
        self._write()

    def _write(self) -> None:
        files.write_text(self.path / FACTS, files.document(self.facts))


def check_folder(output: Optional[Union[str, Path]], config: Config) -> None:
    """Refuses a folder that this search can neither make nor go on in; writes nothing.

    Raises:
      ConfigError: it holds something else, or a search with other settings, which are named.
    """
    if output is None:
        return
    if not (Path(output) / FACTS).exists():
        check_free(output)
        return
    check_search(Path(output) / FACTS, _decisive(config))


@contextlib.contextmanager
def opened(
    output: Optional[Union[str, Path]], config: Config, options: Mapping[str, Any], command: str
) -> Iterator[Folder]:
    """The folder of a search, new or as an earlier sitting left it; no other search can have it meanwhile.

    Args:
      output: where; None makes a new one under runs/.
      config: the settings; its learning rate does not count.
      options: range, start and jobs of this sitting.
      command: the command line of this sitting.

    Raises:
      ConfigError: see :func:`check_folder`; or another search is at work in it.
    """
    check_folder(output, config)
    if output is not None and (Path(output) / FACTS).exists():
        path = Path(output)
    else:
        path = new_folder(output, f"tune-{config.dataset}-{config.network}-{config.method}", FACTS)
    with locked(path):
        facts = {**facts_of(path / FACTS), "settings": _settings(config), "decisive": _decisive(config)}
        facts.update(held_out=HELD_OUT, rule=RULE, choice=None)
        facts.setdefault("sittings", []).append(
            {
                "command": command,
                **options,
                "started": now(),
                "ended": None,
                "outcome": "running",
                **provenance.origin(),
            }
        )
        trials = {trial.exponent: trial for trial in map(Trial.of, files.lines(path / GRID, accepted=LINE))}
        folder = Folder(path, facts, trials)
        folder._write()
        yield folder


def _settings(config: Config) -> Dict[str, Any]:
    return {key: value for key, value in config.as_dict().items() if key != "learning_rate"}


def _decisive(config: Config) -> Dict[str, Any]:
    """The settings that decide the numbers of a trial beside its rate, less those at their defaults."""
    return {key: value for key, value in essence(config).items() if key != "learning_rate"}


HEADING = f"{'rate':>7}  {'loss':>8}  {'accuracy':>8}  {'epochs':>7}  {'seconds':>7}  outcome"
# What a row of learning_rates.yaml has columns for; it holds for the usual values of everything else.
_COLUMNS = ("dataset", "network", "method", "dim")
_IDLE = ("learning_rate", "epochs", "seed", "device", "data_dir", "source", *_COLUMNS)


def line_of(trial: Trial, mark: str = "") -> str:
    """One trial as a line of the table; loss and accuracy are those of its last epoch on the held-out images."""

    def number(values: List[float], digits: int) -> str:
        if not values or not math.isfinite(values[-1]):
            return "-"
        return f"{values[-1]:.{digits}f}" if values[-1] < 1000 else f"{values[-1]:.1e}"

    accuracy = number([100 * value for value in trial.accuracies], 2)
    return (
        f"{written(trial.exponent):>7}  {number(trial.losses, 4):>8}  {accuracy:>8}  "
        f"{len(trial.losses):>3}/{trial.epochs:<3}  {trial.seconds:>7.1f}  {trial.outcome}{mark}"
    )


def table_of(trials: Trials) -> str:
    """All trials, the highest rate first; the lowest loss is marked."""
    chosen = best(trials)
    rows = [
        line_of(trial, "  <- lowest" if trial is chosen else "") for _, trial in sorted(trials.items(), reverse=True)
    ]
    return "\n".join([HEADING, *rows])


def row_of(config: Config, trials: Trials) -> Optional[str]:
    """The chosen rate as a row of ``rbd_ipu/config/learning_rates.yaml``; None where no trial was finished.

    Its note has the losses of the rates beside it, the epochs, and every setting that is not the usual one.
    """
    chosen = best(trials)
    if chosen is None:
        return None
    around = [trials[e] for e in range(chosen.exponent - 1, chosen.exponent + 2) if e in trials]
    losses = [
        f"{written(t.exponent)}: {t.loss:.4f}" if t.outcome == FINISHED else f"{written(t.exponent)} {t.outcome}"
        for t in around
    ]
    settings = config.as_dict()
    unusual = [f"{k} {v}" for k, v in settings.items() if k not in _IDLE and v != FIELDS[k]["default"]]
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    note = "; ".join([", ".join(losses), f"{epochs}, seed {config.seed}", *unusual])
    items = [f"{key}: {settings[key]}" for key in _COLUMNS if key in settings]
    items += [f"learning_rate: {written(chosen.exponent)}", 'source: "rbd-ipu tune"', f'note: "{note}"']
    return f"  - {{{', '.join(items)}}}"


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
    with stopped_by_sigterm(), tempfile.TemporaryDirectory(prefix="rbd-trials-") as folder:
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
        facts = files.found(self.folder / FACTS)
        files.check(facts, {"choice": Maybe({"learning_rate": Real(positive=True)})}, str(self.folder / FACTS))
        return facts.get("choice")

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
    check_folder(output, config)
    prepared(config)  # what is missing is said before anything is written
    with opened(output, config, wanted.facts(), command) as folder:
        print(f"{_title(config)}; {folder.path}")
        try:
            _tried(config, wanted, folder, functools.partial(print, flush=True))
        except KeyboardInterrupt:
            print("\nrbd-ipu: interrupted by Ctrl-C; the rates that are done are kept:", file=sys.stderr)
            print(f"rbd-ipu: go on with --output {folder.path}", file=sys.stderr)
            return 130
        print(f"\n{table_of(folder.trials)}\n")
        if best(folder.trials) is None:
            print("rbd-ipu: no rate could be finished; try other rates by --from and --to", file=sys.stderr)
            return 1
        print(f"a row for rbd_ipu/config/learning_rates.yaml:\n{row_of(config, folder.trials)}")
        return 0


def _tried(config: Config, wanted: Wanted, folder: Any, say: Callable[[str], None]) -> None:
    """Tries the rates of a search that its folder does not hold; keeps and says each, and notes how it ended."""
    grid = exponents(wanted.first, wanted.last)

    def orders() -> List[Order]:
        return [Order(config, e, again=e in folder.trials) for e in following(grid, folder.trials, wanted.start)]

    for trial in folder.trials.values():
        say(f"{line_of(trial)} (kept)")
    try:
        with contextlib.closing(at_once(orders, wanted.jobs) if wanted.jobs > 1 else one_by_one(orders)) as trials:
            for trial in trials:
                folder.add(trial)
                say(line_of(trial))
    except BaseException as error:
        folder.end("interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed")
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
    start = likely_exponent(config.as_dict())
    wanted = Wanted(start=start)
    with opened(output, trials, wanted.facts(), command) as folder:
        say(f"learning_rate=auto: rates are tried for {trials.epochs} epochs each, from {written(start)} outwards")
        say(HEADING)
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
    for name in (FACTS, GRID):
        shutil.copyfile(found / name, run / FOLDER / name)


def is_kept(run: Path) -> bool:
    """Whether the rate of a run was searched for."""
    return (run / FOLDER / FACTS).exists()


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
