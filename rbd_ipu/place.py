"""Where a program is being made: what is known of the IPU whose strategy is in scope.

Graphcore's strategies do not say how many replicas run them, nor how large a block of directions their device can
hold; :func:`rbd_ipu.open_device` knows both, and leaves them here for whoever traces under the strategy.
"""

import weakref
from typing import Any, NamedTuple, Optional

from rbd_ipu._stack import tf
from rbd_ipu.checks import positive_int

#: The largest block of directions, in entries: a tenth of the memory of a GC200 (see rbd_ipu/devices/memory.py).
BLOCK_ENTRIES = 20_000_000


class Place(NamedTuple):
    """A device, as far as it is known.

    Attributes:
      entries: the largest block of directions.
      replicas: how many replicas the program has; None where nobody said.
    """

    entries: int = BLOCK_ENTRIES
    replicas: Optional[int] = None


_known: "weakref.WeakKeyDictionary[Any, Place]" = weakref.WeakKeyDictionary()


def settle(strategy: Any, entries: int, replicas: int) -> None:
    """Says what the device of a strategy is."""
    _known[strategy] = Place(positive_int("entries", entries), positive_int("replicas", replicas))


def here() -> Place:
    """What is known of the device whose strategy is in scope.

    Example:
      >>> here()
      Place(entries=20000000, replicas=None)
    """
    return _known.get(tf.distribute.get_strategy(), Place())


def on_ipu() -> bool:
    """Whether the strategy in scope is one of Graphcore's."""
    return type(tf.distribute.get_strategy()).__module__.startswith("tensorflow.python.ipu")
