"""metrics.jsonl: one line of strict JSON an epoch, on disk before the next epoch begins; metrics.csv: the same."""

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Union

from rbd_ipu import files
from rbd_ipu.files import naming, write_text

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
    files.append(path, files.line({name: row.get(name) for name in columns}).encode(), flush=True)


def append_csv(path: Union[str, Path], row: Mapping[str, Any]) -> None:
    """Adds one line to a table; what is not measured is empty, and a new column is one for all lines.

    Raises:
      OSError: with the path; the file is as before.
    """
    with naming(path), open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        columns = next(csv.reader([file.readline()]), [])
        if columns and set(row) <= set(columns):
            files.append(path, _csv(columns, [row]).encode(), flush=True)
            return
        file.seek(0)
        write_text(path, _csv_table([*csv.DictReader(file), row]))


def _csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    return _csv(columns, [dict(zip(columns, columns)), *rows])


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns).writerows(files.plain(dict(row)) for row in rows)
    return text.getvalue()


def read(path: Union[str, Path]) -> List[Dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    return files.lines(Path(path))


def extent(path: Union[str, Path]) -> Dict[str, Any]:
    """How far a metrics.jsonl has come: its length in bytes and its SHA-256; a missing file is an empty one."""
    content = Path(path).read_bytes() if Path(path).exists() else b""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def holds(path: Union[str, Path], wanted: Mapping[str, Any]) -> bool:
    """Whether the file begins with all that it held when it had come as far as ``wanted``.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "metrics.jsonl"
      ...     append(path, {"epoch": 1})
      ...     first = extent(path)
      ...     append(path, {"epoch": 2})
      ...     holds(path, first), holds(path, {**first, "bytes": 3})
      (True, False)
    """
    content = Path(path).read_bytes() if Path(path).exists() else b""
    part = content[: wanted["bytes"]]
    return len(part) == wanted["bytes"] and hashlib.sha256(part).hexdigest() == wanted["sha256"]


def cut(path: Union[str, Path], table: Union[str, Path], wanted: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Takes a metrics.jsonl and its table back to an earlier extent; gives the rows that stay.

    Raises:
      OSError: with the path.
    """
    with naming(path), open(path, "ab") as file:
        file.truncate(wanted["bytes"])
        os.fsync(file.fileno())
    rows = read(path)
    write_text(table, _csv_table(rows) if rows else "")
    return rows
