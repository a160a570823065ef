"""JSON that every parser reads: NaN and infinities become null, NumPy numbers become numbers."""

import json
import math
import numbers
from pathlib import Path
from typing import Any, Dict


def plain(value: Any) -> Any:
    """``value`` in the types JSON has.

    Example:
      >>> plain({"loss": float("nan"), "steps": [1, 2.5]})
      {'loss': None, 'steps': [1, 2.5]}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # a NumPy number or array
        return plain(value.tolist())
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{value!r} has no JSON form")


def found(path: Path) -> Dict[str, Any]:
    """The mapping in a file; an empty one where there is no file, or no whole one yet.

    Example:
      >>> found(Path("nowhere.json"))
      {}
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def line(value: Any) -> str:
    """One line of JSON, with its end of line."""
    return json.dumps(plain(value), allow_nan=False) + "\n"


def document(value: Any) -> str:
    """Indented JSON for people."""
    return json.dumps(plain(value), allow_nan=False, indent=2) + "\n"
