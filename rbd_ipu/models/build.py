"""Networks by name."""

from typing import Any, Tuple

import numpy as np

from rbd_ipu.checks import Registry
from rbd_ipu.models.layers import cnn, fc, resnet8, resnet32
from rbd_ipu.seeds import fold_in_numpy

# Rows: (shape, classes, seed) -> the layers, where they are a chain; else the function from images to logits.
NETWORKS = Registry("network")
NETWORKS.register("fc")(fc)
NETWORKS.register("cnn")(cnn)
NETWORKS.register("resnet8")(resnet8)
NETWORKS.register("resnet32")(resnet32)


def build(name: str, shape: Tuple[int, int, int], classes: int = 10, seed: Any = 0) -> Any:
    """Builds a network of the paper with fresh weights.

    Args:
      name: "fc", "cnn", "resnet8" or "resnet32", see :func:`rbd_ipu.models.layers.fc`,
        :func:`rbd_ipu.models.layers.cnn` and :func:`rbd_ipu.models.layers.resnet`.
      shape: (height, width, channels) of an image.
      classes: how many logits there are.
      seed: an int or int32 [2]; the same seed gives the same weights on the same software.

    Returns:
      A built ``keras.Model``: float32 [n, height, width, channels] -> logits [n, classes], which is
      to say no softmax at the end.

    Raises:
      ValueError: the network is unknown, the shape is not three whole numbers from 1, there are
        fewer than two classes, or the image is too small for the network.
      TypeError: the seed is no seed.

    Example:
      >>> build("fc", shape=(28, 28, 1)).count_params()
      101770
    """
    network = NETWORKS.get(name)
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(map(_from_1, shape)):
        raise ValueError(f"shape must be three whole numbers from 1 (h, w, c), got {shape!r}")
    if not _from_1(classes) or classes < 2:
        raise ValueError(f"classes must be a whole number from 2, got {classes!r}")
    fold_in_numpy(seed)
    body = network(tuple(map(int, shape)), int(classes), seed)

    from rbd_ipu._compat import keras

    image = keras.Input(shape, name="image")
    if callable(body):
        return keras.Model(image, body(image), name=name)
    return keras.Sequential([image, *body], name=name)


def _from_1(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return bool(whole and value >= 1)
