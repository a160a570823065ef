"""Checkpoints: all that a training needs to go on, in one file, and the callback that writes them.

===============================  ==========================================================================
:func:`save`                     writes the state of a Trainer, whole or not at all
:func:`load`                     reads it, verified by its checksums; nothing in it is ever executed
:func:`restore`                  gives it to a Trainer of the same kind, and says where to go on
:func:`newest`                   the latest of a folder that can be used, past those that cannot
:class:`Checkpoints`             a Keras callback that saves while a training goes on, and keeps the last few
===============================  ==========================================================================
"""

import importlib
from typing import Any

from rbd_ipu.checkpoints.file import Checkpoint, CheckpointError, load, newest

# Names whose modules import TensorFlow, which is why they are looked up late.
_LATE = {"Checkpoints": "callback", "restore": "state", "save": "state"}

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints", "load", "newest", "restore", "save"]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'rbd_ipu.checkpoints' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"rbd_ipu.checkpoints.{_LATE[name]}"), name)
