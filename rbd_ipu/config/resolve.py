"""From what the user gave to a checked Config: the file, --set, defaults, the learning rate; and the help text.

A run that is given no learning rate has the one on record (``learning_rates.yaml``).
"""

import functools
import json
import math
import shlex
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from rbd_ipu.config.schema import FIELDS, OF_TEXT, SIZES, TEXTS, Config, fits, instead_of, takes
from rbd_ipu.config.yaml import YamlError, load_mapping, scalar
from rbd_ipu.errors import ConfigError


def describe_keys(width: int = 96) -> str:
    """Every key with what it accepts, its default, its meaning and the methods that take it.

    Args:
      width: of a line, in letters.

    Example:
      >>> "default digits" in describe_keys()
      True
    """
    lines = ["settings (for --set KEY=VALUE, and lines `KEY: VALUE` of a --config file):"]
    column = max(map(len, FIELDS)) + 4
    for name, facts in FIELDS.items():
        default = facts["default"]
        written = json.dumps(default) if default is None or isinstance(default, bool) else default  # null, true
        those = facts["methods"] or facts["networks"]
        only = f" (only {', '.join(those)})" if those else ""
        head = f"  {name:<{column - 2}}{facts['kind']}; default {written}"
        indent = " " * column
        for text, start in ((head, ""), (facts["meaning"] + only, indent)):
            lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


class Given(NamedTuple):
    """A value and the place it comes from, for the messages."""

    value: Any
    origin: str


def from_file(path: Union[str, Path]) -> Dict[str, Given]:
    """The settings of a YAML file.

    Args:
      path: of the file.

    Raises:
      ConfigError: it cannot be read as a mapping; with file and line.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
      ...     _ = file.write("learning_rate: 2**-3"), file.flush()
      ...     from_file(file.name)["learning_rate"].value
      0.125
    """
    try:
        return {key: Given(value, f"{path}: {key}") for key, value in load_mapping(path).items()}
    except YamlError as error:
        raise ConfigError(str(error)) from None


def from_assignments(assignments: Iterable[str]) -> Dict[str, Given]:
    """The settings of ``--set KEY=VALUE`` texts; values are read as in a YAML file.

    Args:
      assignments: the texts behind ``--set``.

    Raises:
      ConfigError: one is no assignment, its value cannot be read, or a key comes twice.

    Example:
      >>> from_assignments(["learning_rate=2**-3"])["learning_rate"].value
      0.125
    """
    given: Dict[str, Given] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {text}: write --set KEY=VALUE, for example --set dim=100")
        if key in given:
            raise ConfigError(f"--set {text}: {key} is already set by {given[key].origin}")
        try:
            given[key] = Given(scalar(value), f"--set {text}")
        except YamlError as error:
            raise ConfigError(f"--set {text}: {error}") from None
    return given


def resolve(values: Optional[Mapping[str, Any]] = None) -> Config:
    """Checks settings and fills in the defaults.

    Args:
      values: settings by key; each a plain value or a :class:`Given`.

    Returns:
      The complete Config. A learning rate that was not given is the one on record for the
      combination.

    Raises:
      ConfigError: an unknown key, a wrong value, a key that the method has no use for, or no
        learning rate.

    Example:
      >>> resolve({"method": "sgd", "learning_rate": 0.125, "epochs": 3}).epochs
      3
    """
    given = {key: value if isinstance(value, Given) else Given(value, key) for key, value in (values or {}).items()}
    settings = {name: facts["default"] for name, facts in FIELDS.items()}
    for key, entry in given.items():
        settings[key] = _checked(key, entry)
    method = settings["method"]
    for key in FIELDS:
        if not takes(method, key):
            if key in given:
                used = ", ".join(name for name in FIELDS if takes(method, name))
                raise ConfigError(f"{given[key].origin}: method {method} takes no {key}; it takes {used}")
            settings[key] = None
    _network(settings, given)
    if "dim" not in given and str(settings["compartments"]).startswith("factor:"):
        settings["dim"] = None  # d follows from the factor
    if method == "switch":
        _switch(settings)
    _rates(settings, given)
    return Config(**settings)


def _network(settings: Dict[str, Any], given: Mapping[str, Given]) -> None:
    """Images go with networks of images, text with those of text, which alone have sizes.

    Raises:
      ConfigError: they do not go together, or a size is given that the network does not have.
    """
    network, dataset = settings["network"], settings["dataset"]
    if (network in OF_TEXT) != (dataset in TEXTS):
        reads, holds = ("text", "images") if network in OF_TEXT else ("images", "text")
        texts, networks = FIELDS["dataset"]["kind"].names, FIELDS["network"]["kind"].names
        with_it = [name for name in networks if (name in OF_TEXT) == (dataset in TEXTS)]
        data = [name for name in texts if (name in TEXTS) == (network in OF_TEXT)]
        raise ConfigError(
            f"network {network} reads {reads} and dataset {dataset} holds {holds}; accepted: with dataset {dataset} "
            f"network {', '.join(with_it)}; with network {network} dataset {', '.join(data)}"
        )
    for key in FIELDS:
        if not fits(network, key):
            if key in given:
                raise ConfigError(
                    f"{given[key].origin}: network {network} takes no {key}; accepted with network "
                    f"{', '.join(FIELDS[key]['networks'])}"
                )
        elif key in SIZES and settings[key] is None:
            settings[key] = SIZES[key]
    if network in OF_TEXT and settings["width"] % settings["heads"]:
        width, heads = settings["width"], settings["heads"]
        fitting = ", ".join(str(count) for count in range(1, width + 1) if width % count == 0)
        raise ConfigError(f"heads={heads} do not divide width={width}; accepted: {fitting}")


def _switch(settings: Dict[str, Any]) -> None:
    """One place to switch at: half of the epochs where none is given."""
    epoch, step = settings["switch_epoch"], settings["switch_step"]
    if epoch is not None and step is not None:
        raise ConfigError(f"switch_epoch {epoch} and switch_step {step} are two places to switch at; give one")
    if epoch is None and step is None:
        settings["switch_epoch"] = max(1, settings["epochs"] // 2)


def _rates(settings: Dict[str, Any], given: Mapping[str, Given]) -> None:
    """The learning rates on record, where none are given; a switch goes by those of its two methods."""
    switches = settings["method"] == "switch"
    if settings["learning_rate"] is None:
        _look_up("learning_rate", settings, "rbd" if switches else settings["method"], given)
    within = [key for key in ("sgd_layers", "sgd_below") if settings[key] is not None]
    if settings["sgd_learning_rate"] is None and (switches or within):
        _look_up("sgd_learning_rate", settings, "sgd", given)


def _look_up(key: str, settings: Dict[str, Any], method: str, given: Mapping[str, Given]) -> None:
    of_method = {name: value if takes(method, name) else None for name, value in settings.items()}
    try:
        settings[key] = lookup({**of_method, "method": method})
    except LookupError as error:
        message = str(error).replace("learning_rate", key, 1)
        raise ConfigError(f"{message}\n{_ways_out(key, of_method, method, given)}") from None


def _ways_out(key: str, settings: Mapping[str, Any], method: str, given: Mapping[str, Given]) -> str:
    """The commands that find a rate for just these settings."""
    kept = {name: entry.value for name, entry in given.items() if not name.endswith("learning_rate")}
    own = {name: value for name, value in {**kept, "method": method}.items() if takes(method, name)}
    if own.get("workers", 1) != 1:  # a search is one process, which plays them in turn
        own["simulate_workers"] = own.pop("workers")
    start = likely_exponent({**settings, "method": method})
    if key != "learning_rate":
        return f"find one for just this setting:\n  rbd-ipu tune{_words(own)} --start '2**{start}'"
    tuned = kept if kept.get("method") == "switch" else own
    return (
        f"find one for just this setting:\n  rbd-ipu tune{_words(tuned)} --start '2**{start}'\n"
        f"or have a short search before the run:\n  rbd-ipu train{_words(kept)} --set learning_rate=auto"
    )


def _words(settings: Mapping[str, Any]) -> str:
    """Settings as a shell takes them."""

    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)

    pairs = [f"{name}={text(value)}" for name, value in settings.items() if value != FIELDS[name]["default"]]
    return "".join(f" --set {shlex.quote(pair)}" for pair in pairs)


def _checked(key: str, entry: Given) -> Any:
    if key not in FIELDS:
        raise ConfigError(f"{entry.origin}: unknown key {key!r}; {instead_of(key, FIELDS)}")
    facts = FIELDS[key]
    if entry.value is None and facts["default"] is None:
        return None
    try:
        return facts["kind"].check(entry.value)
    except ConfigError as error:
        raise ConfigError(f"{entry.origin}: {error}") from None


_RATES = Path(__file__).with_name("learning_rates.yaml")
# Settings that change the length of a step; the rates on record hold for these values alone.
_HOLDS_FOR: Tuple[Tuple[str, Tuple[Any, ...]], ...] = (
    ("momentum", (0.0,)),
    ("distribution", ("normal", "uniform", "rademacher", "hadamard", "sparse")),
    ("normalize", ("unit", "expected")),
    ("compartments", ("global", "even")),
    ("transform", ("none",)),
    ("accumulate", (1,)),
    ("top_k", ("null",)),
    ("inner", ("sgd",)),
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
def rates_on_record() -> Dict[Tuple[str, str, str, Optional[int]], Rate]:
    """All rows by (dataset, network, method, dim); dim is None for methods without directions."""
    table: Dict[Tuple[str, str, str, Optional[int]], Rate] = {}
    for row in load_mapping(_RATES)["rates"]:
        rate = Rate(**row)
        key = (rate.dataset, rate.network, rate.method, rate.dim)
        if key in table:
            raise ValueError(f"{_RATES}: two rows for {key}")
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
    row = rates_on_record().get((dataset, network, method, settings.get("dim")))
    if row is None:
        dim = f" with dim {settings['dim']}" if settings.get("dim") else ""
        raise LookupError(
            f"set learning_rate: none is on record for {method}{dim} on {dataset} {network}; "
            f"on record are\n{_listing()}"
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
    near = [(abs(math.log((row.dim or 1) / dim)), row) for key, row in rates_on_record().items() if key[:3] == place]
    if not near:
        return 0
    return round(math.log2(min(near, key=lambda found: found[0])[1].learning_rate))


def _listing() -> str:
    """The combinations with a rate on record: a line for each data set and network."""
    dims: Dict[Tuple[str, str], Dict[str, List[int]]] = {}
    for dataset, network, method, dim in rates_on_record():
        dims.setdefault((dataset, network), {}).setdefault(method, []).extend([dim] if dim else [])
    lines = []
    for (dataset, network), methods in dims.items():
        words = [
            f"{method} with dim {', '.join(map(str, sorted(found)))}" if found else method
            for method, found in methods.items()
        ]
        lines.append(f"  {dataset} {network}: {'; '.join(words)}")
    return "\n".join(lines)
