"""Adapter to Keras 3: the stock SGD with its gradients replaced by updates from the subspace.

Keras calls ``_all_reduce_sum_gradients`` once for each optimizer step: after it has accumulated and clipped the
gradients, before it applies them. It is a private hook; a test fails loudly should Keras move it.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from rbd_ipu._stack import keras, tf

Pairs = List[Tuple[Any, Any]]

if not hasattr(keras.optimizers.SGD, "_all_reduce_sum_gradients"):
    raise ImportError(
        f"Keras {keras.__version__} has no hook between clipping and applying gradients "
        "(_all_reduce_sum_gradients); rbd_ipu's optimizers do not know this version. The Trainer works without it"
    )


class SubspaceSGD(keras.optimizers.SGD):
    """Calls ``self.descend(pairs)`` where Keras would sum gradients over replicas."""

    def descend(self, pairs: Pairs, alike: bool = False) -> Pairs:
        """(gradient, variable) pairs of this replica -> (update, variable) pairs, alike on all replicas.

        ``alike``: the gradients are already those of the whole batch, the same on all replicas.
        """
        raise NotImplementedError

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        """Length of a velocity in coordinates, or None where momentum acts in the full space."""
        return None

    def step_index(self) -> Any:
        """Optimizer steps so far, int32; micro-steps of gradient accumulation do not count."""
        return tf.cast(tf.convert_to_tensor(self.iterations), tf.int32)

    def rate(self) -> Any:
        """The learning rate of this step."""
        return tf.cast(tf.convert_to_tensor(self.learning_rate), tf.float32)

    def described(self, variables: Sequence[Any]) -> List[Any]:
        """The variables as Keras knows them, with their paths."""
        return [self._trainable_variables[self._get_variable_index(v)] for v in variables]

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        length = self.coordinate_slot(variables)
        if length is None:
            super().build(variables)
            return
        keras.optimizers.Optimizer.build(self, variables)  # SGD's would add slots of the size of the model
        self.momentums: List[Any] = []
        self.velocity = self.add_variable([length], initializer="zeros", dtype="float32", name="velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if getattr(self, "velocity", None) is None:
            super().update_step(gradient, variable, learning_rate)
        else:  # the rate is in the velocity already
            self.assign_sub(variable, gradient)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Pairs:
        return self.descend(list(grads_and_vars))

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        return super().from_config(config, custom_objects)
