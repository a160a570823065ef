"""What the keys of a Description must be together: a rule each, with the reason in its message.

Most of these go wrong late on the real thing: when the device is opened, after a compilation of minutes, or silently
as replicas that drift apart.
"""

from typing import Any, Callable, Tuple

from rbd_ipu.config.kinds import ConfigError
from rbd_ipu.devices import ipu_config, memory
from rbd_ipu.devices.description import Description

PROCESS_IPUS = 16  # what one process drives; a POD64 takes several, started by poprun
PROCESSES = "experimental.multi_replica_distribution.process_"


def check(description: Description) -> None:
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
    decided = ipu_config.derived(d, popdist=False)
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
