"""Device descriptions: the files that come with the project, and what is refused with which words."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rbd_ipu.config import yaml
from rbd_ipu.devices import memory
from rbd_ipu.devices.ipu import description
from rbd_ipu.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "ipu_configs"
NAMES = ("cpu", "gpu", "ipu_model", "offline", "pod16", "pod4", "pod64", "single")

needs_configs = pytest.mark.skipif(not CONFIGS.is_dir(), reason="no ipu_configs beside the tests")


def described(text):
    return description.check(yaml.loads(text))


@needs_configs
def test_the_files_are_those_that_the_project_promises():
    assert {path.stem for path in CONFIGS.iterdir()} == set(NAMES)


@needs_configs
@pytest.mark.parametrize("name", NAMES)
def test_every_file_validates_and_comes_back_from_its_dictionary(name):
    loaded = description.load(CONFIGS / f"{name}.yaml")
    assert description.check(description.as_dict(loaded)) == loaded
    assert description.check(yaml.loads(yaml.dumps(description.as_dict(loaded)))) == loaded
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.device = "tpu"


@needs_configs
@pytest.mark.parametrize(
    ("name", "replicas", "instances", "connection"),
    [
        ("single", 1, 1, "always"),
        ("pod4", 4, 1, "always"),
        ("pod16", 16, 1, "always"),
        ("pod64", 64, 4, "always"),
        ("offline", 1, 1, "pre_compile"),
        ("ipu_model", 1, 1, "always"),
    ],
)
def test_the_files_say_what_their_names_say(name, replicas, instances, connection):
    loaded = description.load(CONFIGS / f"{name}.yaml")
    assert (loaded.device, loaded.replicas, loaded.instances) == ("ipu", replicas, instances)
    assert loaded.ipus == replicas and loaded.connection == connection
    assert loaded.local_replicas == replicas // instances <= 16
    assert loaded.emulator == (name == "ipu_model")
    # Directions and updates are exact only without it.
    assert loaded.stochastic_rounding == "off"


@needs_configs
def test_the_emulator_carries_its_warning():
    text = (CONFIGS / "ipu_model.yaml").read_text(encoding="utf-8")
    assert "cannot validate random subspaces" in text and "fixed seed" in text


# Each: what is wrong, the key and the reason that the message must name.
WRONG = {
    "a typo in a key": ("device: ipu\nreplica: 4", "replica: unknown key", "did you mean replicas?"),
    "an unknown key": ("device: ipu\nzzz: 4", "zzz: unknown key", "accepted: device, hardware"),
    "no device": ("replicas: 4", "device: is missing", "cpu | gpu | ipu"),
    "an unknown device": ("device: tpu", "device: must be one of cpu, gpu, ipu", "'tpu'"),
    "replicas on a CPU": ("device: cpu\nreplicas: 4", "replicas: device cpu has no use for it", "device alone"),
    "replicas as text": ('device: ipu\nreplicas: "4"', "replicas: must be an integer from 1 to 256", "text '4'"),
    "no replicas": ("device: ipu\nreplicas: 0", "replicas: must be an integer from 1 to 256", "not 0"),
    "half a replica": ("device: ipu\nreplicas: 1.5", "replicas: must be an integer", "1.5"),
    "replicas as a bool": ("device: ipu\nreplicas: true", "replicas: must be an integer", "not true"),
    "replicas null": ("device: ipu\nreplicas: null", "replicas: must be an integer", "not null"),
    "three replicas": ("device: ipu\nreplicas: 3", "replicas: 3 IPUs cannot be one device", "1, 2, 4, 8, 16"),
    "three IPUs a replica": ("device: ipu\nipus_per_replica: 3", "ipus_per_replica: 3 IPUs cannot be", "1, 2, 4"),
    "an uneven share": (
        "device: ipu\nreplicas: 16\ninstances: 3",
        "instances: 16 replicas cannot be shared out to 3",
        "accepted: 1, 2, 4, 8, 16",
    ),
    "more instances than replicas": ("device: ipu\nreplicas: 2\ninstances: 4", "instances: 2 replicas", "1, 2"),
    "a POD64 in one process": ("device: ipu\nreplicas: 64", "instances: 64 IPUs in each", "give instances 4 or more"),
    "a POD64 of pairs in two": (
        "device: ipu\nreplicas: 32\nipus_per_replica: 2\ninstances: 2",
        "instances: 32 IPUs in each of 2 processes",
        "poprun",
    ),
    "an unknown generation": ("device: ipu\nhardware: gc300", "hardware: must be one of gc2, gc200, bow", "gc300"),
    "a flag as text": ('device: ipu\nemulator: "yes"', "emulator: must be true | false", "text 'yes'"),
    "no steps": ("device: ipu\nsteps_per_execution: 0", "steps_per_execution: must be an integer from 1", "0"),
    "double precision": ("device: ipu\nprecision: float64", "precision: must be one of float32, float16", "float64"),
    "rounding as a bool": (
        "device: ipu\nstochastic_rounding: false",
        "stochastic_rounding: must be one of off, on, replica_identical_only",
        "not false",
    ),
    "replicas that drift apart": (
        "device: ipu\nreplicas: 4\nstochastic_rounding: on",
        "stochastic_rounding: on would let 4 replicas drift apart",
        "accepted: off, replica_identical_only",
    ),
    "a block larger than the chip": (
        "device: ipu\nhardware: gc2\nblock_floats: 80000000",
        "block_floats: 80,000,000 float32 are more than the whole memory of a gc2",
        "7,000,000",
    ),
    "a program that is lost": ("device: ipu\nconnection: pre_compile", "executable_cache: connection", "pre_compile"),
    "a cache with a gap": ("device: ipu\nexecutable_cache: /a b", "executable_cache: must be the path", "/a b"),
    "an unknown connection": ("device: ipu\nconnection: sometimes", "connection: must be one of always", "never"),
    "several emulators": (
        "device: ipu\nemulator: true\nreplicas: 2\ninstances: 2",
        "instances: the emulator runs in 1 process",
        "not 2",
    ),
    "an emulator that never starts": (
        "device: ipu\nemulator: true\nconnection: never",
        "connection: the emulator takes always",
        "not never",
    ),
    "an emulated Bow": ("device: ipu\nemulator: true\nhardware: bow", "hardware: the emulator knows gc2", "bow"),
    "a chosen emulator": (
        "device: ipu\nemulator: true\noptions: {select_ipus: 0}",
        "options: select_ipus: the emulator has no devices",
        "leave it out",
    ),
    "emulator options without it": (
        "device: ipu\noptions: {ipu_model.tiles_per_ipu: 8}",
        "options: ipu_model.tiles_per_ipu has no effect",
        "emulator: true",
    ),
    # Flags.
    "an unknown flag": (
        "device: ipu\npoplar_flags: {max_compile_threads: 8}",
        "poplar_flags: unknown flag 'max_compile_threads'",
        "did you mean max_compilation_threads?",
    ),
    "a flag with a key": (
        "device: ipu\npoplar_flags: {use_ipu_model: true}",
        "poplar_flags: use_ipu_model is set by the key emulator",
        "leave it out",
    ),
    "a flag of the wrong type": (
        "device: ipu\npoplar_flags: {max_infeed_threads: many}",
        "poplar_flags: max_infeed_threads: must be an integer",
        "'many'",
    ),
    "flags as text": ("device: ipu\npoplar_flags: --use_ipu_model", "poplar_flags: must be a mapping", "--use_ipu"),
    "a patience that is not used": (
        "device: ipu\npoplar_flags: {on_demand_device_timeout: 10}",
        "poplar_flags: on_demand_device_timeout needs connection on_demand",
        "not always",
    ),
    "an initialiser of nothing": (
        "device: ipu\npoplar_flags: {synthetic_data_initializer: random}",
        "poplar_flags: synthetic_data_initializer needs",
        "use_synthetic_data: true",
    ),
    "tiles of no emulator": (
        "device: ipu\npoplar_flags: {ipu_model_tiles: 4}",
        "poplar_flags: ipu_model_tiles has no effect",
        "emulator: true",
    ),
    # Options of IPUConfig.
    "a typo in an option": (
        "device: ipu\noptions: {floating_point_behavior.esr: OFF}",
        "options: floating_point_behavior.esr: IPUConfig has no such option",
        "did you mean floating_point_behaviour.esr",
    ),
    "an option without its category": (
        "device: ipu\noptions: {num_io_tiles: 32}",
        "options: num_io_tiles: IPUConfig has no such option",
        "did you mean io_tiles.num_io_tiles?",
    ),
    "a category": (
        "device: ipu\noptions: {io_tiles: 32}",
        "options: io_tiles: a category cannot be set",
        "io_tiles.num_io_tiles",
    ),
    "a bool for an enum": (
        "device: ipu\noptions: {floating_point_behaviour.esr: true}",
        "floating_point_behaviour.esr: must be one of OFF, ON, REPLICA_IDENTICAL_ONLY",
        "not True",
    ),
    "another text for an enum": (
        "device: ipu\noptions: {selection_order: zigzag}",
        "selection_order: must be one of AUTO, ZIGZAG, SNAKE, HOOF",
        "'zigzag'",
    ),
    "a number for a Poplar option": (
        "device: ipu\noptions: {matmuls.poplar_options: {availableMemoryProportion: 0.1}}",
        'matmuls.poplar_options: availableMemoryProportion: must be text, write it as "0.1"',
        "not 0.1",
    ),
    "a bool for a Poplar option": (
        "device: ipu\noptions: {compilation_poplar_options: {debug.allowOutOfMemory: true}}",
        'debug.allowOutOfMemory: must be text, write it as "true"',
        "not True",
    ),
    "more memory than there is": (
        'device: ipu\noptions: {matmuls.poplar_options: {availableMemoryProportion: "6"}}',
        "availableMemoryProportion: must be a number from 0 to 1",
        "'6'",
    ),
    "a TensorFlow type for Poplar": (
        "device: ipu\noptions: {matmuls.poplar_options: {partialsType: float16}}",
        'partialsType: must be "float" or "half"',
        "'float16'",
    ),
    "text for Poplar options": (
        "device: ipu\noptions: {slices.poplar_options: fast}",
        "slices.poplar_options: must be a mapping",
        "'fast'",
    ),
    "an int for a bool": ("device: ipu\noptions: {allow_recompute: 1}", "allow_recompute: must be true", "not 1"),
    "a bool for an int": (
        "device: ipu\noptions: {io_tiles.num_io_tiles: true}",
        "io_tiles.num_io_tiles: must be an int",
        "True",
    ),
    "an int for a float": (
        "device: ipu\noptions: {io_tiles.available_memory_proportion: 1}",
        "io_tiles.available_memory_proportion: must be a float",
        "not 1",
    ),
    "a share of two": (
        "device: ipu\noptions: {io_tiles.available_memory_proportion: 2.0}",
        "io_tiles.available_memory_proportion: must be at most 1.0",
        "2.0",
    ),
    "a negative buffer": (
        "device: ipu\noptions: {optimizations.maximum_reduce_many_buffer_size: -1}",
        "optimizations.maximum_reduce_many_buffer_size: must be at least 0",
        "-1",
    ),
    "options as a list": ("device: ipu\noptions: [allow_recompute]", "options: must be a mapping", "allow_recompute"),
    "too few IPUs for the replicas": (
        "device: ipu\nreplicas: 8\noptions: {auto_select_ipus: 4}",
        "options: auto_select_ipus: 4 contradicts replicas and ipus_per_replica",
        "makes it 8",
    ),
    "two TensorFlow devices": (
        "device: ipu\nreplicas: 2\noptions: {auto_select_ipus: [1, 1]}",
        "options: auto_select_ipus: one TensorFlow device is used",
        "[1, 1]",
    ),
    "IPUs chosen twice, the first one": (
        "device: ipu\noptions: {auto_select_ipus: 1, select_ipus: 0}",
        "options: auto_select_ipus and select_ipus exclude each other",
        "leave one out",
    ),
    "IPUs chosen against PopDist": (
        "device: ipu\nreplicas: 2\ninstances: 2\noptions: {select_ipus: 4}",
        "options: select_ipus: PopDist chooses the IPUs of 2 instances",
        "leave it out",
    ),
    "IPUs chosen by their names": (
        "device: ipu\noptions: {select_ipus: first}",
        "select_ipus: must be an int, or a list of ints",
        "'first'",
    ),
    "processes by hand": (
        "device: ipu\noptions: {experimental.multi_replica_distribution.process_count: 2}",
        "process_count: PopDist fills it in",
        "give instances (here 1)",
    ),
    "a version where none is asked": (
        "device: ipu\noptions: {device_connection.version: ipu2}",
        "device_connection.version: 'ipu2' contradicts connection and hardware",
        "makes it ''",
    ),
    "the version of other hardware": (
        "device: ipu\nconnection: never\nhardware: gc2\noptions: {device_connection.version: ipu2}",
        "device_connection.version: 'ipu2' contradicts connection and hardware",
        "makes it 'ipu1'",
    ),
    "an unknown version": (
        "device: ipu\nconnection: never\noptions: {device_connection.version: ipu3}",
        "device_connection.version: must be one of '', 'ipu1', 'ipu2', 'ipu21'",
        "'ipu3'",
    ),
    "remote buffers that are ignored": (
        "device: ipu\noptions: {device_connection.enable_remote_buffers: true}",
        "options: device_connection.enable_remote_buffers is ignored",
        "connection always",
    ),
    "rounding against its key": (
        "device: ipu\noptions: {floating_point_behaviour.esr: ON}",
        "floating_point_behaviour.esr: 'ON' contradicts stochastic_rounding",
        "makes it 'OFF'",
    ),
    "rounding by the back door": (
        "device: ipu\noptions: {floating_point_behaviour.set_all: true}",
        "floating_point_behaviour.set_all turns stochastic rounding on",
        "one by one",
    ),
    "operations on no tiles": (
        "device: ipu\noptions: {io_tiles.place_ops_on_io_tiles: true}",
        "io_tiles.place_ops_on_io_tiles needs",
        "io_tiles.num_io_tiles above 0",
    ),
    "all tiles for input": (
        "device: ipu\noptions: {io_tiles.num_io_tiles: 1472}",
        "io_tiles.num_io_tiles: 1472 of the 1472 tiles",
        "gc200",
    ),
    "groups that do not divide the replicas": (
        "device: ipu\nreplicas: 4\noptions: {norms.experimental.distributed_batch_norm_replica_group_size: 3}",
        "groups of 3 do not divide 4 replicas",
        "options: norms.experimental",
    ),
    "no group": (
        "device: ipu\noptions: {norms.experimental.distributed_batch_norm_replica_group_size: 0}",
        "distributed_batch_norm_replica_group_size: must be at least 1",
        "not 0",
    ),
    "groups beside input tiles": (
        "device: ipu\nreplicas: 4\n"
        "options: {norms.experimental.distributed_batch_norm_replica_group_size: 2, io_tiles.num_io_tiles: 32}",
        "2 does not go with io_tiles.num_io_tiles 32",
        "options: norms",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_descriptions_are_refused_in_words(what, tmp_path):
    text, *parts = WRONG[what]
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        description.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot be read"):
        description.load(tmp_path / "nowhere.yaml")
    doubled = tmp_path / "doubled.yaml"
    doubled.write_text("device: ipu\ndevice: cpu\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"doubled.yaml: line 2: the key 'device' is given twice"):
        description.load(doubled)


def test_options_may_repeat_what_the_keys_say():
    d = described(
        "device: ipu\nreplicas: 8\noptions: {auto_select_ipus: [8], device_connection.type: ALWAYS, "
        "floating_point_behaviour.esr: OFF, experimental.multi_replica_distribution.process_count: 0}"
    )
    assert d.options["auto_select_ipus"] == [8] and d.ipus == 8


def test_a_description_is_not_changed_by_its_users():
    d = described("device: ipu\noptions: {allow_recompute: true}")
    with pytest.raises(TypeError):
        d.options["allow_recompute"] = False
    assert hash(d) == hash(described("device: ipu\noptions: {allow_recompute: true}"))


# --- the memory arithmetic ------------------------------------------------------------------------------


def test_the_published_examples_of_blocks():
    """16 and 64 directions over a million parameters: 64 and 256 MB, 43 and 174 KB a tile."""
    gc200 = memory.CHIPS["gc200"]
    for rows, kilobytes, megabytes in ((16, 43, 64), (64, 174, 256)):
        assert round(memory.bytes_per_tile(rows, 1_000_000, gc200) / 1000) == kilobytes
        assert memory.share(rows, 1_000_000, gc200) * gc200.memory == megabytes * 1e6
        halved = memory.bytes_per_tile(rows, 1_000_000, gc200, "float16")
        assert 0 <= 2 * halved - memory.bytes_per_tile(rows, 1_000_000, gc200) <= 1


@pytest.mark.parametrize("chip", memory.CHIPS)
@pytest.mark.parametrize("precision", memory.BYTES)
def test_the_largest_block_is_about_a_tenth_of_the_memory(chip, precision):
    chip = memory.CHIPS[chip]
    entries = memory.block_entries(chip, precision)
    assert 0.08 < memory.share(1, entries, chip, precision) <= 0.1
    assert 20 < chip.memory / chip.tiles / 1000 * 0.1 < 65  # KB of a tile for the block


def test_blocks_are_as_few_and_as_even_as_can_be():
    generator = np.random.default_rng(5)
    for _ in range(300):
        size, dim, entries = (int(n) for n in generator.integers([1, 1, 2000], [2000, 500, 90_000]))
        rows = memory.block_rows(size, dim, entries)
        blocks = -(-dim // rows)
        assert 1 <= rows <= dim and rows * size <= entries
        fits = [r for r in range(1, dim + 1) if r * size <= entries]
        assert blocks == -(-dim // max(fits)), "more blocks than needed"
        assert rows == min(r for r in fits if -(-dim // r) == blocks), "an uneven last block"


def test_a_direction_that_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match="one direction over 30,000,000 parameters does not fit a block of 20,000,000"
    ):
        described("device: ipu").block_rows(30_000_000, 250)
    assert described("device: ipu\nprecision: float16").block_rows(30_000_000, 250) == 1


@pytest.mark.parametrize(("key", "entries"), [("hardware: gc2", 7e6), ("precision: float16", 4e7), ("", 2e7)])
def test_the_block_follows_the_hardware_and_the_precision(key, entries):
    assert described(f"device: ipu\n{key}").block_entries == entries


def test_the_block_can_be_given():
    assert described("device: ipu\nblock_floats: 1000\nprecision: float16").block_entries == 2000
    assert described("device: ipu\nblock_floats: 1000").block_rows(100, 25) == 9  # three blocks: 9, 9, 7
