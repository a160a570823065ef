"""Checks of numbers that users pass; every message quotes what came and what is accepted."""

import math
import numbers
from typing import Any


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


def learning_rate(value: Any) -> Any:
    """A finite float >= 0, or a schedule, callable, variable or tensor as Keras takes it, unchanged."""
    if callable(value) or hasattr(value, "dtype") and not isinstance(value, numbers.Real):
        return value
    return finite_float("learning_rate", value)


def seed(value: Any) -> int:
    """A seed as an int of at most 64 bits."""
    if not _is_number(value, numbers.Integral):
        raise TypeError(f"seed must be an integer of at most 64 bits, got {value!r}")
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"seed must be an integer of at most 64 bits, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value
