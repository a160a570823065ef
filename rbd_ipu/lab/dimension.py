"""What ``rbd-ipu dimension`` does: the search of :mod:`rbd_ipu.dimension` with runs of ``rbd-ipu train``.

Every run has a folder under ``runs/`` in the folder of the search, as the runs of tables have. So a run that has
ended is never made again, and one that was cut short goes on from its checkpoint.
"""

import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import Config, ConfigError, resolve, takes
from rbd_ipu.config.resolve import rates_on_record
from rbd_ipu.dimension import report
from rbd_ipu.dimension.keras_model import METHODS, dimensions
from rbd_ipu.dimension.search import FINISHED, NOT_FINITE, START, Order, Run, search
from rbd_ipu.errors import say
from rbd_ipu.lab import pool
from rbd_ipu.lab.pool import Job, job
from rbd_ipu.lab.results import IMAGES, Costs, essence, from_folder, merge
from rbd_ipu.lab.results import config_of as row_config
from rbd_ipu.runs import new_folder
from rbd_ipu.runs.experiment import prepare

DISTRIBUTION = "hadamard"  # unless another one is given: its cost does not depend on d


class Wanted(NamedTuple):
    """What a search looks for.

    Attributes:
      method: of the subspaces, "fpd" or "rbd".
      share: of the full space's accuracy.
      seeds: how many, from the seed of the settings on.
      tolerance: of d, relative.
      least, greatest: the range of d; None for D.
      also: further d to measure.
      rates, full_rates: those to try in the subspaces and in the full space; None for a walk.
      jobs: runs at a time.
    """

    method: str = "fpd"
    share: float = 0.9
    seeds: int = 1
    tolerance: float = 0.1
    least: int = 1
    greatest: Optional[int] = None
    also: Tuple[int, ...] = ()
    rates: Optional[Tuple[float, ...]] = None
    full_rates: Optional[Tuple[float, ...]] = None
    jobs: int = 1


class RunFailed(RuntimeError):
    """A run ended without a result, and not because a number was not finite."""


LOOKED_FOR = {
    "method": f"give it as --method {' or --method '.join(METHODS)}",
    "dim": "this is what is looked for; --from and --to are its range",
    "learning_rate": "it is looked for at every d; give those to try as --rates and --full-rates",
}


def config_of(given: Mapping[str, Any], method: str, order: Order) -> Config:
    """The settings of a run; the full space is trained by SGD, which has no use for those of the directions.

    Args:
      given: the settings of all runs.
      method: of the subspaces.
      order: d, learning rate and seed.

    Raises:
      ConfigError: settings that cannot be used.

    Example:
      >>> config_of({}, "fpd", Order(16, 0.5, 7)).distribution, config_of({}, "fpd", Order(None, 0.5, 7)).dim
      ('hadamard', None)
    """
    own = {**given, "learning_rate": order.learning_rate, "seed": order.seed}
    if order.dim is None:
        return resolve({**{key: value for key, value in own.items() if takes("sgd", key)}, "method": "sgd"})
    return resolve({"distribution": DISTRIBUTION, **own, "method": method, "dim": order.dim})


def check(given: Mapping[str, Any], wanted: Wanted, output: Optional[Path]) -> Config:
    """Refuses what cannot be searched for; writes nothing. Returns the settings of a subspace.

    Raises:
      ConfigError: settings that are looked for, or that cannot be used; a folder that holds something else.
    """
    for key, reason in LOOKED_FOR.items():
        if key in given and getattr(given[key], "value", given[key]) is not None:
            raise ConfigError(f"{getattr(given[key], 'origin', key)}: rbd-ipu dimension takes no {key}: {reason}")
    config = config_of(given, wanted.method, Order(max(wanted.least, 1), 1.0, _first(given)))
    if str(config.compartments).startswith("factor:"):
        raise ConfigError(f"compartments={config.compartments} has a d of its own, and no other one can be tried")
    config_of(given, wanted.method, Order(None, 1.0, config.seed))
    try:
        config_of(given, wanted.method, Order(None, 1.0, config.seed + wanted.seeds - 1))
    except ConfigError as error:
        raise ConfigError(f"--seeds {wanted.seeds}: {error}") from None
    report.check(output, decisive(config), "--output")
    return config


def decisive(config: Config) -> Dict[str, Any]:
    """The settings that decide the numbers of all runs of a search, less those at their defaults."""
    return {key: value for key, value in essence(config).items() if key not in ("dim", "learning_rate", "seed")}


def _first(given: Mapping[str, Any]) -> int:
    return getattr(given.get("seed"), "value", given.get("seed")) or 0


def run(given: Mapping[str, Any], wanted: Wanted, output: Optional[Path], command: str) -> int:
    """Searches, prints and keeps what is found; returns the exit status.

    Args:
      given: settings as for ``rbd-ipu train``, without those that are looked for.
      wanted: what to look for.
      output: the folder to make or to go on in; None makes one under runs/.
      command: the command line, for the record.

    Raises:
      ConfigError: see :func:`check`; or the data are missing, or a d does not fit the network. Nothing was written.
    """
    config = check(given, wanted, output)
    size = _size(given, wanted, config.seed)
    try:
        least, greatest, also = dimensions(size, wanted.least, wanted.greatest, wanted.also)
    except ValueError as error:
        message = str(error).replace("least", "--from").replace("greatest", "--to").replace("also", "--also")
        raise ConfigError(message) from None
    _fitting(given, wanted.method, sorted({least, greatest, *also}), config.seed)
    seeds = tuple(range(config.seed, config.seed + wanted.seeds))
    if output is None:
        output = new_folder(None, f"dimension-{config.dataset}-{config.network}-{config.method}", report.FACTS)
    title = f"{config.network} on {config.dataset}: {config.method.upper()} in d of D = {size:,}"
    title += f", {config.epochs} epochs"
    settings = {key: value for key, value in config.as_dict().items() if key not in ("dim", "learning_rate")}
    settings.update(looked_for={**wanted._asdict(), "seeds": list(seeds)})
    with report.opened(output, title, settings, decisive(config), command, "--output") as record:
        print(f"{title}; {record.path}", flush=True)
        runs = Runs(given, wanted, record.path / "runs")
        results = search(
            runs.measure, size, wanted.share, seeds, wanted.tolerance, least, greatest, also, wanted.rates,
            wanted.full_rates, _start(config),
        )  # fmt: skip
        result = None
        try:
            for result in results:
                record.write(result)
        except KeyboardInterrupt:
            record.end("interrupted")
            print("\nrbd-ipu: interrupted by Ctrl-C; the runs that are done are kept:", file=sys.stderr)
            print(f"rbd-ipu: go on with --output {record.path}", file=sys.stderr)
            return 130
        except RunFailed as error:
            record.end("failed")
            say(f"{error}; the others are kept: go on with --output {record.path}")
            return 1
        assert result is not None
        print(f"\n{report.table(result)}\n\n{report.answer(result)}")
        for note in report.notes(result) if result.dim is not None else []:
            print(f"Note: {note}")
        return 0 if result.dim is not None else 1


class Runs:
    """Makes the runs of a search, each in a folder of its own, or reads what they came to before.

    Args:
      given: the settings of all.
      wanted: how many at a time, and by which method.
      folder: of them all.
    """

    def __init__(self, given: Mapping[str, Any], wanted: Wanted, folder: Path):
        self.given, self.wanted, self.folder = given, wanted, folder

    def measure(self, orders: Sequence[Order]) -> List[Run]:
        """The runs of some orders.

        Raises:
          RunFailed: one ended without a result.
          KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM; everything up to there is on disk.
        """
        jobs = [job(config_of(self.given, self.wanted.method, order), _label(order), self.folder) for order in orders]
        kept = {one.folder for one in jobs if one.ended()}
        parallel = 0 if self.wanted.jobs == 1 else self.wanted.jobs
        failures = pool.run(jobs, parallel, _seconds, say if parallel else _quiet)
        if failures:
            raise RunFailed(f"{failures[0].job.label} failed: {failures[0].reason} (see {failures[0].job.log})")
        made = [_result(order, one) for order, one in zip(orders, jobs)]
        for one, found in zip(jobs, made):
            print(report.line(found) + (" (kept)" if one.folder in kept else ""), flush=True)
        return made


def _result(order: Order, one: Job) -> Run:
    rows = [row for row in merge(from_folder(one.folder)) if essence(row_config(row)) == essence(one.config)]
    if not rows:
        raise ConfigError(f"{one.folder}: a run has ended there, and its settings are not: remove the folder")
    row = rows[0]
    outcome = FINISHED if row["outcome"] == FINISHED else NOT_FINITE
    accuracy = row["values"].get("val_accuracy") if outcome == FINISHED else math.nan
    if accuracy is None:
        raise ConfigError(f"{one.folder}: a run has finished there without a val_accuracy: remove the folder")
    return Run(*order, outcome, accuracy, row["epochs"], row["seconds"])


def _label(order: Order) -> str:
    where = "the full space" if order.dim is None else f"d = {order.dim:,}"
    return f"{where}, rate {report.written(order.learning_rate)}, seed {order.seed}"


def _quiet(_: str) -> None:
    """Runs in this process are said as they end."""


def _seconds(config: Config) -> float:
    """A guess at what a run takes, for the time left."""
    return Costs().seconds(config) if config.dataset in IMAGES else float(config.epochs)


def _start(config: Config) -> float:
    """Where the walk over the rates of SGD begins: at the one on record, if there is one for data and network."""
    row = rates_on_record().get((config.dataset, config.network, "sgd", None))
    return START if row is None else 2.0 ** round(math.log2(row.learning_rate))


def _size(given: Mapping[str, Any], wanted: Wanted, seed: int) -> int:

    return int(prepare(config_of(given, wanted.method, Order(None, 1.0, seed))).method.size)


def _fitting(given: Mapping[str, Any], method: str, dims: Sequence[int], seed: int) -> None:
    """Builds the method at the ends of the range: a d that does not fit is said before anything is trained."""

    for dim in dims:
        try:
            prepare(config_of(given, method, Order(dim, 1.0, seed)))
        except ConfigError as error:
            raise ConfigError(f"d = {dim:,}: {error}; --from and --to are the range of d") from None
