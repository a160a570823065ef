"""From stored arrays to what a network sees."""

from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.data.images import Split, checked_labels


class Samples(NamedTuple):
    """Arrays of equal length and how to prepare them: x [n, ...] and y int32 [n]."""

    x: np.ndarray
    y: np.ndarray
    peak: Optional[float] = None  # the value that becomes 1.0; None leaves x as it is
    standardise: bool = False

    @classmethod
    def of(cls, data: Any) -> "Samples":
        """Samples of a :class:`Split` or of a pair of arrays (x, y), checked.

        Raises:
          TypeError, ValueError: x is not numeric, empty, or holds NaN or infinity; y is no vector
            of whole numbers from 0, or of another length.
        """
        if isinstance(data, Split):
            return cls(data.images, data.labels, data.peak, data.standardise)
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"data must be a Split or a pair of arrays (x, y), got {type(data).__name__}")
        x = np.asarray(data[0])
        if x.dtype.kind not in "fiu" or x.ndim < 1 or x.size == 0:
            raise TypeError(f"x must be floats or integers [n, ...] and not empty, got {x.dtype} {list(x.shape)}")
        y = checked_labels(data[1], len(x))
        if x.dtype != np.uint8:  # bytes are stored as they are, a quarter of the memory
            with np.errstate(over="ignore"):
                x = x.astype(np.float32, copy=False)
            if not np.isfinite(x).all():
                raise ValueError("x holds NaN, infinity or numbers beyond float32")
        return cls(x, y)

    def resident(self) -> Tuple[Any, Any]:
        """x and y as tensors in the host's memory."""
        with tf.device("/CPU:0"):
            return tf.constant(self.x), tf.constant(self.y)

    def scaled(self, x: Any) -> Any:
        """A batch of x as float32; the stored value ``peak`` becomes 1."""
        x = tf.cast(x, tf.float32)
        return x if self.peak is None else x / self.peak

    def finished(self, x: Any) -> Any:
        """A scaled and perhaps augmented batch, as the network sees it."""
        return standardised(x) if self.standardise else x


def standardised(images: Any) -> Any:
    """(x - mean) / max(deviation, 1 / sqrt(n)) of each image over its n values.

    The floor keeps an image of one colour from being divided by zero; it is the rule of
    ``tf.image.per_image_standardization``.
    """
    shape = images.shape
    values = int(np.prod(shape[1:]))
    flat = tf.reshape(images, [-1, values])
    centred = flat - tf.reduce_mean(flat, axis=1, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=1, keepdims=True))
    return tf.reshape(centred / tf.maximum(deviation, values**-0.5), [-1, *shape[1:]])
