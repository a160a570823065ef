"""From a Description to Graphcore's ``IPUConfig``: the one place that knows which key sets which option.

Nothing here imports Graphcore's TensorFlow: :func:`settings` is pure, and :func:`make_config` is handed the package
``tensorflow.python.ipu``, or what stands in for it. :func:`listing` says it in words for people without an IPU.
"""

import json
import os
from typing import Any, Dict, List, Optional

from rbd_ipu.devices import memory
from rbd_ipu.devices.ipu import description as rules
from rbd_ipu.devices.ipu import options, sdk_record
from rbd_ipu.devices.ipu.description import Description, derived
from rbd_ipu.errors import ConfigError
from rbd_ipu.text_table import text


def settings(description: Description, popdist: Optional[bool] = None) -> Dict[str, Any]:
    """What to set in an ``IPUConfig``: dotted path -> value, in the record's order; enums by their members' names.

    Args:
      description: of an IPU, checked by :mod:`rbd_ipu.devices.ipu.description`.
      popdist: whether poprun started this process; None: it must have where there are several instances. PopDist
        chooses the IPUs then (``popdist.tensorflow.set_ipu_config``), and refuses a config that chose others.

    Raises:
      ConfigError: the device is no IPU, its instances can only be started by poprun, or poprun started a process
        that names its IPUs itself.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> settings(description.check({"device": "ipu", "replicas": 4}))["auto_select_ipus"]
      4
    """
    if description.device != "ipu":
        raise ConfigError(f"device: an IPUConfig is for device ipu, not {description.device}")
    if popdist is None:
        popdist = description.instances > 1
    if description.instances > 1 and not popdist:
        raise ConfigError(f"instances: {description.instances} are started by poprun: use scripts/poprun.sh")
    values = {**derived(description, popdist), **description.options}
    if popdist:
        if "select_ipus" in values:
            raise ConfigError("options: select_ipus: under poprun PopDist chooses the IPUs; leave it out")
        values.pop("auto_select_ipus", None)
    return {path: values[path] for path in sdk_record.options()["options"] if path in values}


def make_config(description: Description, ipu: Any, popdist: Optional[bool] = None) -> Any:
    """An ``IPUConfig`` with the description's settings; nothing is attached or compiled yet.

    Args:
      description, popdist: as for :func:`settings`.
      ipu: the package ``tensorflow.python.ipu``, or one like it.
    """
    config = ipu.config.IPUConfig()
    known = sdk_record.options()
    for path, value in settings(description, popdist).items():
        kind = known["options"][path]["type"]
        if kind in known["enums"]:
            value = getattr(ipu.config, kind)[value]
        *categories, name = path.split(".")
        target = config
        for category in categories:
            target = getattr(target, category)
        setattr(target, name, dict(value) if isinstance(value, dict) else value)
    return config


def poplar_flags(description: Description) -> Dict[str, Any]:
    """The flags of ``TF_POPLAR_FLAGS``: those that keys set, then those that were given."""
    values: Dict[str, Any] = {}
    if description.emulator:
        values["use_ipu_model"] = True
    if description.executable_cache is not None:
        values["executable_cache_path"] = cache_folder(description.executable_cache)
    return {**values, **description.poplar_flags}


def cache_root() -> str:
    """What is compiled once is kept under ``$RBD_CACHE_DIR``, else ``~/.cache/rbd_ipu``."""
    return os.environ.get("RBD_CACHE_DIR") or os.path.expanduser(os.path.join("~", ".cache", "rbd_ipu"))


def cache_folder(executable_cache: str) -> str:
    """The folder of compiled programs; ``"auto"`` is ``$RBD_CACHE_DIR/programs``, else ``~/.cache/rbd_ipu/programs``.

    Hosts that share no home directory share a ``RBD_CACHE_DIR``.

    Raises:
      ConfigError: there is white space in it, which no flag can hold.
    """
    auto = os.path.join(cache_root(), "programs")
    folder = os.path.expanduser(auto if executable_cache == "auto" else executable_cache)
    if len(folder.split()) != 1:
        raise ConfigError(f"executable_cache: must be a path without white space, not {folder!r}; set RBD_CACHE_DIR")
    return folder


def environment(description: Description, inherited: str = "") -> Dict[str, str]:
    """The environment that must be set before TensorFlow compiles its first program.

    Args:
      description: of any device; only an IPU needs anything.
      inherited: what ``TF_POPLAR_FLAGS`` says already; its other flags are kept.

    Raises:
      ConfigError: ``inherited`` sets a flag differently.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> environment(description.check({"device": "ipu", "executable_cache": "/tmp/programs"}))
      {'TF_POPLAR_FLAGS': '--executable_cache_path=/tmp/programs'}
    """
    if description.device != "ipu":
        return {}
    text = options.merged(poplar_flags(description), inherited)
    return {options.VARIABLE: text} if text else {}


EXAMPLE_DIM = 250  # the paper's d for FC and CNN
EXAMPLE_SIZES = (101_770, 467_194, 2_000_000)  # FC on MNIST, ResNet-32, and something larger


def listing(description: Description) -> str:
    """All that the description decides: the IPUs, the memory of a block, the flags, the options.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> print(listing(description.check({"device": "cpu"})))
      device  cpu
    """
    if description.device != "ipu":
        return f"device  {description.device}"
    parts = [text(_facts(description), left=2), text(_options(description), left=4)]
    return "\n\n".join(parts + [f"note: {line}" for line in notes(description)])


def notes(description: Description) -> List[str]:
    """What the user should know before trusting the results."""
    lines = []
    if description.emulator:
        lines.append("the emulator draws the same random numbers for every seed: it cannot validate random subspaces")
    if description.connection == "pre_compile":
        lines.append("nothing is computed: the results are zeros, and the program goes into the cache")
    if description.instances > 1:
        lines.append("PopDist chooses the IPUs and fills in the processes: start it by scripts/poprun.sh")
    if "select_ipus" in description.options:
        lines.append(f"whether the device of select_ipus has {description.ipus} IPUs shows on the machine only")
    for path in description.options:
        new = sdk_record.options()["options"][path].get("replaced_by")
        if new:
            lines.append(f"{path} is deprecated: use {new}")
    return lines


def _facts(d: Description) -> List[List[str]]:
    chip = d.chip
    bytes_ = d.block_entries * memory.BYTES[d.precision]
    where = "Poplar's emulator" if d.emulator else d.hardware
    rows = [
        ["device", f"ipu: {where}"],
        ["IPUs", f"{d.ipus} = {d.replicas} (replicas) x {d.ipus_per_replica}; processes: {d.instances}"],
        ["execution", f"{d.steps_per_execution} batches a replica"],
        ["block", f"B D <= {d.block_entries:,} {d.precision}, {100 * bytes_ / chip.memory:.0f} % of the memory"],
    ]
    for size in EXAMPLE_SIZES:
        if size <= d.block_entries:
            height = d.block_rows(size, EXAMPLE_DIM)
            tile = memory.bytes_per_tile(height, size, chip, d.precision)
            rows.append(["", f"B = {height} at D = {size:,}, d = {EXAMPLE_DIM}: {tile / 1000:.0f} KB a tile"])
    flags = environment(d)
    return rows + [[name, value] for name, value in flags.items()]


def _options(d: Description) -> List[List[str]]:
    known = sdk_record.options()["options"]
    rows = [["IPUConfig", "value", "default", "set by"]]
    for path, value in settings(d).items():
        origin = "options" if path in d.options else rules.DECIDED_BY[path]
        rows.append([path, _written(value), _written(known[path]["default"]), origin])
    return rows


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
