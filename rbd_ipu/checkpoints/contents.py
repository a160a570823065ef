"""What a checkpoint holds of a Trainer: its variables, group by group, and what its method is."""

from typing import Any, Dict, List, Tuple

import numpy as np

from rbd_ipu._stack import KERAS_3, tf
from rbd_ipu.methods import METHODS, Method
from rbd_ipu.methods.base import options_of

_PLAIN = (bool, int, float, str, type(None))


def variables(trainer: Any) -> Dict[str, List[Tuple[str, Any]]]:
    """Every variable that a step reads or changes, as (name, variable), in an order that is the model's own.

    The groups are ``model`` (weights, moving statistics and, with Keras 3, the states of random layers),
    ``optimizer`` (number of steps, learning rate, velocities) and ``method`` (its slots).
    """
    optimizer = trainer.optimizer
    if KERAS_3:
        known = list(optimizer.variables)
    else:
        known = list(optimizer.variables())
        if isinstance(optimizer.learning_rate, tf.Variable):  # no variable of the optimizer's to Keras 2
            known.append(optimizer.learning_rate)
    return {
        "model": [(_name(v), v) for v in trainer.model.variables],
        "optimizer": [(_name(v), v) for v in known],
        "method": sorted(trainer.method.slots.items()),
    }


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def shape_of(variable: Any) -> List[int]:
    """The shape in plain numbers."""
    return [int(length) for length in variable.shape]


def dtype_of(variable: Any) -> str:
    """The type as its NumPy name, whichever Keras the variable is of."""
    return str(tf.as_dtype(variable.dtype).name)


def stored(variable: Any) -> np.ndarray:
    """The value in a type that a checkpoint holds: bfloat16 as float32, which is exact."""
    value = np.asarray(variable.numpy())
    return value if value.dtype.kind in "biuf" else value.astype(np.float32)


def described(method: Method) -> Dict[str, Any]:
    """The method with d, D and those of its hyper-parameters that are plain values.

    Example:
      >>> from rbd_ipu import methods
      >>> described(methods.create("sgd", learning_rate=0.5))
      {'name': 'sgd', 'd': 0, 'D': 0, 'learning_rate': 0.5, 'momentum': 0.0}
    """
    names, _ = options_of(METHODS.get(method.name))
    options = {name: getattr(method, name, None) for name in names if name != "dim"}  # d is what became of it
    plain = {name: value for name, value in options.items() if isinstance(value, _PLAIN)}
    return {"name": method.name, "d": method.dim, "D": method.size, **plain}
