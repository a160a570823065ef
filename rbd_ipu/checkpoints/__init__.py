"""Checkpoints: all that a training needs to go on, in one file, and the callback that writes them.

===============================  ==========================================================================
:func:`save`                     writes the state of a Trainer, whole or not at all
:func:`load`                     reads it, verified by its checksum; nothing in it is ever executed
:func:`restore`                  gives it to a Trainer of the same kind, and says where to go on
:func:`newest`                   the latest of a folder that can be used, past those that cannot
:class:`Checkpoints`             a Keras callback that saves while a training goes on, and keeps the last few
===============================  ==========================================================================
"""

from typing import Any

from rbd_ipu.checkpoints.file import Checkpoint, CheckpointError, load, newest
from rbd_ipu.checkpoints.state import restore, save

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints", "load", "newest", "restore", "save"]


def __getattr__(name: str) -> Any:
    if name != "Checkpoints":  # a Keras callback: only those who train with it wait for Keras
        raise AttributeError(f"module 'rbd_ipu.checkpoints' has no attribute {name!r}; it has {', '.join(__all__)}")
    from rbd_ipu.checkpoints.callback import Checkpoints

    return Checkpoints
