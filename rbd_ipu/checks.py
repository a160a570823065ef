"""Checks of what users pass, and tables of named rows.

Checks of numbers that users pass; every message quotes what came and what is accepted.

Named rows: one table drives the API, the command line's choices and the conformance tests.
"""

import math
import numbers
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple, TypeVar

import numpy as np


def _is_number(value: Any, kind: Any) -> bool:
    # A bool is an int to Python, but never what a caller means by a number.
    return isinstance(value, kind) and not isinstance(value, bool)


def positive_int(name: str, value: Any) -> int:
    """``value`` as an int >= 1.

    Raises:
      TypeError: it is not an integer.
      ValueError: it is less than 1.
    """
    if not _is_number(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


def finite_float(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """``value`` as a float in [low, high], finite.

    Raises:
      TypeError: it is not a real number.
      ValueError: it is NaN, infinite or out of range.
    """
    accepted = f"a finite number >= {low:g}" if high == math.inf else f"a number in [{low:g}, {high:g}]"
    if not _is_number(value, numbers.Real):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
    return float(value)


FLOAT32 = "1.2e-38 to 3.4e38"  #: the normal numbers of float32, in words; TensorFlow takes smaller ones for 0


def is_float32(value: float) -> bool:
    """Whether a number above 0 is so in float32 too, and finite.

    Example:
      >>> is_float32(2.0**-126), is_float32(1e-60), is_float32(1e39)
      (True, False, False)
    """
    return 2.0**-126 <= value <= (2 - 2.0**-23) * 2.0**127


def learning_rate(value: Any) -> Any:
    """A rate, or a schedule, callable, variable or tensor as Keras takes it, unchanged."""
    if callable(value) or hasattr(value, "dtype") and not isinstance(value, numbers.Real):
        return value
    return rate("learning_rate", value)


def rate(name: str, value: Any) -> float:
    """``value`` as a float, which is 0 or one that float32 holds.

    Raises:
      TypeError: it is not a real number.
      ValueError: it is negative, NaN or infinite, or would be 0 or infinite in float32.
    """
    found = finite_float(name, value)
    if found and not is_float32(found):
        raise ValueError(f"{name} must be 0 or a number in float32, {FLOAT32}, got {value!r}")
    return found


def seed(value: Any) -> int:
    """A seed as an int of at most 64 bits."""
    if not _is_number(value, numbers.Integral):
        raise TypeError(f"seed must be an integer of at most 64 bits, got {value!r}")
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"seed must be an integer of at most 64 bits, got {value!r}")
    return int(value)


def one_of(name: str, value: Any, accepted: Sequence[str]) -> str:
    """``value`` if it is one of the accepted words.

    Raises:
      ValueError: it is not; quotes it and them.
    """
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}; accepted: {', '.join(map(repr, accepted))}")
    return value


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


Row = TypeVar("Row")


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """``labels`` as int32 [count], or an error that says what is wrong with them."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TypeError(
            "labels must be whole numbers [n], one class index an image (not one-hot), "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if len(labels) != count:
        raise ValueError(f"{count} inputs but {len(labels)} labels")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"labels must lie in 0 .. 2**31 - 1, got {labels.min()} .. {labels.max()}")
    return labels.astype(np.int32)


class Registry:
    """A table from names to objects that refuses unknown and doubled names.

    Args:
      kind: what a row is, for the messages ("distribution", "method", ...).

    Example:
      >>> colours = Registry("colour")
      >>> colours.register("red")("#f00")
      '#f00'
      >>> colours.get("red")
      '#f00'
      >>> colours.get("blue")
      Traceback (most recent call last):
      ...
      ValueError: unknown colour 'blue'; accepted: 'red'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._rows: Dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Row], Row]:
        """Returns a decorator that adds a row called ``name``."""
        if name in self._rows:
            raise ValueError(f"{self.kind} {name!r} is already registered")

        def add(row: Row) -> Row:
            self._rows[name] = row
            return row

        return add

    def get(self, name: str) -> Any:
        """Returns the row called ``name``; a ValueError quotes what came and what is accepted."""
        if not isinstance(name, str) or name not in self._rows:
            accepted = ", ".join(repr(row) for row in self._rows)
            raise ValueError(f"unknown {self.kind} {name!r}; accepted: {accepted}")
        return self._rows[name]

    def names(self) -> Tuple[str, ...]:
        return tuple(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
