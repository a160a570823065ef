"""A fingerprint of the weights: equal weights give equal ones, others almost surely do not."""

from typing import Any, Sequence

from rbd_ipu._stack import tensors, tf
from rbd_ipu.directions.hashing import FIRST, hash32


def fingerprint(variables: Sequence[Any]) -> Any:
    """sum_j hash32(bits of w_j + j * FIRST), over all entries of all float32 variables: int32 scalar.

    Addition wraps around and does not depend on the order, so that a device may sum as it likes.

    Example:
      >>> first, same, other = (int(fingerprint([tf.Variable(w)])) for w in ([1.0, 2.0], [1.0, 2.0], [2.0, 1.0]))
      >>> first == same, first == other
      (True, False)
    """
    total, before = tf.constant(0), 0
    for variable in tensors(variables):
        words = tf.bitcast(tf.reshape(tf.cast(variable, tf.float32), [-1]), tf.int32)
        count = int(words.shape[0])
        total += tf.reduce_sum(hash32(words + (before + tf.range(count)) * FIRST))
        before += count
    return total
