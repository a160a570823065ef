"""From a Description to Graphcore's ``IPUConfig``: the one place that knows which key sets which option.

Nothing here imports Graphcore's TensorFlow: :func:`settings` is pure, and :func:`make_config` is handed the package
``tensorflow.python.ipu``, or what stands in for it.
"""

import os
from typing import Any, Dict, Optional

from rbd_ipu.devices.ipu import options, sdk_record
from rbd_ipu.devices.ipu.description import Description, derived
from rbd_ipu.errors import ConfigError


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
