"""From what the user gave to a checked Config: the file, --set, defaults, the learning rate; and the help text."""

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Union

from rbd_ipu.config import rates
from rbd_ipu.config.kinds import instead_of
from rbd_ipu.config.schema import FIELDS, Config, takes
from rbd_ipu.config.yaml import YamlError, load_mapping, scalar
from rbd_ipu.errors import ConfigError


def describe_keys(width: int = 96) -> str:
    """Every key with what it accepts, its default, its meaning and the methods that take it.

    Args:
      width: of a line, in letters.

    Example:
      >>> print(describe_keys().splitlines()[1])
        dataset ... default digits
    """
    lines = ["settings (for --set KEY=VALUE, and lines `KEY: VALUE` of a --config file):"]
    column = max(map(len, FIELDS)) + 4
    for name, facts in FIELDS.items():
        default = facts["default"]
        written = json.dumps(default) if default is None or isinstance(default, bool) else default  # null, true
        only = f" (only {', '.join(facts['methods'])})" if facts["methods"] else ""
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
    if "dim" not in given and str(settings["compartments"]).startswith("factor:"):
        settings["dim"] = None  # d follows from the factor
    if method == "switch":
        _switch(settings)
    _rates(settings, given)
    return Config(**settings)


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
        settings[key] = rates.lookup({**of_method, "method": method})
    except LookupError as error:
        message = str(error).replace("learning_rate", key, 1)
        raise ConfigError(f"{message}\n{_ways_out(key, of_method, method, given)}") from None


def _ways_out(key: str, settings: Mapping[str, Any], method: str, given: Mapping[str, Given]) -> str:
    """The commands that find a rate for just these settings."""
    kept = {name: entry.value for name, entry in given.items() if not name.endswith("learning_rate")}
    own = {name: value for name, value in {**kept, "method": method}.items() if takes(method, name)}
    if own.get("workers", 1) != 1:  # a search is one process, which plays them in turn
        own["simulate_workers"] = own.pop("workers")
    start = rates.likely_exponent({**settings, "method": method})
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
