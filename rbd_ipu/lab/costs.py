"""How long runs take: as measured where the same has been run, else a rough guess.

The guess adds what a step of the network costs and what the directions cost (``docs/performance.md``: 5 G normal
samples a second on four cores; a Hadamard basis costs the same whatever d is).
"""

import statistics
from typing import Dict, Iterable, List, NamedTuple, Tuple

from rbd_ipu.config import Config
from rbd_ipu.lab.results import Row, config_of, stem

IMAGES = {"digits": 1197, "mnist": 50_000, "fashion_mnist": 50_000, "cifar10": 40_000}
_SIZES = {("fc", False): 101_770, ("fc", True): 394_634, ("cnn", False): 93_322, ("cnn", True): 122_570}
_SIZES.update({("resnet8", colour): 78_330 for colour in (False, True)})
_SIZES.update({("resnet32", colour): 467_194 for colour in (False, True)})
_STEP = {"fc": 0.4e-3, "cnn": 5e-3, "resnet8": 20e-3, "resnet32": 80e-3}  # seconds, 32 images
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
