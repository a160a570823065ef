"""Wires: coordinates as what is sent, numbers or 32-bit words. A registry row for each precision.

A narrow message is m integers or halves and one float32, its scale: the largest absolute value of the message. All
workers, the sender too, go on with what the receivers decode, so that their weights stay the same. Rounding is to
nearest, ties to even: the same everywhere, with no random numbers.
"""

from typing import Any, Callable, NamedTuple

from rbd_ipu._stack import tf
from rbd_ipu.registry import Registry

WIRES = Registry("wire")


class Wire(NamedTuple):
    """A precision.

    Attributes:
      bits: of a coordinate.
      encode: message float32 [m] -> float32 [m], or int32 [words] where it is narrow.
      decode: (K of these, m) -> float32 [K, m].
    """

    bits: int
    encode: Callable[[Any], Any]
    decode: Callable[[Any, int], Any]

    def words(self, m: int) -> int:
        """32-bit words of a message of m numbers.

        Example:
          >>> WIRES.get("float32").words(250), WIRES.get("float16").words(250), WIRES.get("int8").words(250)
          (250, 126, 64)
        """
        return -(-m * self.bits // 32) + (0 if self.bits == 32 else 1)


def _scale(message: Any) -> Any:
    """The largest absolute value; 1 where all are 0. NaN stays NaN, so that everybody learns of it."""
    largest = tf.reduce_max(tf.abs(message))
    # reduce_max of some devices passes over a NaN; a sum does not.
    largest += 0.0 * tf.reduce_sum(message)
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

    return Wire(bits, encode, decode)


WIRES.register("float32")(Wire(32, lambda message: message, lambda messages, m: messages))
WIRES.register("float16")(_narrow(tf.float16, 1.0))
WIRES.register("int8")(_narrow(tf.int8, 127.0))
