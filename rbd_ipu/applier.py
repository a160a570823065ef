"""The optimizer of a model that a Trainer trains: it applies the updates of the Trainer's method, and nothing else.

A stock SGD would do that too. But it would stay with the model, at the learning rate of a random subspace, and
``model.fit``, or a file of the model, would go on with plain SGD at a rate a hundred times too large.
"""

from typing import Any, NoReturn, Sequence, Tuple

from rbd_ipu._stack import KERAS_3, keras


class Applier(keras.optimizers.SGD):
    """Keras' SGD with its learning rate, momentum and count of steps, for a Trainer alone.

    A model with it is saved without an optimizer, in whatever format, and loads uncompiled. ``model.fit`` refuses it.
    """

    def __bool__(self) -> bool:
        """False: Keras asks ``if model.optimizer`` before it saves one with the model."""
        return False

    def apply_gradients(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            "this model has the optimizer of rbd_ipu.Trainer, which applies its method's updates only: "
            "before you train it otherwise, compile it with an optimizer for that, such as "
            "model.compile(optimizer=rbd_ipu.RandomBasesDescent(...), loss=...)"
        )

    def subtract(self, pairs: Sequence[Tuple[Any, Any]]) -> None:
        """Subtracts (update, variable) pairs that all workers hold alike, at the learning rate."""
        if KERAS_3:
            updates, variables = zip(*pairs)
            super().apply(updates, variables)
        else:
            super().apply_gradients(pairs, experimental_aggregate_gradients=False)

    if KERAS_3:
        apply = apply_gradients

        def save_own_variables(self, store: Any) -> None:
            """Nothing: a file of weights would set the learning rate of any SGD that it is loaded beside."""

        def load_own_variables(self, store: Any) -> None:
            """Nothing: neither files of this optimizer nor those of another have anything for it."""


def give(model: Any, optimizer: Applier) -> None:
    """Makes an optimizer the model's, however the model was compiled, and nothing that is saved with it."""
    model.optimizer = optimizer
    model.train_function = None  # traced with another one
    if not KERAS_3:
        model._delete_tracking("optimizer")  # as Keras does where it saves a model without
    elif hasattr(model, "_compile_config"):
        del model._compile_config  # what a file is told of the optimizer
