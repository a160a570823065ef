"""A device, described: a YAML file such as ``ipu_configs/pod16.yaml`` -> a checked, frozen Description.

The keys are what a user thinks in (replicas, memory, precision); ``options`` reaches every option of Graphcore's
``IPUConfig`` by its dotted path, and ``poplar_flags`` its flags. Nothing here needs the SDK, or TensorFlow.
"""

import dataclasses
import difflib
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Mapping, Optional, Union

from rbd_ipu.config.kinds import Boolean, Choice, ConfigError, Integer, Kind, Text
from rbd_ipu.devices import flags, memory, options
from rbd_ipu.strict_yaml import YamlError, load_mapping


class _Options(Kind):
    """A mapping from dotted paths to values, each held against the record."""

    rule = "a mapping from options of IPUConfig, by their dotted paths, to values"

    def check(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be {self.rule}, not {value!r}")
        return MappingProxyType({path: options.check(path, entry) for path, entry in value.items()})


class _Flags(Kind):
    """A mapping of flags for TF_POPLAR_FLAGS."""

    rule = f"a mapping from flags of {flags.VARIABLE}, without dashes, to values"

    def check(self, value: Any) -> Mapping[str, Any]:
        return MappingProxyType(flags.check(value))


def _key(default: Any, kind: Kind, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "meaning": meaning, "default": default})


def _mapping(kind: Kind, meaning: str) -> Any:
    # Read-only, but not hashable: two descriptions that differ in one may have the same hash.
    facts = {"kind": kind, "meaning": meaning, "default": {}}
    return dataclasses.field(default_factory=lambda: MappingProxyType({}), hash=False, metadata=facts)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a device is and how it is to be used; :func:`load` and :func:`check` make it.

    For ``cpu`` and ``gpu`` only ``device`` says anything.
    """

    device: str = dataclasses.field(metadata={"kind": Choice("cpu", "gpu", "ipu"), "meaning": "what to run on"})
    hardware: str = _key("gc200", Choice(*memory.CHIPS), "the generation of IPU: its tiles and its memory")
    replicas: int = _key(1, Integer(1, 256), "copies of the model, over all processes; each is a worker")
    ipus_per_replica: int = _key(1, Integer(1, 64), "IPUs that one copy is spread over")
    instances: int = _key(
        1, Integer(1, 256), "processes that share the replicas; above 1 they are started by poprun (scripts/)"
    )
    connection: str = _key(
        "always",
        Choice("always", "on_demand", "pre_compile", "never"),
        "when to attach to the IPUs; pre_compile: never, to fill the cache on a machine without any",
    )
    emulator: bool = _key(False, Boolean(), "run on Poplar's IPU Model; every random number is the same there")
    steps_per_execution: int = _key(100, Integer(1), "batches per replica that one call of the device runs")
    block_floats: Optional[int] = _key(
        None, Integer(1), "the largest block of directions, in float32 entries; null: a tenth of the memory"
    )
    precision: str = _key("float32", Choice(*memory.BYTES), "of the directions; weights and updates are float32")
    stochastic_rounding: str = _key(
        "off", Choice("off", "on", "replica_identical_only"), "of float16 results; never in the update"
    )
    prng_stability: bool = _key(False, Boolean(), "manage the hardware's seeds, so that replicas round alike")
    executable_cache: Optional[str] = _key(
        None,
        Text("the path of a folder, without white space, or auto", r"\S+"),
        "the folder that keeps compiled programs; auto: $RBD_CACHE_DIR/programs, else ~/.cache/rbd_ipu/programs",
    )
    poplar_flags: Mapping[str, Any] = _mapping(_Flags(), f"more flags for {flags.VARIABLE}")
    options: Mapping[str, Any] = _mapping(_Options(), "more options of IPUConfig, by their dotted paths")

    @property
    def ipus(self) -> int:
        """IPUs of all processes together."""
        return self.replicas * self.ipus_per_replica

    @property
    def local_replicas(self) -> int:
        """Replicas of one process."""
        return self.replicas // self.instances

    @property
    def local_ipus(self) -> int:
        """IPUs of one process."""
        return self.local_replicas * self.ipus_per_replica

    @property
    def chip(self) -> memory.Chip:
        """The tiles and the memory of one IPU."""
        return memory.CHIPS[self.hardware]

    @property
    def block_entries(self) -> int:
        """The largest B D of a block of directions, in entries of the description's precision."""
        chip = self.chip if self.block_floats is None else self.chip._replace(floats=self.block_floats)
        return memory.block_entries(chip, self.precision)

    def block_rows(self, size: int, dim: int) -> int:
        """Directions of a block for D = size and d = dim; see :func:`rbd_ipu.devices.memory.block_rows`."""
        return memory.block_rows(size, dim, self.block_entries)


FIELDS = {field.name: field.metadata for field in dataclasses.fields(Description)}


def check(given: Mapping[str, Any]) -> Description:
    """A Description of checked settings.

    Raises:
      ConfigError: an unknown key, a wrong value, or settings that cannot go together; the message begins with the
        key and says what came and what is accepted.

    Example:
      >>> pod = check({"device": "ipu", "replicas": 16})
      >>> pod.ipus, pod.block_rows(size=101_770, dim=250)
      (16, 125)
      >>> check({"device": "ipu", "replicas": "16"})
      Traceback (most recent call last):
      ...
      rbd_ipu.config.kinds.ConfigError: replicas: must be an integer from 1 to 256, not the text '16'
    """
    from rbd_ipu.devices import rules  # late: the rules are about the class above

    settings = {key: _checked(key, value) for key, value in given.items()}
    if "device" not in settings:
        raise ConfigError(f"device: is missing; {FIELDS['device']['kind'].rule}")
    if settings["device"] != "ipu" and len(settings) > 1:
        spare = next(key for key in settings if key != "device")
        raise ConfigError(f"{spare}: device {settings['device']} has no use for it; it takes device alone")
    description = Description(**settings)
    rules.check(description)
    return description


def _checked(key: str, value: Any) -> Any:
    if key not in FIELDS:
        close = difflib.get_close_matches(str(key), FIELDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{key}: unknown key; {hint}accepted: {', '.join(FIELDS)}")
    facts = FIELDS[key]
    if value is None and "default" in facts and facts["default"] is None:
        return None
    try:
        return facts["kind"].check(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def load(path: Union[str, Path]) -> Description:
    """The Description in a YAML file (:mod:`rbd_ipu.strict_yaml`).

    Raises:
      ConfigError: as :func:`check`, or the file is no strict YAML; the message begins with the path.
    """
    try:
        return check(load_mapping(path))
    except YamlError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def as_dict(description: Description) -> Dict[str, Any]:
    """The settings in plain types, for a run's record; :func:`check` of it gives the description back."""
    if description.device != "ipu":
        return {"device": description.device}
    values = {key: getattr(description, key) for key in FIELDS}
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
