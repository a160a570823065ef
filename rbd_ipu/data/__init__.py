"""What to train on: the embedded digits, the paper's three data sets, texts of Shakespeare, and any arrays.

Importing this package, and ``load("digits")``, do not import TensorFlow; the streams of batches do.
"""

import importlib
from typing import Any

from rbd_ipu.data.datasets import DATASETS, load
from rbd_ipu.data.images import ImageData, Split
from rbd_ipu.data.text import Text, TextData
from rbd_ipu.errors import DamagedDataError, MissingDataError

# Names whose modules import TensorFlow, which is why they are looked up late.
_LATE = {"AUGMENTATIONS": "augment", "Batches": "batches", "evaluation": "batches", "Windows": "batches"}

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Batches",
    "DamagedDataError",
    "ImageData",
    "MissingDataError",
    "Split",
    "Text",
    "TextData",
    "Windows",
    "evaluation",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'rbd_ipu.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rbd_ipu.data.{_LATE[name]}"), name)
