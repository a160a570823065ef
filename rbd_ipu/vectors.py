"""How alike two parameter vectors are: cosine and Pearson correlation, as pure functions."""

from typing import Any, Tuple

from rbd_ipu._compat import tf


def likeness(u: Any, g: Any) -> Tuple[Any, Any]:
    """Cosine and Pearson sample correlation of two vectors [D]; 0 where one of them does not vary.

        cosine  = <u, g> / (|u| |g|)
        pearson = <u - mean(u), g - mean(g)> / (|u - mean(u)| |g - mean(g)|)

    The paper reports the correlation of the update with the full gradient (Section 4.5, Table 3, Fig. B.7);
    over the flat vector here, where the first public implementation averages cosines over variables.

    Example:
      >>> cosine, pearson = likeness(tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0, 4.0, 6.0]))
      >>> float(tf.round(1e4 * cosine)), float(tf.round(1e4 * pearson))
      (10000.0, 10000.0)
    """
    n = tf.cast(tf.size(u), tf.float32)
    mean_u, mean_g = tf.reduce_mean(u), tf.reduce_mean(g)
    # Three times as fast as tensordot, on vectors of this length.
    uu, gg, ug = 2 * tf.nn.l2_loss(u), 2 * tf.nn.l2_loss(g), tf.reduce_sum(u * g)
    # Centred sums by the shift formula: the means of gradients are small beside their norms.
    cuu, cgg, cug = uu - n * mean_u**2, gg - n * mean_g**2, ug - n * mean_u * mean_g
    cosine = tf.math.divide_no_nan(ug, tf.sqrt(uu) * tf.sqrt(gg))
    pearson = tf.math.divide_no_nan(cug, tf.sqrt(tf.maximum(cuu, 0.0)) * tf.sqrt(tf.maximum(cgg, 0.0)))
    return cosine, pearson
