"""metrics.jsonl: one line of strict JSON an epoch, on disk before the next epoch begins."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

from rbd_ipu.records import strict_json
from rbd_ipu.records.atomic import naming

#: The columns of a line, in order; what a run does not measure is null.
COLUMNS = (
    "epoch",
    "step",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "correlation",
    "cosine",
    "images_per_second",
    "seconds",
)


def append(path: Union[str, Path], row: Mapping[str, Any]) -> None:
    """Adds one line, flushed to the disk; if that fails the file is as before.

    Raises:
      OSError: with the path.
    """
    columns = (*COLUMNS, *(name for name in row if name not in COLUMNS))
    text = strict_json.line({name: row.get(name) for name in columns}).encode()
    with naming(path), open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(text)
            if written != len(text):  # a disk that fills up takes a part
                raise OSError(28, os.strerror(28))
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def read(path: Union[str, Path]) -> List[Dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(text) for text in file]
