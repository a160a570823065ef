"""The convolutional network of the paper."""

from typing import Any, List, Tuple

from rbd_ipu.models.initialisers import glorot

FILTERS = (32, 64, 64)
HIDDEN = 64
BORDER = 2  # pixels that a 3 x 3 convolution without padding takes off each side's length
LEAST = BORDER * len(FILTERS) + 1


def pools(side: int) -> Tuple[bool, bool]:
    """Whether to halve the image after the first and after the second of three convolutions.

    Not where the convolutions that follow would run out of pixels; ``side`` is the shorter side of
    the image. From 18 pixels on both are there, as in the paper.

    Example:
      >>> [pools(side) for side in (8, 10, 12, 22, 28)]
      [(False, False), (False, True), (True, False), (True, True), (True, True)]
    """
    pooled = []
    for left in (2, 1):  # convolutions that follow
        side -= BORDER
        pooled.append(side // 2 > BORDER * left)
        if pooled[-1]:
            side //= 2
    return pooled[0], pooled[1]


def cnn(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Three 3x3 convolutions (32, 64, 64, no padding), pools between, dense 64, dense to classes.

    ReLU after each but the last. 93,322 parameters for 28 x 28 x 1 and ten classes, 122,570 for
    32 x 32 x 3. Small images go without a pool, see :func:`pools`: the embedded digits, 8 x 8, have
    none and 72,842 parameters.

    Raises:
      ValueError: a side of the image is shorter than seven pixels.
    """
    from rbd_ipu._stack import keras

    side = min(shape[:2])
    if side < LEAST:
        raise ValueError(f"the network 'cnn' needs images of at least {LEAST} x {LEAST} pixels, got {shape}")

    layers = keras.layers
    stack: List[Any] = []
    for index, (filters, pool) in enumerate(zip(FILTERS, (*pools(side), False)), start=1):
        name = f"conv{index}"
        stack.append(layers.Conv2D(filters, 3, activation="relu", kernel_initializer=glorot(seed, name), name=name))
        if pool:
            stack.append(layers.MaxPooling2D(2, name=f"pool{index}"))
    return [
        *stack,
        layers.Flatten(name="flatten"),
        layers.Dense(HIDDEN, activation="relu", kernel_initializer=glorot(seed, "hidden"), name="hidden"),
        layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits"),
    ]
