"""Cases: which steps are measured. Nothing here runs one."""

import itertools
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.errors import ConfigError

# Name -> network and shape of its images.
WORKLOADS: Dict[str, Tuple[str, Tuple[int, int, int]]] = {
    f"{network}-{images}": (network, shape)
    for images, shape in (("digits", (8, 8, 1)), ("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3)))
    for network in ("fc", "cnn")
}

# Who runs the steps: our Trainer, or Keras' ``fit`` as a plain graph or compiled by XLA.
TRAINER, KERAS, KERAS_JIT = "trainer", "keras", "keras-jit"


class Case(NamedTuple):
    """One kind of step.

    Attributes:
      network: a key of WORKLOADS.
      method: a row of the registry of methods.
      dim, distribution, source, compartments: options of the method; None where it takes none.
      batch_size: images a step.
      loop: TRAINER, KERAS or KERAS_JIT.

    Example:
      >>> print(Case("cnn-cifar10", "rbd", dim=10000, distribution="normal", source="native"))
      cnn-cifar10 rbd d=10,000 normal native
    """

    network: str
    method: str
    dim: Optional[int] = None
    distribution: Optional[str] = None
    source: Optional[str] = None
    compartments: Optional[str] = None
    batch_size: int = 32
    loop: str = TRAINER

    def options(self) -> Dict[str, Any]:
        """What the method is told beside its learning rate."""
        names = ("dim", "distribution", "source", "compartments")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __str__(self) -> str:
        words = [self.network, self.method]
        words += [f"d={self.dim:,}"] if self.dim else []
        words += [word for word in (self.distribution, self.source) if word]
        words += [self.compartments] if self.compartments not in (None, "global") else []
        words += {TRAINER: [], KERAS: ["by Keras fit"], KERAS_JIT: ["by Keras fit, XLA"]}[self.loop]
        return " ".join(words)

    @property
    def baseline(self) -> "Case":
        """The plain SGD step that this case is compared with."""
        return Case(self.network, "sgd", batch_size=self.batch_size)


class Choices(NamedTuple):
    """The values to combine; ``dims`` is None where the user has named none."""

    networks: Sequence[str]
    methods: Sequence[str]
    distributions: Sequence[str]
    sources: Sequence[str]
    compartments: Sequence[str]
    dims: Optional[Sequence[int]] = None
    batch_size: int = 32


DEFAULT_DIMS = (10, 250, 10_000)


def grid(choices: Choices) -> List[Case]:
    """All sensible combinations, each once, with a plain SGD step for each network.

    Raises:
      ConfigError: an unknown name, or dims that nothing chosen takes; quotes what is accepted.
    """
    check(choices)
    cases: List[Case] = []
    for network in choices.networks:
        cases.append(Case(network, "sgd", batch_size=choices.batch_size))
        for method in choices.methods:
            plain = Case(network, method, batch_size=choices.batch_size)
            cases += [plain._replace(**options) for options in _options(method, choices)]
    if choices.dims is not None and all(case.dim is None for case in cases):
        raise ConfigError(
            f"--dims {','.join(map(str, choices.dims))}: nothing takes them: method sgd has no directions, "
            "and compartments factor:F fix their number"
        )
    return list(dict.fromkeys(cases))


def _options(method: str, choices: Choices) -> Iterable[Dict[str, Any]]:
    """Combinations of the options that a method takes."""
    from rbd_ipu.directions import resolve
    from rbd_ipu.methods import METHODS
    from rbd_ipu.methods.base import options_of

    accepted, _ = options_of(METHODS.get(method))
    dims: Sequence[Optional[int]] = DEFAULT_DIMS if choices.dims is None else choices.dims
    sources = [resolve(source) for source in choices.sources]
    order = itertools.product(choices.distributions, sources, choices.compartments, dims)
    for distribution, source, compartments, dim in order:
        options = {
            "dim": None if compartments.startswith("factor:") else dim,
            "distribution": distribution,
            "source": source,
            "compartments": compartments,
        }
        yield {name: value for name, value in options.items() if name in accepted}


def check(choices: Choices) -> None:
    """Refuses unknown names before anything is built."""
    from rbd_ipu.compartments import parse_scheme
    from rbd_ipu.directions import check_distribution, resolve
    from rbd_ipu.methods import METHODS

    for option, check_name in (
        ("networks", _check_network),
        ("methods", METHODS.get),
        ("distributions", check_distribution),
        ("sources", resolve),
        ("compartments", parse_scheme),
    ):
        for name in getattr(choices, option):
            try:
                check_name(name)
            except ValueError as error:
                raise ConfigError(f"--{option}: {error}") from None


def _check_network(name: str) -> None:
    if name not in WORKLOADS:
        raise ValueError(f"unknown network {name!r}; accepted: {', '.join(map(repr, WORKLOADS))}")
