"""What options of RBD do with coordinates and updates: pure functions."""

from typing import Any, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.methods.transforms import largest
from rbd_ipu.statistics import likeness


def gathered(total: Any, c: Any, due: Any) -> Tuple[Any, Any]:
    """(what to project now, what to keep): the sum of coordinates where it is due, else kept for later.

    Example:
      >>> now, kept = gathered(tf.constant([1.0]), tf.constant([2.0]), due=tf.constant(False))
      >>> now.numpy().tolist(), kept.numpy().tolist()
      ([0.0], [3.0])
    """
    total = total + c
    return tf.where(due, total, tf.zeros_like(total)), tf.where(due, tf.zeros_like(total), total)


def unless_alike(u: Any, g: Any, below: float, ratio: float) -> Any:
    """u, or ratio * g where Pearson's correlation of u and g is below a threshold: [D].

    Example:
      >>> g = tf.constant([1.0, 2.0, 3.0])
      >>> unless_alike(tf.reverse(g, [0]), g, below=0.0, ratio=0.5).numpy().tolist()
      [0.5, 1.0, 1.5]
    """
    return tf.where(likeness(u, g)[1] < below, ratio * g, u)


def lowest_again(draws: Any, c: Any, share: float) -> Any:
    """Numbers of draws [d], one more for the round(share * d) directions with the lowest |c_i|, at least one.

    Example:
      >>> lowest_again(tf.constant([4, 4, 4, 4]), tf.constant([0.3, -0.1, 5.0, -2.0]), 0.5).numpy().tolist()
      [5, 5, 4, 4]
    """
    count = max(1, round(share * c.shape[0]))
    return draws + tf.cast(largest(-tf.abs(c), count), draws.dtype)
