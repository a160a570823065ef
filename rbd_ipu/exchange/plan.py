"""Plan: how K workers share a step and what they send, as the user says it."""

from typing import Any, NamedTuple

from rbd_ipu.exchange.modes import MODES, Mode
from rbd_ipu.exchange.wire import WIRES

EXCHANGES = ("auto", "coordinates", "update")


class Plan(NamedTuple):
    """How K workers work together.

    Attributes:
      parallel: a row of MODES: "own" (basis and data), "shared" (basis), "same-data", "split" (d over the workers).
      exchange: "coordinates": every worker sends its message, d numbers, and draws all K bases to apply it.
        "update": every worker sends its own step, D numbers, which are averaged; nothing is drawn again.
        "auto": the one that the cost model of :mod:`rbd_ipu.scaling` expects to be faster.
      wire: a row of WIRES, the precision of coordinates on the wire; updates are always float32.
    """

    parallel: str = "own"
    exchange: str = "auto"
    wire: str = "float32"

    @property
    def mode(self) -> Mode:
        """The row of MODES."""
        return MODES.get(self.parallel)


def plan(**choices: Any) -> Plan:
    """A checked :class:`Plan`.

    Raises:
      ValueError: an unknown name, or a precision for updates; quotes what came and what is accepted.

    Example:
      >>> plan(parallel="shared").exchange
      'auto'
      >>> plan(exchange="update", wire="int8")
      Traceback (most recent call last):
      ...
      ValueError: wire 'int8' is for coordinates; with exchange='update' it must be 'float32'
    """
    made = Plan(**choices)
    MODES.get(made.parallel)
    WIRES.get(made.wire)
    if made.exchange not in EXCHANGES:
        accepted = ", ".join(map(repr, EXCHANGES))
        raise ValueError(f"unknown exchange {made.exchange!r}; accepted: {accepted}")
    if made.exchange == "update" and made.wire != "float32":
        raise ValueError(f"wire {made.wire!r} is for coordinates; with exchange='update' it must be 'float32'")
    return made
