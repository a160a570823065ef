"""Results: a row of JSON for each run, what tables show of it, and what runs cost.

A row has ``kind`` ("run"; those of :mod:`rbd_ipu.lab.analyses` are "analysis"), ``key``, ``settings``, ``seed``,
``outcome``, ``epochs`` (finished ones), ``values`` (of the last epoch, and ``test_accuracy``), ``curves`` (a list an
epoch), ``d``, ``D``, ``data`` (SHA-256 of the files of its images, by name; null in rows from before 29 November
2026), ``seconds``, ``command``, ``commit``, ``modified``, ``versions``, ``machine``, ``started`` and ``ended``.

Two runs are the same where the settings that decide the numbers are: neither where a run computes and how often it
saves (device, folder of the data, source of the directions, real or simulated workers, checkpoints), nor settings at
their defaults, so that a new setting leaves the keys of older runs as they are. The guess of a cost is for four cores
(``docs/performance.md``).
"""

import hashlib
import json
import os
import statistics
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from rbd_ipu import files
from rbd_ipu.config import FIELDS, OF_TEXT, Config, from_file, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import COUNT, FLAG, MAPPING, NUMBER, TEXT, Maybe
from rbd_ipu.runs.folder import perplexity

PUBLISHED = Path("results")  # where the rows on record are, from the root of the project
_ELSEWHERE = (
    "device", "data_dir", "source", "checkpoint_seconds", "keep_checkpoints", "workers", "simulate_workers",
    "worker_timeout", "replay_log",
)  # fmt: skip


def essence(config: Config) -> Dict[str, Any]:
    """The settings that decide the numbers, less those at their defaults.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> essence(resolve({"method": "sgd", "learning_rate": 0.5, "epochs": 3}))
      {'method': 'sgd', 'learning_rate': 0.5, 'epochs': 3}
    """
    found = {
        name: value
        for name, value in config.as_dict().items()
        if name not in _ELSEWHERE and value != FIELDS[name]["default"]
    }
    return {**found, "workers": config.all_workers} if config.all_workers > 1 else found


def key(config: Config) -> str:
    """12 hexadecimal digits that two runs share if all of their numbers must agree."""
    return _digest(essence(config))


def stem(config: Config) -> str:
    """The same without seed and epochs: what the runs of a cell have in common.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> one, other = (resolve({"learning_rate": 1.0, "seed": s, "epochs": 9 + s}) for s in (1, 2))
      >>> stem(one) == stem(other), key(one) == key(other)
      (True, False)
    """
    return _digest({name: value for name, value in essence(config).items() if name not in ("seed", "epochs")})


def _digest(settings: Dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Value(NamedTuple):
    """A row: heading for tables, label for axes, what a stored number is multiplied by, places after the point."""

    heading: str
    label: str
    scale: float
    places: int


VALUES: Dict[str, Value] = {
    "val_accuracy": Value("validation acc. %", "validation accuracy (%)", 100.0, 2),
    "accuracy": Value("training acc. %", "training accuracy (%)", 100.0, 2),
    "test_accuracy": Value("test acc. %", "test accuracy (%)", 100.0, 2),
    "correlation": Value("correlation", "Pearson correlation with the gradient", 1.0, 3),
    "val_loss": Value("validation loss", "validation loss (nats)", 1.0, 4),
    "images_per_second": Value("images/s", "images a second", 1.0, 0),
    "val_perplexity": Value("validation perplexity", "validation perplexity", 1.0, 3),
    "test_loss": Value("test loss", "test loss (nats)", 1.0, 4),
    "test_perplexity": Value("test perplexity", "test perplexity", 1.0, 3),
    "hours": Value("hours", "wall-clock time (hours)", 1.0, 2),
    "d": Value("d", "directions", 1.0, 0),
}


class Mean(NamedTuple):
    """Mean and sample standard deviation of n runs, in the units of the table; ``std`` is None for one run."""

    mean: float
    std: Optional[float]
    n: int


def printed(value: Any) -> str:
    """A number of the paper as it is printed there: a list is [mean, standard deviation].

    Example:
      >>> printed([93.893, 0.024]), printed(7982), printed(None)
      ('93.893 ± 0.024', '7982', '')
    """
    if value is None:
        return ""
    if isinstance(value, list):
        mean, std = value
        return f"{mean} ± {std}"
    return str(value)


def ours(name: str, value: Mean) -> str:
    """A measured number to the places of its kind; the deviation is there from two runs on.

    Example:
      >>> ours("val_accuracy", Mean(94.123, 0.204, 3)), ours("d", Mean(7982.0, 0.0, 2))
      ('94.12 ± 0.20', '7982')
    """
    places = VALUES[name].places
    text = f"{value.mean:.{places}f}"
    if value.std is None or name == "d":
        return text
    return f"{text} ± {value.std:.{places}f}"


Row = Dict[str, Any]

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "correlation", "images_per_second", "seconds")
NO_RESULT = "not a result"
ENDED = ("finished", "not finite")  # outcomes that running again would only repeat
_FACTS = {
    **dict.fromkeys(("command", "commit", "started", "ended"), Maybe(TEXT)),
    **dict.fromkeys(("versions", "machine"), Maybe(MAPPING)),
    **{"modified": Maybe(FLAG), "d": Maybe(COUNT), "D": Maybe(COUNT), "data": Maybe({str: TEXT})},
}
_EPOCH = dict.fromkeys(CURVES, Maybe(NUMBER))
_SETTINGS = {**dict.fromkeys(("dataset", "network", "method"), TEXT), "epochs": COUNT, "learning_rate": NUMBER}
_POINTS = dict.fromkeys(("y", "std"), [Maybe(NUMBER)])
_LINE = {"name": TEXT, "x": [NUMBER], **_POINTS, "switch": Maybe(NUMBER, absent=False), "n": COUNT}
_PANEL = {"title": TEXT, "xlabel": TEXT, "ylabel": TEXT, "lines": [_LINE]}
_ROWS: Dict[str, Any] = {
    "run": {
        **{"settings": _SETTINGS, "seed": COUNT, "outcome": TEXT, "epochs": COUNT, "seconds": NUMBER},
        **{"values": {str: Maybe(NUMBER)}, "curves": {str: [Maybe(NUMBER)]}},
        **_FACTS,
    },
    "analysis": {
        **{"preset": TEXT, "budget": TEXT, "options": MAPPING, "panels": [_PANEL], "lines": [[TEXT]]},
        **{"command": TEXT, "machine": {"processor": TEXT}},  # away from a checkout there is no commit
        **{"commit": Maybe(TEXT, absent=False), "modified": Maybe(FLAG, absent=False)},
    },
}


def from_folder(path: Union[str, Path]) -> List[Row]:
    """The rows of every run folder at or below ``path``; a run that is not over counts with its finished epochs.

    Raises:
      ConfigError: there is no such folder, or a run folder in it has a file that cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder of runs")
    return [row for row in map(_of_run, sorted(_run_folders(path))) if row is not None]


def _run_folders(path: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(path):
        if "config.yaml" in names and "run.json" in names:
            below[:] = []  # checkpoints and events
            yield Path(folder)


def _of_run(folder: Path) -> Optional[Row]:
    """The row of one run folder; None where nothing has been finished."""
    facts = files.found(folder / "run.json")
    result = files.found(folder / "result.json")
    config = resolve(from_file(folder / "config.yaml"))
    files.check(facts, {"outcome": Maybe(TEXT), **_FACTS}, str(folder / "run.json"))
    files.check(result, {"test": Maybe({str: Maybe(NUMBER)})}, str(folder / "result.json"))
    epochs = files.lines(folder / "metrics.jsonl", unfinished=True, accepted=_EPOCH)
    outcome = facts.get("outcome") or "running"
    if not epochs and outcome not in ENDED:
        return None
    last = epochs[-1] if epochs else {}
    values = {name: last.get(name) for name in CURVES if name != "seconds" and last.get(name) is not None}
    if config.network in OF_TEXT and "val_loss" in values:
        values["val_perplexity"] = perplexity(values["val_loss"])
    for name, value in (result.get("test") or {}).items():
        values[f"test_{name}"] = value
    curves = {name: [_short(row.get(name)) for row in epochs] for name in CURVES}
    return {
        "kind": "run",
        "key": key(config),
        "settings": config.as_dict(),
        "seed": config.seed,
        "outcome": outcome,
        "epochs": len(epochs),
        "values": values,
        "curves": {name: curve for name, curve in curves.items() if any(v is not None for v in curve)},
        "seconds": sum(value for value in curves["seconds"] if value is not None),
        **{name: facts.get(name) for name in _FACTS},
    }


def _short(value: Any) -> Any:
    """Six significant figures: more would be noise, and rows stay short."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read(path: Union[str, Path], kind: str = "run") -> List[Row]:
    """The rows of a kind in a file, or in all ``*.jsonl`` of a folder; none where there is nothing.

    Raises:
      ConfigError: a line is no JSON or no row of that kind; with file and line.
    """
    path = Path(path)
    there = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.exists() else []
    return [row for file in there for row in _rows(file, kind)]


def _rows(file: Path, kind: str) -> Iterator[Row]:
    for number, row in enumerate(files.lines(file, said=NO_RESULT), start=1):
        if row.get("kind") != kind:
            continue
        where = f"{file}:{number}: {NO_RESULT}"
        files.check(row, _ROWS.get(kind, MAPPING), where)
        if kind == "run":
            try:
                config_of(row)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            short = [name for name, curve in row["curves"].items() if len(curve) != row["epochs"]]
            if short:
                raise ConfigError(f"{where}: curves: {', '.join(short)}: must have a number for each epoch")
        if kind == "analysis" and not (row["panels"] and row["lines"]):
            raise ConfigError(f"{where}: panels and lines: must have one at least")
        yield row


def write(path: Union[str, Path], rows: Iterable[Row]) -> None:
    """Writes a file of rows, whole or not at all; rows in it of kinds that are not written stay."""
    path, rows = Path(path), list(rows)
    kinds = {row["kind"] for row in rows}
    others = [row for row in files.lines(path) if row.get("kind") not in kinds]
    files.write_text(path, "".join(map(files.line, [*others, *rows])))


def merge(*groups: Iterable[Row]) -> List[Row]:
    """One row for each run: of several, an ended one, then the one with most epochs, then the first.

    Example:
      >>> base = {"settings": {"learning_rate": 1.0}, "outcome": "finished"}
      >>> [row["epochs"] for row in merge([{**base, "epochs": 1}], [{**base, "epochs": 2}])]
      [2]
    """
    best: Dict[str, Row] = {}
    for group in groups:
        for row in group:
            name = key(config_of(row))
            if name not in best or _rank(row) > _rank(best[name]):
                best[name] = row
    return list(best.values())


def _rank(row: Mapping[str, Any]) -> Tuple[bool, int]:
    return row["outcome"] in ENDED, row["epochs"]


def config_of(row: Mapping[str, Any]) -> Config:
    """The settings of a row, checked, with defaults for what was added since."""
    return resolve(row["settings"])


IMAGES = {"digits": 1197, "mnist": 50_000, "fashion_mnist": 50_000, "cifar10": 40_000}
_SIZES = {("fc", False): 101_770, ("fc", True): 394_634, ("cnn", False): 93_322, ("cnn", True): 122_570}
_SIZES.update({("resnet8", colour): 78_330 for colour in (False, True)})
_SIZES.update({("resnet32", colour): 467_194 for colour in (False, True)})
_SIZES.update({("fc200", False): 199_210, ("fc200", True): 656_810})
_SIZES.update({("lenet", False): 44_426, ("lenet", True): 62_006})
_STEP = {"fc": 0.4e-3, "cnn": 5e-3, "resnet8": 20e-3, "resnet32": 80e-3}  # seconds, 32 images
_STEP.update(fc200=0.7e-3, lenet=2e-3)
_SAMPLES = 5e9  # a second
_HADAMARD = 2e-3  # seconds a step
_START = 8.0  # seconds a run: Python, TensorFlow, data, tracing
_EVALUATION = 1.1  # validation is about a tenth of an epoch


class Costs:
    """What runs cost, in seconds.

    Args:
      rows: results to learn from.
    """

    def __init__(self, rows: Iterable[Row] = ()):
        found: Dict[str, List[float]] = {}
        for row in rows:
            if row["epochs"]:
                found.setdefault(stem(config_of(row)), []).append(row["seconds"] / row["epochs"])
        self._epoch = {name: statistics.median(values) for name, values in found.items()}

    def measured(self, config: Config) -> bool:
        """Whether the same has been run, with whatever seed."""
        return stem(config) in self._epoch

    def seconds(self, config: Config) -> float:
        """Of one run on its own."""
        epoch = self._epoch.get(stem(config))
        return _START + config.epochs * (rough_epoch(config) if epoch is None else epoch)

    def total(self, configs: Iterable[Config]) -> "Total":
        """Of runs one after the other."""
        configs = list(configs)
        return Total(
            len(configs),
            sum(self.seconds(config) for config in configs),
            all(self.measured(config) for config in configs),
        )


class Total(NamedTuple):
    """Number of runs, seconds one after the other, and whether all of that is from measured runs."""

    runs: int
    seconds: float
    measured: bool

    def __str__(self) -> str:
        kind = "from measured epochs" if self.measured else "a rough guess"
        return f"{self.runs} run{'' if self.runs == 1 else 's'}, about {duration(self.seconds)} ({kind})"


def rough_epoch(config: Config) -> float:
    """A guess at the seconds of an epoch on four cores.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> round(rough_epoch(resolve({"dataset": "cifar10", "network": "cnn", "method": "sgd"})))
      7
    """
    steps = IMAGES[config.dataset] / config.batch_size
    step = _STEP[config.network]
    size, dim = _size(config)
    if config.method in ("nes", "hybrid"):
        # A forward pass, a third of a step, and a direction for each of d evaluations; NES takes a batch for each.
        evaluations = steps * (1 if config.method == "nes" else dim)
        return _EVALUATION * evaluations * (step / 3 + 2 * size / _SAMPLES)
    if dim:
        workers = config.all_workers
        step *= workers
        step += _HADAMARD if config.distribution == "hadamard" else workers * dim * size / _SAMPLES
        steps /= workers
    return _EVALUATION * steps * step


def _size(config: Config) -> Tuple[int, int]:
    """D and d, near enough."""
    size = parameters(config.dataset, config.network)
    scheme = config.compartments or ""
    if scheme.startswith("factor:"):
        return size, int(1.02 * size / int(scheme.split(":")[1]))
    return size, config.dim or 0


def parameters(dataset: str, network: str) -> int:
    """D; of the networks on digits, that of FC.

    Example:
      >>> parameters("mnist", "fc"), parameters("cifar10", "cnn")
      (101770, 122570)
    """
    return 9_610 if dataset == "digits" else _SIZES[network, dataset == "cifar10"]


def duration(seconds: float) -> str:
    """A time for people.

    Example:
      >>> duration(8), duration(754), duration(45000), duration(400000)
      ('8 s', '13 min', '12.5 h', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
