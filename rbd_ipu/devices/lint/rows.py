"""Which programs are linted: every row of the registries once, or all rows with all others."""

import inspect
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple

# What an IPU draws with: its generator, or the integer hash by a codelet.
SOURCES = ("poprand", "counter")
SCHEME_ARGUMENTS = {"even:K": "even:2", "factor:f": "factor:8"}

# What a method cannot be made without, besides what every row has.
NEEDED: Dict[str, Dict[str, Any]] = {"switch": {"sgd_learning_rate": 0.1, "switch_step": 5}}

# Options of a method or an optimizer that add operations of their own, with a value each.
OPTIONS: Dict[str, Dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "normalize=expected": {"normalize": "expected"},
    "normalize=none": {"normalize": "none"},
    "redraw_every": {"redraw_every": 10},
    "orthogonalize": {"orthogonalize": True, "dim": 64},
    "transform=rank": {"transform": "rank"},
    "transform=range": {"transform": "range"},
    "top_k": {"top_k": 100},
    "accumulate": {"accumulate": 2, "redraw_every": 2},
    "redraw_lowest": {"redraw_lowest": 0.5, "source": "auto"},
    "sgd_layers": {"sgd_layers": "logits", "sgd_learning_rate": 0.1},
    "sgd_below": {"sgd_below": 0.1, "sgd_learning_rate": 0.1},
}

# Ways to share a step among replicas: a row of MODES, of EXCHANGES or of WIRES in place of the first.
WORKERS = 4
SHARING: Dict[str, Dict[str, str]] = {
    "own": {"parallel": "own"},
    "shared": {"parallel": "shared"},
    "same-data": {"parallel": "same-data"},
    "split": {"parallel": "split"},
    "exchange=update": {"exchange": "update"},
    "wire=float16": {"wire": "float16"},
    "wire=int8": {"wire": "int8"},
}

# What is known not to compile on an IPU, and why. A row that is listed and clean is a fault too, so that this stays
# true.
NOT_READY: Dict[Tuple[str, str], str] = {
    ("replicas", "wire=float16"): "two float16 are packed into an int32, but an IPU reinterprets equal sizes only",
    ("replicas", "wire=int8"): "an IPU stores int8 and computes nothing in it",
}


class Row(NamedTuple):
    """A program to lint.

    Attributes:
      face: "trainer", "keras" or "validation".
      name: the method, or the Keras optimizer.
      distribution, compartments, network: rows of their registries.
      workers: replicas.
      share: how they share a step, a row of ``SHARING``.
      option: a row of ``OPTIONS``, or "".
      source, seed: of the directions.
      subject: (kind, name) of what the row is there to show.
    """

    face: str = "trainer"
    name: str = "rbd"
    distribution: str = "normal"
    compartments: str = "global"
    network: str = "fc"
    workers: int = 1
    share: str = "own"
    option: str = ""
    source: str = "poprand"
    seed: int = 0
    subject: Tuple[str, str] = ("", "")

    @property
    def options(self) -> Mapping[str, Any]:
        """The arguments of its option, and what its method needs."""
        return {**NEEDED.get(self.name, {}), **OPTIONS.get(self.option, {})}

    @property
    def sharing(self) -> Mapping[str, str]:
        """The choices of its plan."""
        return SHARING[self.share]

    @property
    def parts(self) -> List[Tuple[str, str]]:
        """All that the row is made of, as (kind, name)."""
        made = [
            ("method" if self.face == "trainer" else "optimizer", self.name),
            ("distribution", self.distribution),
            ("compartments", self.compartments),
            ("network", self.network),
        ]
        made += [("replicas", self.share)] if self.workers > 1 else []
        return made + ([("option", self.option)] if self.option else [])

    @property
    def not_ready(self) -> str:
        """Why the row is known not to be ready; "" if it is."""
        return next((NOT_READY[part] for part in self.parts if part in NOT_READY), "")

    def __str__(self) -> str:
        words = [self.name, self.distribution, self.compartments, self.network]
        words += [f"source {self.source}"] if self.source != SOURCES[0] else []
        words += [f"{self.workers} replicas ({self.share})"] if self.workers > 1 else []
        return ", ".join(words + ([self.option] if self.option else []))


def each_once() -> Iterator[Row]:
    """Every row of every registry, in a program of its own; all else as in ``Row``."""
    methods, optimizers = _methods(), _optimizers()
    for name in methods:
        yield Row(name=name, subject=("method", name))
    for name in optimizers:
        yield Row(face="keras", name=name, subject=("optimizer", name))
        yield Row(face="keras", name=name, option="momentum", subject=("optimizer", f"{name}(momentum=0.9)"))
    for distribution in _distributions():
        yield Row(distribution=distribution, subject=("distribution", distribution))
    for source in SOURCES:
        yield Row(source=source, subject=("source", source))
    for scheme in _schemes():
        yield Row(compartments=scheme, subject=("compartments", scheme))
    for network in _networks():
        yield Row(network=network, subject=("network", network))
    for option, values in OPTIONS.items():
        if set(values) <= set(inspect.signature(methods.get("rbd").__init__).parameters):
            yield Row(option=option, subject=("option", option))
    for share in SHARING:
        yield Row(workers=WORKERS, share=share, subject=("replicas", share))
    yield Row(face="validation", subject=("program", "validation"))


def all_together() -> Iterator[Row]:
    """Every method with every distribution, compartment scheme and network, as far as it takes them."""
    faces = [("trainer", name, make) for name, make in _items(_methods())]
    faces += [("keras", name, make) for name, make in _items(_optimizers())]
    for face, name, make in faces:
        takes = inspect.signature(make.__init__).parameters
        for distribution in _distributions() if "distribution" in takes else ("normal",):
            for scheme in _schemes() if "compartments" in takes else ("global",):
                for network in _networks():
                    yield Row(face, name, distribution, scheme, network)


def _items(registry: Any) -> List[Tuple[str, Any]]:
    return [(name, registry.get(name)) for name in registry]


def _methods() -> Any:
    from rbd_ipu.methods import METHODS

    return METHODS


def _optimizers() -> Any:
    from rbd_ipu.optimizers import OPTIMIZERS

    return OPTIMIZERS


def _distributions() -> Tuple[str, ...]:
    from rbd_ipu.directions import distribution_names

    return distribution_names()


def _schemes() -> List[str]:
    from rbd_ipu.compartments import SCHEMES

    return [SCHEME_ARGUMENTS.get(name, name) for name in SCHEMES]


def _networks() -> Tuple[str, ...]:
    from rbd_ipu.models import NETWORKS

    return NETWORKS.names()
