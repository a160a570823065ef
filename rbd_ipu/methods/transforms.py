"""What can be made of coordinates before they are used: pure functions [d] -> [d]. A registry row each.

The first public implementation offers them as ``coordinate_transformation`` and ``use_top_directions``; there they
act on each compartment alone, here on the coordinates of all compartments together.
"""

from typing import Any

from rbd_ipu._stack import tf
from rbd_ipu.registry import Registry

TRANSFORMS = Registry("transform")


@TRANSFORMS.register("none")
def unchanged(c: Any) -> Any:
    """c as it is."""
    return c


@TRANSFORMS.register("rank")
def rank(c: Any) -> Any:
    """Ranks, evenly spaced from -1/2 (the lowest) to 1/2 (the highest); equal values share their mean rank.

    The shaping of Salimans et al. 2017: only the order counts, and no outlier weighs more than another. One value
    alone has rank 0, and NaN stays NaN.

    Example:
      >>> rank(tf.constant([3.0, -7.0, 1.0, 1.0, 90.0])).numpy().tolist()
      [0.25, -0.5, -0.125, -0.125, 0.5]
    """
    ordered = tf.sort(c)
    below = tf.searchsorted(ordered, c, side="left")
    up_to = tf.searchsorted(ordered, c, side="right")
    places = tf.cast(below + up_to - 1, c.dtype) / 2.0
    count = c.shape[0]
    shaped = places / (count - 1) - 0.5 if count > 1 else tf.zeros_like(c)
    return tf.where(tf.math.is_nan(c), c, shaped)


@TRANSFORMS.register("range")
def scaled(c: Any) -> Any:
    """(c - min c) / (max c - min c) - 1/2; zeros where all are equal.

    Example:
      >>> scaled(tf.constant([3.0, 1.0, 5.0, 2.0])).numpy().tolist()
      [0.0, -0.5, 0.5, -0.25]
    """
    low, high = tf.reduce_min(c), tf.reduce_max(c)
    return tf.where(high > low, tf.math.divide_no_nan(c - low, high - low) - 0.5, c - c)


def largest(values: Any, k: int) -> Any:
    """1 at the k largest values, 0 elsewhere: float32 [d]; of equal values the first ones count.

    Example:
      >>> largest(tf.constant([3.0, 1.0, 5.0, 5.0]), 2).numpy().tolist()
      [0.0, 0.0, 1.0, 1.0]
    """
    places = tf.math.top_k(values, k).indices
    return tf.scatter_nd(places[:, tf.newaxis], tf.ones([k]), [values.shape[0]])


def top(c: Any, k: int) -> Any:
    """The k coordinates of the largest magnitude, zeros for the others.

    Example:
      >>> top(tf.constant([3.0, -7.0, 1.0]), 2).numpy().tolist()
      [3.0, -7.0, 0.0]
    """
    return c * largest(tf.abs(c), k)
