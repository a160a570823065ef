"""A device, described: a YAML file such as ``ipu_configs/pod16.yaml`` -> a checked, frozen Description.

The keys are what a user thinks in (replicas, memory, precision); ``options`` reaches every option of Graphcore's
``IPUConfig`` by its dotted path, and ``poplar_flags`` its flags. What the keys must be together is a rule each: most
go wrong late on the real thing, when the device is opened, after a compilation of minutes, or silently as replicas
that drift apart. Nothing here needs the SDK, or TensorFlow.
"""

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

from rbd_ipu.config.schema import Boolean, Choice, Integer, Kind, Text, instead_of
from rbd_ipu.config.yaml import YamlError, load_mapping
from rbd_ipu.devices import memory
from rbd_ipu.devices.ipu import options
from rbd_ipu.errors import ConfigError


class _Options(Kind):
    """A mapping from dotted paths to values, each held against the record."""

    rule = "a mapping from options of IPUConfig, by their dotted paths, to values"

    def check(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be {self.rule}, not {value!r}")
        return MappingProxyType({path: options.check_options(path, entry) for path, entry in value.items()})


class _Flags(Kind):
    """A mapping of flags for TF_POPLAR_FLAGS."""

    rule = f"a mapping from flags of {options.VARIABLE}, without dashes, to values"

    def check(self, value: Any) -> Mapping[str, Any]:
        return MappingProxyType(options.check_flags(value))


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
    poplar_flags: Mapping[str, Any] = _mapping(_Flags(), f"more flags for {options.VARIABLE}")
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
      rbd_ipu.errors.ConfigError: replicas: must be an integer from 1 to 256, not the text '16'
    """

    settings = {key: _checked(key, value) for key, value in given.items()}
    if "device" not in settings:
        raise ConfigError(f"device: is missing; {FIELDS['device']['kind'].rule}")
    if settings["device"] != "ipu" and len(settings) > 1:
        spare = next(key for key in settings if key != "device")
        raise ConfigError(f"{spare}: device {settings['device']} has no use for it; it takes device alone")
    description = Description(**settings)
    check_rules(description)
    return description


def _checked(key: str, value: Any) -> Any:
    if key not in FIELDS:
        raise ConfigError(f"{key}: unknown key; {instead_of(key, FIELDS)}")
    facts = FIELDS[key]
    if value is None and "default" in facts and facts["default"] is None:
        return None
    try:
        return facts["kind"].check(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def load(path: Union[str, Path]) -> Description:
    """The Description in a YAML file (:mod:`rbd_ipu.config.yaml`).

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


WITHOUT_DEVICE = ("pre_compile", "never")  # the connections that must be told what to compile for
PROCESS_IPUS = 16  # what one process drives; a POD64 takes several, started by poprun
PROCESSES = "experimental.multi_replica_distribution.process_"


def derived(description: Description, popdist: bool) -> Dict[str, Any]:
    """The options that the keys of a description decide, whatever its ``options`` say."""
    values: Dict[str, Any] = {}
    # Under poprun each process is given its IPUs by PopDist; elsewhere they are taken, or named by select_ipus.
    if not popdist and "select_ipus" not in description.options:
        values["auto_select_ipus"] = description.ipus
    values["device_connection.type"] = description.connection.upper()
    if description.connection in WITHOUT_DEVICE:
        values["device_connection.version"] = description.chip.version
    values["experimental.enable_prng_stability"] = description.prng_stability
    values["floating_point_behaviour.esr"] = description.stochastic_rounding.upper()
    if description.emulator:
        values["ipu_model.version"] = description.chip.version
    if description.options.get("io_tiles.num_io_tiles", 0) > 0:  # tiles that nothing is put on would be lost
        values["io_tiles.place_ops_on_io_tiles"] = True
    return values


def check_rules(description: Description) -> None:
    """Holds a description against all rules.

    Raises:
      ConfigError: the first that is broken.
    """
    if description.device == "ipu":
        for rule in RULES:
            rule(description)


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _replicas_divide(d: Description) -> None:
    if d.replicas % d.instances:
        fit = ", ".join(str(n) for n in range(1, d.replicas + 1) if d.replicas % n == 0)
        raise ConfigError(f"instances: {d.replicas} replicas cannot be shared out to {d.instances}; accepted: {fit}")


def _groups_of_ipus(d: Description) -> None:
    for key, count in (("ipus_per_replica", d.ipus_per_replica), ("replicas", d.local_ipus)):
        if not _power_of_two(count):
            raise ConfigError(
                f"{key}: {count} IPUs cannot be one device (replicas {d.replicas} / instances {d.instances} x "
                f"ipus_per_replica {d.ipus_per_replica}); IPUs come in groups of 1, 2, 4, 8, 16, ..."
            )


def _one_process_is_enough(d: Description) -> None:
    if d.local_ipus > PROCESS_IPUS:
        raise ConfigError(
            f"instances: {d.local_ipus} IPUs in each of {d.instances} processes; at most {PROCESS_IPUS}: give "
            f"instances {d.ipus // PROCESS_IPUS} or more, and start them by scripts/poprun.sh"
        )


def _emulator_limits(d: Description) -> None:
    if not d.emulator:
        given = [path for path in d.options if path.startswith("ipu_model.")]
        if given:
            raise ConfigError(f"options: {given[0]} has no effect without emulator: true")
        if "ipu_model_tiles" in d.poplar_flags:
            raise ConfigError("poplar_flags: ipu_model_tiles has no effect without emulator: true")
        return
    if d.instances > 1:
        raise ConfigError(f"instances: the emulator runs in 1 process, not {d.instances}")
    if d.connection != "always":
        raise ConfigError(f"connection: the emulator takes always, not {d.connection}")
    if d.hardware == "bow":
        raise ConfigError("hardware: the emulator knows gc2 and gc200, not bow")
    if "select_ipus" in d.options:
        raise ConfigError("options: select_ipus: the emulator has no devices to choose from; leave it out")


def _programs_are_kept(d: Description) -> None:
    if d.connection == "pre_compile" and d.executable_cache is None:
        raise ConfigError("executable_cache: connection pre_compile needs a folder, or its program would be lost")


def _replicas_round_alike(d: Description) -> None:
    if d.replicas > 1 and d.stochastic_rounding == "on":
        raise ConfigError(
            f"stochastic_rounding: on would let {d.replicas} replicas drift apart; accepted: off, "
            "replica_identical_only"
        )


def _block_fits(d: Description) -> None:
    most = d.chip.memory // memory.BYTES["float32"]
    if d.block_floats is not None and d.block_floats > most:
        raise ConfigError(
            f"block_floats: {d.block_floats:,} float32 are more than the whole memory of a {d.hardware} "
            f"({most:,}); {d.chip.floats:,} are a tenth of it"
        )


def _flags_have_an_effect(d: Description) -> None:
    if "synthetic_data_initializer" in d.poplar_flags and not d.poplar_flags.get("use_synthetic_data"):
        raise ConfigError("poplar_flags: synthetic_data_initializer needs use_synthetic_data: true")
    for name in ("on_demand_device_timeout", "on_demand_device_poll_time"):
        if name in d.poplar_flags and d.connection != "on_demand":
            raise ConfigError(f"poplar_flags: {name} needs connection on_demand, not {d.connection}")


def _options_name_ipus_once(d: Description) -> None:
    for path in ("auto_select_ipus", "select_ipus"):
        value = d.options.get(path)
        if isinstance(value, list) and len(value) != 1:
            raise ConfigError(f"options: {path}: one TensorFlow device is used, so one number, not {value!r}")
        if path in d.options and d.instances > 1:
            raise ConfigError(f"options: {path}: PopDist chooses the IPUs of {d.instances} instances; leave it out")
    # IPUConfig itself misses this where select_ipus is 0.
    if "auto_select_ipus" in d.options and "select_ipus" in d.options:
        raise ConfigError("options: auto_select_ipus and select_ipus exclude each other; leave one out")


def _options_agree_with_keys(d: Description) -> None:
    for path, value in d.options.items():
        if path.startswith(PROCESSES) and value != 0:
            raise ConfigError(f"options: {path}: PopDist fills it in; give instances (here {d.instances}) instead")
    if d.options.get("floating_point_behaviour.set_all") and d.stochastic_rounding != "on":
        raise ConfigError(
            "options: floating_point_behaviour.set_all turns stochastic rounding on, but stochastic_rounding is "
            f"{d.stochastic_rounding}; set inv, div0, oflo and nanoo one by one"
        )
    decided = derived(d, popdist=False)
    for path, key in KEYS.items():
        if path in d.options and d.options[path] not in _same(decided.get(path, "")):
            raise ConfigError(
                f"options: {path}: {d.options[path]!r} contradicts {key}, which makes it {decided.get(path, '')!r}"
            )


# Options that keys decide: giving them as well is accepted only where both say the same.
KEYS = {
    "auto_select_ipus": "replicas and ipus_per_replica",
    "device_connection.type": "connection",
    "device_connection.version": "connection and hardware",
    "experimental.enable_prng_stability": "prng_stability",
    "floating_point_behaviour.esr": "stochastic_rounding",
    "ipu_model.version": "hardware",
}
# What decides each value that :func:`derived` sets.
DECIDED_BY = {**KEYS, "io_tiles.place_ops_on_io_tiles": "io_tiles.num_io_tiles"}


def _same(value: Any) -> Tuple[Any, ...]:
    return (value, [value])


def _options_go_together(d: Description) -> None:
    get = d.options.get
    tiles = get("io_tiles.num_io_tiles", 0)
    if get("io_tiles.place_ops_on_io_tiles") and tiles == 0:
        raise ConfigError("options: io_tiles.place_ops_on_io_tiles needs io_tiles.num_io_tiles above 0")
    if tiles > 0 and get("io_tiles.place_ops_on_io_tiles") is False:
        raise ConfigError(
            f"options: io_tiles.place_ops_on_io_tiles: false leaves the {tiles} tiles of io_tiles.num_io_tiles idle; "
            "leave it out"
        )
    if tiles >= d.chip.tiles:
        raise ConfigError(f"options: io_tiles.num_io_tiles: {tiles} of the {d.chip.tiles} tiles of a {d.hardware}")
    path = "norms.experimental.distributed_batch_norm_replica_group_size"
    group = get(path, 1)
    if d.replicas % group:
        raise ConfigError(f"options: {path}: groups of {group} do not divide {d.replicas} replicas")
    if group > 1 and tiles > 0:
        raise ConfigError(f"options: {path}: {group} does not go with io_tiles.num_io_tiles {tiles}")
    if get("device_connection.enable_remote_buffers") and d.connection == "always":
        raise ConfigError("options: device_connection.enable_remote_buffers is ignored with connection always")


RULES: Tuple[Callable[[Description], None], ...] = (
    _replicas_divide,
    _groups_of_ipus,
    _one_process_is_enough,
    _emulator_limits,
    _programs_are_kept,
    _replicas_round_alike,
    _block_fits,
    _flags_have_an_effect,
    _options_name_ipus_once,
    _options_agree_with_keys,
    _options_go_together,
)
