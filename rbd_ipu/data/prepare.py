"""From stored arrays to what a network sees."""

from typing import Any, NamedTuple, Optional, Tuple

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.data.images import Split, checked_labels


class Samples(NamedTuple):
    """Arrays of equal length and how to prepare them.

    x is [n, ...]; y is int32 [n] or, of a pair of arrays, int32 or float32 [n, ...].
    """

    x: np.ndarray
    y: np.ndarray
    peak: Optional[float] = None  # the value that becomes 1.0; None leaves x as it is
    standardise: bool = False

    @classmethod
    def of(cls, data: Any) -> "Samples":
        """Samples of a :class:`Split` or of a pair of arrays (x, y), checked.

        Raises:
          TypeError, ValueError: x is not numeric, or empty; y is not numeric, of another length, or a vector of
            whole numbers below 0; one of them holds NaN or infinity.
        """
        if isinstance(data, Split):
            return cls(data.images, data.labels, data.peak, data.standardise)
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"data must be a Split or a pair of arrays (x, y), got {type(data).__name__}")
        x = np.asarray(data[0])
        if x.dtype.kind not in "fiu" or x.ndim < 1 or x.size == 0:
            raise TypeError(f"x must be floats or integers [n, ...] and not empty, got {x.dtype} {list(x.shape)}")
        y = _targets(data[1], len(x))
        # Bytes are stored as they are, a quarter of the memory.
        return cls(x if x.dtype == np.uint8 else _float32("x", x), y)

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


def _targets(y: Any, count: int) -> np.ndarray:
    """Class indices int32 [n], or what else a loss may compare outputs with: int32 or float32 [n, ...]."""
    y = np.asarray(y)
    if y.dtype.kind in "iu" and y.ndim == 1:
        return checked_labels(y, count)
    if y.dtype.kind not in "fiub" or y.ndim < 1:
        raise TypeError(f"y must be class indices [n], or floats or integers [n, ...], got {y.dtype} {list(y.shape)}")
    if len(y) != count:
        raise ValueError(f"{count} inputs but {len(y)} labels")
    if y.dtype.kind == "f":
        return _float32("y", y)
    whole = y.astype(np.int32)
    if not np.array_equal(whole, y):
        raise ValueError("y holds whole numbers beyond int32")
    return whole


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN, infinity or numbers beyond float32")
    return array


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
