"""Random changes to training images, as in Section 4 of the paper: functions of (images, seed).

All images of a batch are changed at once, each by its own random numbers. The paper pads 28 pixels
by 3 and 32 by 4 on each side before it crops: an eighth of the side, which is the rule here for any
size.
"""

from typing import Any, Optional, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.checks import Registry

AUGMENTATIONS = Registry("augmentation")  # rows: (images, seed) -> images


def draws(seed: Any, kinds: int, count: int) -> Any:
    """Numbers uniform in [0, 1): a row for each thing to decide, a column for each image."""
    return tf.random.stateless_uniform([kinds, count], seed)


def padding(images: Any) -> Tuple[int, int]:
    """Pixels to pad above and below, and left and right: an eighth of height and width."""
    return images.shape[1] // 8, images.shape[2] // 8


def corners(uniform: Any, pad: Tuple[int, int]) -> Any:
    """Row and column of the padded image where the crop begins, int32 [2, n] in 0 .. 2 pad."""
    choices = tf.constant([[2 * pad[0] + 1], [2 * pad[1] + 1]], tf.float32)
    return tf.cast(tf.floor(uniform * choices), tf.int32)


@AUGMENTATIONS.register("none")
def none(images: Any, seed: Any) -> Any:
    """The images as they are."""
    return images


@AUGMENTATIONS.register("pad_crop")
def pad_crop(images: Any, seed: Any) -> Any:
    """Pads with zeros and crops back to the size at a random place: a random shift.

    Args:
      images: float32 [n, height, width, channels].
      seed: int32 [2].

    Returns:
      float32 [n, height, width, channels].
    """
    return _shift(images, draws(seed, 2, count_of(images)))


@AUGMENTATIONS.register("pad_crop_brightness")
def pad_crop_brightness(images: Any, seed: Any, max_delta: float = 0.5) -> Any:
    """:func:`pad_crop`, then adds to each image a number from [-max_delta, max_delta).

    Nothing is clipped. For MNIST and Fashion-MNIST in the paper; takes and returns what
    :func:`pad_crop` does.
    """
    uniform = draws(seed, 3, count_of(images))
    delta = _brightness(seed, count_of(images), max_delta)
    return _shift(images, uniform[:2]) + delta[:, tf.newaxis, tf.newaxis, tf.newaxis]


@AUGMENTATIONS.register("pad_crop_flip")
def pad_crop_flip(images: Any, seed: Any) -> Any:
    """:func:`pad_crop`, then mirrors each image left to right with probability 1/2.

    For CIFAR-10 in the paper; takes and returns what :func:`pad_crop` does.
    """
    n, pad = count_of(images), padding(images)
    height, width, channels = images.shape[1:]
    uniform = draws(seed, 3, n)
    corner = corners(uniform[:2], pad)
    mirrored = uniform[2][:, tf.newaxis] < 0.5
    columns = tf.where(mirrored, tf.range(width - 1, -1, -1), tf.range(width))
    # One gather of pixels crops and mirrors: half the time of a crop and a reverse.
    padded_height, padded_width = height + 2 * pad[0], width + 2 * pad[1]
    rows = tf.range(n)[:, tf.newaxis] * padded_height + corner[0][:, tf.newaxis] + tf.range(height)
    columns = corner[1][:, tf.newaxis] + columns
    pixels = rows[:, :, tf.newaxis] * padded_width + columns[:, tf.newaxis, :]
    padded = tf.pad(images, [[0, 0], [pad[0], pad[0]], [pad[1], pad[1]], [0, 0]])
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def _brightness(seed: Any, count: Any, max_delta: float = 0.5) -> Any:
    """What :func:`pad_crop_brightness` adds to each image: [n]."""
    return (2.0 * draws(seed, 3, count)[2] - 1.0) * max_delta


def parts_of(augment: Any) -> Optional[Tuple[Any, Any]]:
    """An augmentation as (what moves pixels, what is added to each image); None where it is not known to be both.

    The first, (images, seed) -> images, makes no grey value that was not there, but for 0: it may be done on bytes.
    The second is (seed, n) -> [n]. Each may be None: nothing is moved, or added.
    """
    return _PARTS.get(augment)


_PARTS = {
    None: (None, None),
    none: (None, None),
    pad_crop: (pad_crop, None),
    pad_crop_flip: (pad_crop_flip, None),
    pad_crop_brightness: (
        lambda images, seed: _shift(images, draws(seed, 3, count_of(images))[:2]),
        _brightness,
    ),
}


def count_of(images: Any) -> Any:
    """The number of images: an int where it is static, else a tensor."""
    return images.shape[0] if images.shape[0] is not None else tf.shape(images)[0]


def _shift(images: Any, uniform: Any) -> Any:
    pad = padding(images)
    # A glimpse begins at its offset and reads zeros over the edge, which saves the padding.
    offset = corners(uniform, pad) - tf.constant([[pad[0]], [pad[1]]])
    return tf.image.extract_glimpse(
        images,
        images.shape[1:3],
        tf.cast(tf.transpose(offset), tf.float32),
        centered=False,
        normalized=False,
        noise="zero",
    )
