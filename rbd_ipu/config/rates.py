"""The learning rates on record (``learning_rates.yaml``), for runs that are given none."""

import functools
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from rbd_ipu.config.schema import SIZES
from rbd_ipu.config.yaml import load_mapping

PATH = Path(__file__).with_name("learning_rates.yaml")
# Settings that change the length of a step; the rates on record hold for these values alone.
_HOLDS_FOR: Tuple[Tuple[str, Tuple[Any, ...]], ...] = (
    ("momentum", (0.0,)),
    ("distribution", ("normal", "uniform", "rademacher", "hadamard", "sparse")),
    ("normalize", ("unit", "expected")),
    ("compartments", ("global", "even")),
    ("transform", ("none",)),
    ("accumulate", (1,)),
    ("top_k", ("null",)),
    *((name, (size,)) for name, size in SIZES.items()),
)


class Rate(NamedTuple):
    """One row: a learning rate, what it was found for and where it comes from."""

    dataset: str
    network: str
    method: str
    learning_rate: float
    source: str
    dim: Optional[int] = None
    note: str = ""


@functools.lru_cache(maxsize=None)
def rates() -> Dict[Tuple[str, str, str, Optional[int]], Rate]:
    """All rows by (dataset, network, method, dim); dim is None for methods without directions."""
    table: Dict[Tuple[str, str, str, Optional[int]], Rate] = {}
    for row in load_mapping(PATH)["rates"]:
        rate = Rate(**row)
        key = (rate.dataset, rate.network, rate.method, rate.dim)
        if key in table:
            raise ValueError(f"{PATH}: two rows for {key}")
        table[key] = rate
    return table


def lookup(settings: Mapping[str, Any]) -> float:
    """The rate on record for a run's settings.

    Raises:
      LookupError: there is none; the message lists the combinations that have one.

    Example:
      >>> lookup({"dataset": "mnist", "network": "fc", "method": "sgd"})
      0.125
    """
    for key, accepted in _HOLDS_FOR:
        value = settings.get(key)
        if value is not None and str(value).split(":")[0] not in map(str, accepted):
            raise LookupError(
                f"set learning_rate: the rates on record do not hold for {key} {value} "
                f"(they do for {', '.join(map(str, accepted))})"
            )
    dataset, network, method = (settings[key] for key in ("dataset", "network", "method"))
    row = rates().get((dataset, network, method, settings.get("dim")))
    if row is None:
        dim = f" with dim {settings['dim']}" if settings.get("dim") else ""
        raise LookupError(
            f"set learning_rate: none is on record for {method}{dim} on {dataset} {network}; "
            f"on record are\n{listing()}"
        )
    return float(row.learning_rate)


def likely_exponent(settings: Mapping[str, Any]) -> int:
    """Where a search for a rate may begin: log2 of the rate on record for the nearest dim, or 0.

    Example:
      >>> likely_exponent({"dataset": "digits", "network": "fc", "method": "rbd", "dim": 50})
      4
    """
    place = tuple(settings[key] for key in ("dataset", "network", "method"))
    dim = settings.get("dim") or 1
    near = [(abs(math.log((row.dim or 1) / dim)), row) for key, row in rates().items() if key[:3] == place]
    if not near:
        return 0
    return round(math.log2(min(near, key=lambda found: found[0])[1].learning_rate))


def listing() -> str:
    """The combinations with a rate on record: a line for each data set and network."""
    dims: Dict[Tuple[str, str], Dict[str, List[int]]] = {}
    for dataset, network, method, dim in rates():
        dims.setdefault((dataset, network), {}).setdefault(method, []).extend([dim] if dim else [])
    lines = []
    for (dataset, network), methods in dims.items():
        words = [
            f"{method} with dim {', '.join(map(str, sorted(found)))}" if found else method
            for method, found in methods.items()
        ]
        lines.append(f"  {dataset} {network}: {'; '.join(words)}")
    return "\n".join(lines)
