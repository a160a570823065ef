"""One option of ``IPUConfig``, held against the record: its path, its type, its range.

The types are as strict as Graphcore's own: a bool is no int, an int is no float, an enum is one of its members (by
name here), and the values of Poplar's options are text, numbers too. What the real ``IPUConfig`` finds out late, on
the machine with the IPUs, is refused here.
"""

import difflib
from typing import Any, Callable, Dict, Mapping

from rbd_ipu.config.kinds import ConfigError
from rbd_ipu.devices import record


def check(path: str, value: Any) -> Any:
    """A value of the option at a dotted path, as ``IPUConfig`` would take it (an enum's member by its name).

    Raises:
      ConfigError: an unknown path, a category, a wrong type or value; quotes what came and what is accepted.

    Example:
      >>> check("floating_point_behaviour.esr", "OFF"), check("matmuls.poplar_options", {"partialsType": "half"})
      ('OFF', {'partialsType': 'half'})
    """
    facts = _facts(path)
    members = record.options()["enums"].get(facts["type"])
    try:
        value = _member(members, value) if members else TYPES[facts["type"]](value)
        _in_range(facts, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return value


def _facts(path: str) -> Dict[str, Any]:
    known = record.options()
    if path in known["options"]:
        return known["options"][path]
    if path in known["categories"]:
        inside = ", ".join(name for name in known["options"] if name.startswith(f"{path}."))
        raise ConfigError(f"{path}: a category cannot be set; its options are {inside}")
    names = list(known["options"])
    last = {name.rpartition(".")[2]: name for name in names}
    close = difflib.get_close_matches(str(path), names, n=3, cutoff=0.7)
    close = close or [last[name] for name in difflib.get_close_matches(str(path).rpartition(".")[2], last, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"accepted: {', '.join(names)}"
    raise ConfigError(f"{path}: IPUConfig has no such option; {hint}")


def _member(members: Any, value: Any) -> str:
    if not isinstance(value, str) or value not in members:
        raise ConfigError(f"must be one of {', '.join(members)}, not {value!r}")
    return value


def _plain(kind: type, rule: str) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if type(value) is not kind:  # not isinstance: a bool is an int to Python
            raise ConfigError(f"must be {rule}, not {value!r}")
        return value

    return checked


def _poplar(value: Any) -> Dict[str, str]:
    """Poplar's options: text to text. ``IPUConfig`` takes other values and fails when the device is opened."""
    if not isinstance(value, Mapping):
        raise ConfigError(f'must be a mapping such as {{partialsType: "half"}}, not {value!r}')
    for name, entry in value.items():
        if not isinstance(entry, str):
            raise ConfigError(f'{name}: must be text, write it as "{_as_text(entry)}", not {entry!r}')
        if name == "availableMemoryProportion" and not _is_share(entry):
            raise ConfigError(f'{name}: must be a number from 0 to 1 as text, such as "0.1", not {entry!r}')
        if name == "partialsType" and entry not in ("float", "half"):
            raise ConfigError(f'{name}: must be "float" or "half", not {entry!r}')
    return dict(value)


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _ipus(value: Any) -> Any:
    """A number, or a list with one for each TensorFlow device."""
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise ConfigError(f"must be an int, or a list of ints, not {value!r}")
    if any(number < 0 for number in numbers):
        raise ConfigError(f"must not be negative, got {value!r}")
    return value


TYPES: Dict[str, Callable[[Any], Any]] = {
    "bool": _plain(bool, "true or false"),
    "int": _plain(int, "an int"),
    "float": _plain(float, "a float, written with a point"),
    "str": _plain(str, "text"),
    "poplar": _poplar,
    "ipus": _ipus,
}


def _in_range(facts: Mapping[str, Any], value: Any) -> None:
    if "accepted" in facts and value not in facts["accepted"]:
        raise ConfigError(f"must be one of {', '.join(map(repr, facts['accepted']))}, not {value!r}")
    if "least" in facts and value < facts["least"]:
        raise ConfigError(f"must be at least {facts['least']}, not {value!r}")
    if "most" in facts and value > facts["most"]:
        raise ConfigError(f"must be at most {facts['most']}, not {value!r}")
