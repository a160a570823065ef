"""What a setting may be: each kind knows its rule, says it in words and checks a value against it.

``kind.check(value)`` gives the value in its own type, or raises a ConfigError that quotes what came
and what is accepted. ``str(kind)`` is the same rule for ``--help``.
"""

import difflib
import math
import numbers
import re
from typing import Any, Iterable, Optional, Tuple

from rbd_ipu.errors import ConfigError


def instead_of(name: Any, known: Iterable[str], accepted: Optional[Iterable[str]] = None) -> str:
    """What an unknown name may stand for, and all that are accepted, which are the known ones unless given.

    Example:
      >>> instead_of("dimm", ["dim", "seed"])
      'did you mean dim? accepted: dim, seed'
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}accepted: {', '.join(known if accepted is None else accepted)}"


def _quoted(value: Any) -> str:
    """A value as the user may have written it, with what it was read as."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'mapping'}"
    return repr(value)


class Kind:
    """One sort of value: its ``rule`` in words, and ``read``, which gives None to refuse."""

    rule: str

    def read(self, value: Any) -> Any:
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """Returns the value in its own type.

        Raises:
          ConfigError: with the rule and what came.
        """
        result = self.read(value)
        if result is None:
            raise ConfigError(f"must be {self.rule}, not {_quoted(value)}")
        return result

    def __str__(self) -> str:
        return self.rule


class Choice(Kind):
    """One of a few names.

    Example:
      >>> Choice("cpu", "gpu").check("gpu")
      'gpu'
    """

    def __init__(self, *names: str):
        self.names: Tuple[str, ...] = names
        self.rule = " | ".join(names)

    def read(self, value: Any) -> Optional[str]:
        return value if isinstance(value, str) and value in self.names else None

    def check(self, value: Any) -> str:
        if self.read(value) is None:
            raise ConfigError(f"must be one of {', '.join(self.names)}, not {_quoted(value)}")
        return value


class ChoiceOrPath(Choice):
    """One of a few names, some with a number behind them, or the path of a file with a certain ending.

    Example:
      >>> device = ChoiceOrPath(".yaml", "cpu", "gpu", several=("gpu",))
      >>> device.check("ipu_configs/pod16.yaml"), device.check("gpu:4")
      ('ipu_configs/pod16.yaml', 'gpu:4')
    """

    def __init__(self, ending: str, *names: str, several: Tuple[str, ...] = ()):
        super().__init__(*names)
        self.ending = ending
        self.several = several
        self._accepted = [*names, *(f"{name}:N" for name in several)]
        self.rule = " | ".join([*self._accepted, f"a path that ends in {ending}"])

    def read(self, value: Any) -> Optional[str]:
        if not isinstance(value, str):
            return None
        is_path = value.endswith(self.ending) and value != self.ending
        return value if is_path or counted(value)[0] in self.several else super().read(value)

    def check(self, value: Any) -> str:
        if self.read(value) is None:
            accepted = f"{', '.join(self._accepted)} or a path that ends in {self.ending}"
            raise ConfigError(f"must be one of {accepted}, not {_quoted(value)}")
        return value


def counted(name: str) -> Tuple[str, int]:
    """A name and the number behind it, which is 1 where there is none.

    Example:
      >>> counted("gpu:4"), counted("gpu"), counted("gpu:04"), counted("a:b/c.yaml")
      (('gpu', 4), ('gpu', 1), ('gpu:04', 1), ('a:b/c.yaml', 1))
    """
    found = re.fullmatch(r"([a-z]+):([1-9][0-9]{0,2})", name)
    return (found[1], int(found[2])) if found else (name, 1)


class Integer(Kind):
    """An integer in a range; a bool and 3.0 are none."""

    def __init__(self, least: int, most: int = 2**31 - 1):
        self.least, self.most = least, most
        self.rule = f"an integer from {least}" + (f" to {most}" if most != 2**31 - 1 else "")

    def read(self, value: Any) -> Optional[int]:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return None
        number = int(value)
        return number if self.least <= number <= self.most else None

    def check(self, value: Any) -> int:
        try:
            return super().check(value)
        except ConfigError as error:
            beyond = isinstance(value, int) and value > self.most == 2**31 - 1  # a limit that --help leaves out
            raise ConfigError(f"must be {self.rule} to {self.most}, not {value!r}") if beyond else error from None


class Real(Kind):
    """A finite number in [least, below) or [least, most], above 0 for ``positive``; integers are numbers too."""

    def __init__(self, least: float = 0.0, below: float = math.inf, positive: bool = False, most: float = math.inf):
        self.least, self.below, self.positive, self.most = least, below, positive, most
        low = "above 0" if positive else f"from {least:g}"
        high = f" and below {below:g}" if below < math.inf else f" to {most:g}" if most < math.inf else ""
        self.rule = f"a finite number {low}{high}"

    def read(self, value: Any) -> Optional[float]:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every float
            return None
        in_range = self.least <= number < self.below and number <= self.most and (number > 0 or not self.positive)
        return number if math.isfinite(number) and in_range else None


class Boolean(Kind):
    """A truth value; 0, 1 and words are none."""

    rule = "true | false"

    def read(self, value: Any) -> Optional[bool]:
        return value if isinstance(value, bool) else None


class Text(Kind):
    """Text that matches a form, a regular expression; ``rule`` is the form in words."""

    def __init__(self, rule: str, form: str = ".+"):
        self.rule, self.form = rule, re.compile(form)

    def read(self, value: Any) -> Optional[str]:
        return value if isinstance(value, str) and self.form.fullmatch(value) else None
