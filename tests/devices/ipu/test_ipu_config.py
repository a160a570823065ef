"""From a description to IPUConfig: every option by its path, with Graphcore's own strictness, and nothing besides."""

import enum
import subprocess
import sys
import types
from pathlib import Path

import pytest

import rbd_ipu
from rbd_ipu.devices.ipu import description, ipu_config, sdk_record
from rbd_ipu.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "ipu_configs"
OPTIONS = sdk_record.options()["options"]
ENUMS = sdk_record.options()["enums"]
PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "poplar": dict, "ipus": (int, list)}
# A value of each type that is not the default, and values of other types.
GOOD = {"bool": True, "int": 32, "float": 0.25, "poplar": {"a.b": "1"}, "ipus": 1}
BAD = {
    "bool": (0, 1, "true", None),
    "int": (True, 1.0, "1", None),
    "float": (1, True, "0.5", None),
    "str": (1, True, None, ["ipu2"]),
    "poplar": ("a", ["a"], {"a": 1}, {"a": 0.1}, {"a": True}, {"a": None}),
    "ipus": (True, 1.0, "1", -1, [1, True], None),
}
# Options that cannot be set, or not to another value, without a key that goes with them.
WITH_KEYS = {
    "device_connection.type": ("ON_DEMAND", {"connection": "on_demand"}),
    "device_connection.version": ("ipu1", {"connection": "never", "hardware": "gc2"}),
    "device_connection.enable_remote_buffers": (True, {"connection": "on_demand"}),
    "experimental.enable_prng_stability": (True, {"prng_stability": True}),
    "experimental.multi_replica_distribution.process_count": (0, {}),
    "experimental.multi_replica_distribution.process_index": (0, {}),
    "floating_point_behaviour.esr": ("ON", {"stochastic_rounding": "on"}),
    "floating_point_behaviour.set_all": (True, {"stochastic_rounding": "on"}),
    "io_tiles.place_ops_on_io_tiles": (True, {"options": {"io_tiles.num_io_tiles": 32}}),
    "ipu_model.compile_ipu_code": (False, {"emulator": True}),
    "ipu_model.tiles_per_ipu": (8, {"emulator": True}),
    "ipu_model.version": ("ipu1", {"emulator": True, "hardware": "gc2"}),
    "norms.experimental.distributed_batch_norm_replica_group_size": (2, {"replicas": 4}),
    "serialization_output_folder": ("/tmp/programs", {}),
}


class Strict:
    """A category of IPUConfig after the record: it knows its names, and the exact types of their values."""

    def __init__(self, prefix, enums):
        names = {path[len(prefix) :]: facts for path, facts in OPTIONS.items() if path.startswith(prefix)}
        facts = {name: facts for name, facts in names.items() if "." not in name}
        self.__dict__.update(_facts=facts, _enums=enums)
        for name, entry in facts.items():
            enumeration = enums.get(entry["type"])
            self.__dict__[name] = enumeration[entry["default"]] if enumeration else entry["default"]
        for category in {name.partition(".")[0] for name in names if "." in name}:
            self.__dict__[category] = Strict(f"{prefix}{category}.", enums)

    def __setattr__(self, name, value):
        if name not in self._facts:
            raise ValueError(f"{name!r} is not a valid attribute of this config")
        kind = self._facts[name]["type"]
        accepted = self._enums[kind] if kind in self._enums else PLAIN[kind]
        if type(value) not in (accepted if isinstance(accepted, tuple) else (accepted,)):
            raise TypeError(f"{name}: {value!r}")
        self.__dict__[name] = value


def package():
    """What make_config needs of tensorflow.python.ipu."""
    enums = {name: enum.Enum(name, members) for name, members in ENUMS.items()}
    config = types.SimpleNamespace(IPUConfig=lambda: Strict("", enums), **enums)
    return types.SimpleNamespace(config=config)


def read(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def wanted(path):
    """A description that sets the option to another value than its default, and that value."""
    if path in WITH_KEYS:
        value, keys = WITH_KEYS[path]
    else:
        kind, keys = OPTIONS[path]["type"], {}
        value = ENUMS[kind][-1] if kind in ENUMS else GOOD[kind]
        if value == OPTIONS[path]["default"]:
            value = not value if kind == "bool" else ENUMS[kind][0]
    keys = {**keys, "options": {**keys.get("options", {}), path: value}}
    return description.check({"device": "ipu", **keys}), value


def test_the_stand_in_is_as_strict_as_graphcores():
    config = package().config.IPUConfig()
    with pytest.raises(ValueError, match="'auto_select_ipu' is not a valid attribute"):
        config.auto_select_ipu = 1
    with pytest.raises(ValueError, match="not a valid attribute"):
        config.io_tiles = 32
    for path, value in (("allow_recompute", 1), ("auto_select_ipus", True), ("selection_order", "ZIGZAG")):
        with pytest.raises(TypeError, match=path):
            setattr(config, path, value)
    assert read(config, "norms.experimental.distributed_batch_norm_replica_group_size") == 1


def test_the_record_is_whole():
    assert (len(OPTIONS), len(sdk_record.options()["categories"]), len(ENUMS)) == (57, 15, 5)
    assert {facts["type"] for facts in OPTIONS.values()} == {*PLAIN, *ENUMS}
    for path, facts in OPTIONS.items():
        assert path.rpartition(".")[0] in {"", *sdk_record.options()["categories"]} and facts["doc"]
        if facts["type"] in ENUMS:
            assert facts["default"] in ENUMS[facts["type"]]
        else:
            assert isinstance(facts["default"], PLAIN[facts["type"]]) or facts["default"] == []


@pytest.mark.parametrize("path", OPTIONS)
def test_every_option_can_be_set_by_its_path(path):
    described, value = wanted(path)
    made = read(ipu_config.make_config(described, package()), path)
    assert (made.name if isinstance(made, enum.Enum) else made) == value
    if not path.endswith(("process_count", "process_index")):
        assert value != OPTIONS[path]["default"], "the default would be found without setting anything"


@pytest.mark.parametrize("path", OPTIONS)
def test_every_option_refuses_values_of_other_types(path):
    kind = OPTIONS[path]["type"]
    for value in BAD.get(kind, (True, 0, "off", "NOTHING", None)):
        with pytest.raises(ConfigError, match=rf"options: {path}: .*(must|text)"):
            description.check({"device": "ipu", "options": {path: value}})


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_given_by_name(name):
    path = next(path for path, facts in OPTIONS.items() if facts["type"] == name)
    for member in ENUMS[name]:
        keys = {"connection": member.lower(), "executable_cache": "/tmp/c"} if path.startswith("device_conn") else {}
        keys.update({"stochastic_rounding": member.lower()} if path.endswith(".esr") else {})
        described = description.check({"device": "ipu", **keys, "options": {path: member}})
        assert read(ipu_config.make_config(described, package()), path).name == member


def test_what_the_keys_set():
    described = description.check({"device": "ipu", "replicas": 4, "ipus_per_replica": 2, "prng_stability": True})
    assert ipu_config.settings(described) == {
        "auto_select_ipus": 8,
        "device_connection.type": "ALWAYS",
        "experimental.enable_prng_stability": True,
        "floating_point_behaviour.esr": "OFF",
    }


@pytest.mark.parametrize(("hardware", "version"), [("gc2", "ipu1"), ("gc200", "ipu2"), ("bow", "ipu21")])
@pytest.mark.parametrize("connection", ["always", "on_demand", "pre_compile", "never"])
def test_a_version_is_set_exactly_where_no_device_can_be_asked(connection, hardware, version):
    keys = {"device": "ipu", "connection": connection, "hardware": hardware, "executable_cache": "/tmp/c"}
    settings = ipu_config.settings(description.check(keys))
    assert settings["device_connection.type"] == connection.upper()
    without_device = connection in ("pre_compile", "never")
    assert settings.get("device_connection.version") == (version if without_device else None)


def test_ipus_are_selected_once():
    chosen = description.check({"device": "ipu", "options": {"select_ipus": 0}})
    assert ipu_config.settings(chosen)["select_ipus"] == 0
    assert "auto_select_ipus" not in ipu_config.settings(chosen)

    # PopDist sets select_ipus itself, and IPUConfig refuses both.
    pod = description.check({"device": "ipu", "replicas": 16, "options": {"auto_select_ipus": 16}})
    assert ipu_config.settings(pod)["auto_select_ipus"] == 16
    assert not {"auto_select_ipus", "select_ipus"} & set(ipu_config.settings(pod, popdist=True))
    with pytest.raises(ConfigError, match="under poprun PopDist chooses the IPUs"):
        ipu_config.settings(chosen, popdist=True)


def test_several_instances_need_poprun():
    pod = description.check({"device": "ipu", "replicas": 64, "instances": 4})
    assert "auto_select_ipus" not in ipu_config.settings(pod)
    with pytest.raises(ConfigError, match="instances: 4 are started by poprun"):
        ipu_config.settings(pod, popdist=False)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_other_devices_have_no_config(device):
    described = description.check({"device": device})
    assert ipu_config.environment(described) == {}
    with pytest.raises(ConfigError, match=f"an IPUConfig is for device ipu, not {device}"):
        ipu_config.settings(described)


def test_a_config_does_not_share_its_dictionaries():
    described = description.check({"device": "ipu", "options": {"matmuls.poplar_options": {"partialsType": "half"}}})
    ipu_config.make_config(described, package()).matmuls.poplar_options["partialsType"] = "float"
    assert described.options["matmuls.poplar_options"] == {"partialsType": "half"}


# --- TF_POPLAR_FLAGS --------------------------------------------------------------------------------


def flags(inherited="", **keys):
    return ipu_config.environment(description.check({"device": "ipu", **keys}), inherited).get("TF_POPLAR_FLAGS")


def test_flags_are_assembled_from_keys_and_flags(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert flags() is None
    assert flags(emulator=True) == "--use_ipu_model=true"
    assert flags(executable_cache="~/cache") == f"--executable_cache_path={tmp_path}/cache"
    given = {"max_infeed_threads": 8, "show_progress_bar": True, "use_synthetic_data": True}
    given["synthetic_data_initializer"] = 3
    assert flags(poplar_flags=given) == (
        "--max_infeed_threads=8 --show_progress_bar=true --use_synthetic_data=true --synthetic_data_initializer=3"
    )


def test_flags_of_the_environment_are_kept_where_they_agree():
    inherited = "--use_ipu_model --max_infeed_threads=2"
    assert flags(inherited, emulator=True) == "--use_ipu_model=true --max_infeed_threads=2"
    assert flags("--max_infeed_threads=2") == "--max_infeed_threads=2"
    with pytest.raises(ConfigError, match="TF_POPLAR_FLAGS says use_ipu_model=false, the description true"):
        flags("--use_ipu_model=false", emulator=True)


# --- what is imported -------------------------------------------------------------------------------

IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import rbd_ipu
rbd_ipu.Trainer
rbd_ipu.open_device("cpu")
ours = [name for name in ("ipu_config", "popdist", "sdk_record") if f"rbd_ipu.devices.ipu.{name}" in sys.modules]
assert not ours, f"the CPU path imports {ours}"

from rbd_ipu.devices.ipu import description, ipu_config, popdist
from rbd_ipu.parallel.workers import running
pod = description.check({"device": "ipu", "replicas": 16})
ipu_config.settings(pod), ipu_config.environment(pod), popdist.instance(pod, running())
graphcore = [name for name in sys.modules if name.startswith(("tensorflow.python.ipu", "popdist", "poplar"))]
assert not graphcore, f"a description imports {graphcore}"
"""


def test_nothing_is_imported_without_need():
    try:
        import tensorflow.python.ipu  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("this TensorFlow is Graphcore's: it imports its own parts")
    root = str(Path(rbd_ipu.__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, "-c", IMPORTS, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_cache_is_where_hosts_share_it(monkeypatch, tmp_path):
    pod = description.check({"device": "ipu", "executable_cache": "auto"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RBD_CACHE_DIR", raising=False)
    assert ipu_config.poplar_flags(pod) == {"executable_cache_path": f"{tmp_path}/.cache/rbd_ipu/programs"}
    monkeypatch.setenv("RBD_CACHE_DIR", "/shared/rbd")
    assert ipu_config.poplar_flags(pod) == {"executable_cache_path": "/shared/rbd/programs"}
    monkeypatch.setenv("RBD_CACHE_DIR", "/my disk")
    with pytest.raises(ConfigError, match="without white space, not '/my disk/programs'; set RBD_CACHE_DIR"):
        ipu_config.poplar_flags(pod)


def test_every_configuration_of_an_ipu_keeps_its_programs():
    if not CONFIGS.is_dir():
        pytest.skip("the configurations are not beside the tests")
    files = [description.load(path) for path in sorted(CONFIGS.glob("*.yaml"))]
    assert {d.executable_cache for d in files if d.device == "ipu"} == {"auto"} and len(files) > 6


def test_io_tiles_are_used_where_there_are_any():
    path = "io_tiles.place_ops_on_io_tiles"
    some = {"io_tiles.num_io_tiles": 32}
    assert ipu_config.settings(description.check({"device": "ipu", "options": some}))[path] is True
    assert path not in ipu_config.settings(description.check({"device": "ipu"}))
    with pytest.raises(ConfigError, match="false leaves the 32 tiles of io_tiles.num_io_tiles idle"):
        description.check({"device": "ipu", "options": {**some, path: False}})
