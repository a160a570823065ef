"""The powers of two that learning rates are chosen from."""

import math
from typing import Any, List

from rbd_ipu.strict_yaml import YamlError, scalar

HIGHEST, LOWEST = 7, -19  # the exponents of the paper (Section C.1)


def written(exponent: int) -> str:
    """A power of two as settings write it.

    Example:
      >>> written(-3)
      '2**-3'
    """
    return f"2**{exponent}"


def read_exponent(text: Any) -> int:
    """The exponent of a power of two, given as a number or as text: 2**-3, 2^-3 or 0.125.

    Raises:
      ValueError: it is no power of two, or not one of float32.

    Example:
      >>> [read_exponent(text) for text in ("2**7", "2^-3", "0.25", 1)]
      [7, -3, -2, 0]
    """
    try:
        value = scalar(str(text).replace("^", "**"))
    except YamlError as error:
        raise ValueError(str(error)) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        mantissa, exponent = math.frexp(value)
        if mantissa == 0.5:
            return exponent - 1
    raise ValueError(f"must be a power of two such as 2**-3, 2^-3 or 0.125, not {text!r}")


def exponents(first: int = HIGHEST, last: int = LOWEST) -> List[int]:
    """All exponents from ``first`` to ``last``, both included, in the order in which they are tried.

    Example:
      >>> exponents(1, -2)
      [1, 0, -1, -2]
    """
    return list(range(first, last - 1, -1)) if first >= last else list(range(first, last + 1))
