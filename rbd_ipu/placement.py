"""Where a program is being made: what is known of the IPU whose strategy is in scope.

Graphcore's strategies do not say how many replicas run them, nor how large a block of directions their device can
hold; :func:`rbd_ipu.open_device` knows both, and leaves them here for whoever traces under the strategy.
"""

import contextlib
import weakref
from typing import Any, Dict, Iterator, NamedTuple, Optional

from rbd_ipu.checks import positive_int
from rbd_ipu.seeds import fold_in, fold_in_numpy

#: The largest block of directions, in entries: a tenth of the memory of a GC200 (see rbd_ipu/devices/memory.py).
BLOCK_ENTRIES = 20_000_000


class Placement(NamedTuple):
    """A device, as far as it is known.

    Attributes:
      entries: the largest block of directions.
      replicas: how many replicas the program has; None where nobody said.
      hashing: the integer hash as an operation of the device, :class:`rbd_ipu.devices.ipu.program.Hash`; None where
        TensorFlow's operations do it.
      seeds: the variables from which programs take seeds, by the number that each holds; None where a program may
        have them as constants.
    """

    entries: int = BLOCK_ENTRIES
    replicas: Optional[int] = None
    hashing: Optional[Any] = None
    seeds: Optional[Dict[int, Any]] = None


_known: "weakref.WeakKeyDictionary[Any, Placement]" = weakref.WeakKeyDictionary()


def block_rows(size: int, dim: int, entries: int) -> int:
    """B: directions of a block, the same for all blocks but the last, which may have fewer.

    The fewest blocks that keep B D <= ``entries``, of nearly equal height: 20 directions of which 16 would fit make
    two blocks of 10, not one of 16 and one of 4.

    Args:
      size: D, parameters; for G compartments drawn together G times their size.
      dim: d, directions.
      entries: the largest B D, from :func:`rbd_ipu.devices.memory.block_entries`.

    Raises:
      ValueError: a single direction is longer than ``entries``; cut the parameters into compartments.

    Example:
      >>> block_rows(1_000_000, 20, 16_000_000), block_rows(101_770, 250, 20_000_000)
      (10, 125)
    """
    size, dim = positive_int("size", size), positive_int("dim", dim)
    most = positive_int("entries", entries) // size
    if most < 1:
        raise ValueError(
            f"one direction over {size:,} parameters does not fit a block of {entries:,} entries; "
            "cut the parameters into compartments, or raise block_floats"
        )
    blocks = -(-dim // most)
    return -(-dim // blocks)


def settle(strategy: Any, entries: int, replicas: int, hashing: Optional[Any] = None) -> None:
    """Says what the device of a strategy is."""
    _known[strategy] = Placement(positive_int("entries", entries), positive_int("replicas", replicas), hashing, {})


@contextlib.contextmanager
def as_on_an_ipu(hashing: Any) -> Iterator[Placement]:
    """As if the strategy in scope were an IPU's, with these operations for the integer hash: to trace a program.

    Yields the Placement, whose variables the program lives no longer than.
    """
    from rbd_ipu._compat import tf  # late: `devices check` needs no TensorFlow

    strategy, before = tf.distribute.get_strategy(), here()
    _known[strategy] = before._replace(hashing=hashing, seeds={})
    try:
        yield here()
    finally:
        _known[strategy] = before


def seed_words(seed: Any) -> Any:
    """:func:`rbd_ipu.fold_in` of a seed alone, int32 [2]; on an IPU an argument of the program that is being traced.

    A constant would make another program, to be compiled anew, of every other seed.
    """
    from rbd_ipu._compat import tf

    known = here().seeds
    if known is None or not isinstance(seed, int):
        return fold_in(seed)
    if seed not in known:
        with tf.init_scope():
            known[seed] = tf.Variable(fold_in_numpy(seed), trainable=False, name=f"seed_{len(known)}")
    return tf.convert_to_tensor(known[seed])


def here() -> Placement:
    """What is known of the device whose strategy is in scope.

    Example:
      >>> here()
      Placement(entries=20000000, replicas=None, hashing=None, seeds=None)
    """
    from rbd_ipu._compat import tf

    return _known.get(tf.distribute.get_strategy(), Placement())


def on_ipu() -> bool:
    """Whether the strategy in scope is one of Graphcore's."""
    from rbd_ipu._compat import tf

    return type(tf.distribute.get_strategy()).__module__.startswith("tensorflow.python.ipu")
