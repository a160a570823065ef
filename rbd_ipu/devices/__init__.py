"""Devices: contexts that hold a tf.distribute strategy. A registry row each.

The names below import TensorFlow when they are first used: a description of a device is checked without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbd_ipu.devices.local import Device
    from rbd_ipu.devices.open import DEVICES, open_device

_HOME = {"DEVICES": "open", "Device": "local", "open_device": "open"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["DEVICES", "Device", "open_device"]
