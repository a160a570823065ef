"""From stored arrays to what a network sees."""

from typing import Any, NamedTuple, Optional

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.data.images import Split, checked_labels


class Samples(NamedTuple):
    """Arrays of equal length and how to prepare them.

    x is [n, ...]; y is int32 [n] or, of a pair of arrays, int32 or float32 [n, ...]; weights are float32 [n, ...] or
    None. Of arrays each may be several: a tuple or a dict of them.
    """

    x: Any
    y: Any
    peak: Optional[float] = None  # the value that becomes 1.0; None leaves x as it is
    standardise: bool = False
    weights: Any = None

    @classmethod
    def of(cls, data: Any) -> "Samples":
        """Samples of a :class:`Split`, or of arrays (x, y) or (x, y, weights), checked.

        Raises:
          TypeError, ValueError: x is not numeric, or empty; y or weights are not numeric, of another length, or y is
            a vector of whole numbers below 0; one of them holds NaN or infinity.
        """
        if isinstance(data, Split):
            return cls(data.images, data.labels, data.peak, data.standardise)
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise TypeError(f"data must be a Split or arrays (x, y) or (x, y, weights), got {type(data).__name__}")
        x, y, *more = map(several, data)
        count = len(np.asarray(tf.nest.flatten(x)[0])) if np.ndim(tf.nest.flatten(x)[0]) else 0
        weights = tf.nest.map_structure(lambda w: _weights(w, count), more[0]) if more else None
        x = tf.nest.map_structure(lambda part: _inputs(part, count), x)
        return cls(x, tf.nest.map_structure(lambda part: _targets(part, count), y), weights=weights)

    @property
    def size(self) -> int:
        """n."""
        return len(tf.nest.flatten(self.x)[0])

    @property
    def parts(self) -> Any:
        """(x, y) or (x, y, weights)."""
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)

    def resident(self) -> Any:
        """The parts as tensors in the host's memory."""
        with tf.device("/CPU:0"):
            return tf.nest.map_structure(tf.constant, self.parts)

    def scaled(self, x: Any) -> Any:
        """A batch of x as float32; the stored value ``peak`` becomes 1."""
        x = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), x)
        return x if self.peak is None else x / self.peak

    def finished(self, x: Any) -> Any:
        """A scaled and perhaps augmented batch, as the network sees it."""
        return standardised(x) if self.standardise else x


def several(part: Any) -> Any:
    """One array as it is; several, in a tuple, a dict or a list of arrays, as a tuple or a dict."""
    if isinstance(part, dict):
        return {name: several(value) for name, value in part.items()}
    if isinstance(part, tuple) or (isinstance(part, list) and part and all(map(_is_array, part))):
        return tuple(map(several, part))
    return np.asarray(part)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0


def _inputs(x: np.ndarray, count: int) -> np.ndarray:
    if x.dtype.kind not in "fiu" or x.ndim < 1 or x.size == 0:
        raise TypeError(f"x must be floats or integers [n, ...] and not empty, got {x.dtype} {list(x.shape)}")
    if len(x) != count:
        raise ValueError(f"several inputs must be of one length, got {count} and {len(x)}")
    if x.dtype.kind in "iu" and x.itemsize > 2 and np.abs(x.astype(np.float64)).max() > 2**24:
        raise ValueError(
            "x holds whole numbers beyond 2^24, which float32 does not tell apart: use a tf.data.Dataset"
        )
    # Bytes are stored as they are, a quarter of the memory.
    return x if x.dtype == np.uint8 else _float32("x", x)


def _weights(w: np.ndarray, count: int) -> np.ndarray:
    if w.dtype.kind not in "fiub" or w.ndim < 1:
        raise TypeError(f"weights must be numbers [n, ...], got {w.dtype} {list(w.shape)}")
    if len(w) != count:
        raise ValueError(f"{count} inputs but {len(w)} weights")
    return _float32("weights", w)


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
