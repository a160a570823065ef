"""Options of ``IPUConfig`` and flags of ``TF_POPLAR_FLAGS``, held against the record of the SDK.

The types are as strict as Graphcore's own: a bool is no int, an int is no float, an enum is one of its members (by
name here), and the values of Poplar's options are text, numbers too. What the real ``IPUConfig`` finds out late, on
the machine with the IPUs, is refused here. TensorFlow ends the process at a flag that it does not know, and reads the
variable once, when the first program is compiled. (From ``driver/tools/flags.cc`` of the commit in the record.)
"""

import difflib
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

from rbd_ipu.config.schema import Boolean, Choice, Integer, Kind, Text, instead_of
from rbd_ipu.devices.ipu import sdk_record
from rbd_ipu.errors import ConfigError


def check_options(path: str, value: Any) -> Any:
    """A value of the option at a dotted path, as ``IPUConfig`` would take it (an enum's member by its name).

    Raises:
      ConfigError: an unknown path, a category, a wrong type or value; quotes what came and what is accepted.

    Example:
      >>> check_options("floating_point_behaviour.esr", "OFF")
      'OFF'
      >>> check_options("matmuls.poplar_options", {"partialsType": "half"})
      {'partialsType': 'half'}
    """
    facts = _facts(path)
    members = sdk_record.options()["enums"].get(facts["type"])
    try:
        value = _member(members, value) if members else TYPES[facts["type"]](value)
        _in_range(facts, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return value


def _facts(path: str) -> Dict[str, Any]:
    known = sdk_record.options()
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


VARIABLE = "TF_POPLAR_FLAGS"
_PATH = Text("a path without white space", r"\S+")


class Flag(NamedTuple):
    """A flag: what it may be, what it does, and the key of a description that sets it in its place."""

    kind: Kind
    meaning: str
    key: Optional[str] = None


FLAGS: Dict[str, Flag] = {
    "use_ipu_model": Flag(Boolean(), "run on Poplar's emulator", "emulator"),
    "executable_cache_path": Flag(_PATH, "the folder that keeps compiled programs", "executable_cache"),
    "max_compilation_threads": Flag(Integer(-1), "of the compiler; -1: as many as it likes"),
    "max_infeed_threads": Flag(Integer(-1), "that fetch each input; -1: as many as it likes"),
    "log_cycle_count": Flag(Integer(-1, 1471), "the tile whose cycles are logged; -1: none"),
    "use_synthetic_data": Flag(Boolean(), "no transfers to and from the host: for timings alone"),
    "synthetic_data_initializer": Flag(
        Text("random | uniform | normal | an integer", r"random|uniform|normal|-?[0-9]{1,9}"),
        "what synthetic data is filled with",
    ),
    "while_loop_brute_force_max_trip_count": Flag(Integer(0), "trips simulated to find the length of a loop; 128"),
    "show_progress_bar": Flag(Choice("auto", "true", "false"), "of the compilation"),
    "on_demand_device_timeout": Flag(Integer(0), "milliseconds to wait for an IPU with connection on_demand"),
    "on_demand_device_poll_time": Flag(Integer(100), "milliseconds between two looks for one"),
    "ipu_model_tiles": Flag(Integer(1, 1472), "tiles of the emulator"),
    "sync_replica_start": Flag(Boolean(), "start all replicas together"),
    "disable_poplar_version_check": Flag(Boolean(), "run programs that another SDK compiled"),
}


def check_flags(given: Any) -> Dict[str, Any]:
    """The flags of a description, each in its own type.

    Raises:
      ConfigError: not a mapping, an unknown flag, one that has a key of its own, or a wrong value.

    Example:
      >>> check_flags({"max_compilation_threads": 8})
      {'max_compilation_threads': 8}
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping such as {{max_compilation_threads: 8}}, not {given!r}")
    return {name: _value(name, value) for name, value in given.items()}


def _value(name: str, value: Any) -> Any:
    if name not in FLAGS:
        accepted = [flag for flag, facts in FLAGS.items() if facts.key is None]
        raise ConfigError(f"unknown flag {name!r}; {instead_of(name, FLAGS, accepted)}")
    flag = FLAGS[name]
    if flag.key is not None:
        raise ConfigError(f"{name} is set by the key {flag.key}; leave it out here")
    if name == "show_progress_bar" and isinstance(value, bool):
        value = str(value).lower()  # a plain true of YAML is no text
    if name == "synthetic_data_initializer" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    try:
        return flag.kind.check(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def text(flags: Mapping[str, Any]) -> str:
    """The flags as TensorFlow reads them.

    Example:
      >>> text({"max_compilation_threads": 8, "use_ipu_model": True, "sync_replica_start": False})
      '--max_compilation_threads=8 --use_ipu_model=true --sync_replica_start=false'
    """
    return " ".join(f"--{name}={_written(value)}" for name, value in flags.items())


def merged(flags: Mapping[str, Any], inherited: str = "") -> str:
    """The flags together with those that the environment has already.

    Raises:
      ConfigError: both set a flag, differently.

    Example:
      >>> merged({"use_ipu_model": True}, "--max_compilation_threads=8 --use_ipu_model=true")
      '--max_compilation_threads=8 --use_ipu_model=true'
    """
    present = {}
    for word in inherited.split():
        name, equals, value = word.partition("=")
        present[name.lstrip("-")] = value if equals else "true"
    for name, value in flags.items():
        ours = _written(value)
        if present.setdefault(name, ours) != ours:
            raise ConfigError(f"{VARIABLE} says {name}={present[name]}, the description {ours}; make them agree")
    return text(present)


def is_set(name: str, environment: Mapping[str, str]) -> bool:
    """Whether a flag that is true or false is true in an environment.

    Example:
      >>> is_set("use_synthetic_data", {"TF_POPLAR_FLAGS": "--use_synthetic_data --log_cycle_count=0"})
      True
    """
    words = [word.lstrip("-").partition("=") for word in environment.get(VARIABLE, "").split()]
    return any(given == name and value.lower() in ("", "true", "1") for given, _, value in words)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
