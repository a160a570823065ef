"""The fully connected network of the paper."""

from typing import Any, List, Tuple

from rbd_ipu.models.initialisers import glorot

HIDDEN = 128


def fc(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Flatten, dense 128 with ReLU, dense to the classes.

    101,770 parameters for 28 x 28 x 1 and ten classes, 394,634 for 32 x 32 x 3; any shape will do.
    """
    from rbd_ipu._stack import keras

    layers = keras.layers
    return [
        layers.Flatten(name="flatten"),
        layers.Dense(HIDDEN, activation="relu", kernel_initializer=glorot(seed, "hidden"), name="hidden"),
        layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits"),
    ]
