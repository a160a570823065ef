"""How K workers share a step: which bases and data, what they send, in which format.

A mode says which basis and which data each worker has, a pure function of its index. A wire format says how
coordinates are sent, as numbers or as 32-bit words: a registry row for each precision.

A narrow message is m integers or halves and one float32, its scale: the largest absolute value of the message. All
workers, the sender too, go on with what the receivers decode, so that their weights stay the same. Rounding is to
nearest, ties to even: the same everywhere, with no random numbers. "sign" sends one bit a coordinate, and the mean of
|c| of each block of 4096 in 8 bits.
"""

import math
from typing import Any, Callable, NamedTuple, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.checks import Registry
from rbd_ipu.parallel import wire

MODES = Registry("parallel mode")


class Mode(NamedTuple):
    """A way to share the work of a step.

    Attributes:
      own_basis: each worker draws directions of its own; otherwise all draw those of worker 0.
      own_data: each worker reads batches of its own; otherwise all read the same ones.
      adds: the workers' parts are added up, being parts of one step; otherwise their mean is taken.
    """

    own_basis: bool
    own_data: bool
    adds: bool = False


# Algorithm 1 of the paper, right: (1/K) sum_k P_k P_k^T g_k.
MODES.register("own")(Mode(own_basis=True, own_data=True))
# One basis, coordinates averaged: P P^T (1/K) sum_k g_k, the step of one worker on a batch K times as large.
MODES.register("shared")(Mode(own_basis=False, own_data=True))
# K bases for one gradient: (1/K) sum_k P_k P_k^T g.
MODES.register("same-data")(Mode(own_basis=True, own_data=False))
# One basis of d directions, d/K of them drawn by each worker: sum_k P_k P_k^T g_k with P = [P_1 ... P_K].
MODES.register("split")(Mode(own_basis=True, own_data=True, adds=True))


def basis_of(mode: Mode, worker: Any) -> Any:
    """The index that the seed of a worker's directions sees: int32 scalar."""
    return worker if mode.own_basis else tf.zeros_like(worker)


def shard_of(mode: Mode, worker: int, workers: int) -> Tuple[int, int]:
    """(i, n): the worker reads the i-th of n equal parts of the batches.

    Example:
      >>> shard_of(MODES.get("own"), 1, 4), shard_of(MODES.get("same-data"), 1, 4)
      ((1, 4), (0, 1))
    """
    return (worker, workers) if mode.own_data else (0, 1)


def weight_of(mode: Mode, workers: int) -> float:
    """What the mean of the workers' parts is multiplied by."""
    return float(workers) if mode.adds else 1.0


WIRES = Registry("wire")


class Wire(NamedTuple):
    """A precision.

    Attributes:
      bits: of a coordinate.
      encode: message float32 [m] -> float32 [m], or int32 [words] where it is narrow.
      decode: (K of these, m) -> float32 [K, m].
      words: m -> 32-bit words of a message of m numbers.

    Example:
      >>> [WIRES.get(name).words(250) for name in ("float32", "float16", "int8", "sign")]
      [250, 126, 64, 9]
    """

    bits: int
    encode: Callable[[Any], Any]
    decode: Callable[[Any, int], Any]
    words: Callable[[int], int]


def _scale(message: Any) -> Any:
    """The largest absolute value; 1 where all are 0. NaN stays NaN, so that everybody learns of it."""
    # reduce_max of some devices passes over a NaN; a sum does not. (TensorFlow 2.6 takes 0 * x for 0 in a graph.)
    finite = tf.math.is_finite(tf.reduce_sum(message))
    largest = tf.where(finite, tf.reduce_max(tf.abs(message)), math.nan)
    return tf.where(tf.equal(largest, 0.0), tf.ones_like(largest), largest)


def _narrow(kind: Any, levels: float) -> Wire:
    """A wire of numbers of type ``kind``, with ``levels`` standing for the scale."""
    bits = 8 * kind.size
    a_word = 32 // bits

    def encode(message: Any) -> Any:
        scale = _scale(message)
        scaled = message / scale * levels
        numbers = tf.cast(tf.round(scaled) if kind.is_integer else scaled, kind)
        padded = tf.pad(numbers, [[0, -message.shape[0] % a_word]])
        words = tf.bitcast(tf.reshape(padded, [-1, a_word]), tf.int32)
        return tf.concat([tf.bitcast(scale, tf.int32)[tf.newaxis], words], axis=0)

    def decode(words: Any, m: int) -> Any:
        scales = tf.bitcast(words[:, :1], tf.float32)
        numbers = tf.reshape(tf.bitcast(words[:, 1:], kind), [words.shape[0], -1])[:, :m]
        return tf.cast(numbers, tf.float32) * (scales / levels)

    return Wire(bits, encode, decode, lambda m: -(-m * bits // 32) + 1)


def _in_blocks(name: str) -> Wire:
    """A row of :data:`rbd_ipu.parallel.wire.VALUES` for all numbers of a message, with a scale for each block."""

    def encode(message: Any) -> Any:
        shapes = wire.all_of(message.shape[0])
        return wire.pack(name, shapes, wire.encode(name, wire.cut(message, shapes)))

    def decode(words: Any, m: int) -> Any:
        rows = [wire.decode(name, wire.unpack(name, wire.all_of(m), row)) for row in tf.unstack(words)]
        return tf.stack([wire.joined([values for _, values in row]) for row in rows])

    def length(m: int) -> int:
        return -(-wire.message_bytes(name, wire.all_of(m)) // 4)

    return Wire(wire.VALUES.get(name).bits, encode, decode, length)


#: Of messages that go as they are.
AS_IT_IS = Wire(32, lambda message: message, lambda messages, m: messages, lambda m: m)
WIRES.register("float32")(AS_IT_IS)
WIRES.register("float16")(_narrow(tf.float16, 1.0))
WIRES.register("bfloat16")(_in_blocks("bfloat16"))
WIRES.register("int8")(_narrow(tf.int8, 127.0))
WIRES.register("sign")(_in_blocks("sign"))


EXCHANGES = ("auto", "coordinates", "update")


class Plan(NamedTuple):
    """How K workers work together.

    Attributes:
      parallel: a row of MODES: "own" (basis and data), "shared" (basis), "same-data", "split" (d over the workers).
      exchange: "coordinates": every worker sends its message, d numbers, and draws all K bases to apply it.
        "update": every worker sends its own step, D numbers, which are averaged; nothing is drawn again.
        "auto": the one that the cost model of :mod:`rbd_ipu.parallel.cost_model` expects to be faster.
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
