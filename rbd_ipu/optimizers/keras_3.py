"""Adapter to Keras 3: the stock SGD with its gradients replaced by updates from the subspace.

Keras calls ``_all_reduce_sum_gradients`` once for each optimizer step: after it has accumulated and clipped the
gradients, before it applies them. It is a private hook; a test fails loudly should Keras move it.
"""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from rbd_ipu._compat import keras, tf
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.projected import Pairs

# The methods from the projection to the weights.
_WRITE = (
    "_all_reduce_sum_gradients",
    "_backend_update_step",
    "_distributed_tf_update_step",
    "update_step",
    "assign",
    "assign_add",
    "assign_sub",
)

if not all(hasattr(keras.optimizers.SGD, name) for name in _WRITE):
    raise ImportError(
        f"Keras {keras.__version__} has no hook between clipping and applying gradients "
        "(_all_reduce_sum_gradients); rbd_ipu's optimizers do not know this version. The Trainer works without it"
    )


class SubspaceSGD(keras.optimizers.SGD):
    """Calls ``self.descend(pairs)`` where Keras would sum gradients over replicas."""

    def __repr__(self) -> str:  # what tf_keras quotes where it refuses an optimizer
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{kind}: an optimizer of Keras {keras.__version__}, not of tf_keras, the legacy Keras 2>"

    def descend(self, pairs: Pairs) -> Pairs:
        """(gradient, variable) pairs of this replica -> (update, variable) pairs, alike on all replicas."""
        raise NotImplementedError

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        """Length of a velocity in coordinates, or None where momentum acts in the full space."""
        return None

    def restored(self) -> None:
        """The state of the optimizer was read from a file."""

    def step_index(self) -> Any:
        """Optimizer steps so far, int32; micro-steps of gradient accumulation do not count."""
        return tf.cast(tf.convert_to_tensor(self.iterations), tf.int32)

    def rate(self) -> Any:
        """The learning rate of this step."""
        return tf.cast(tf.convert_to_tensor(self.learning_rate), tf.float32)

    def described(self, variables: Sequence[Any]) -> List[Any]:
        """The variables as Keras knows them, with their paths."""
        return [self._trainable_variables[self._get_variable_index(v)] for v in variables]

    _awaited: Any = ()  # weights that were set before there were variables for them

    def build(self, variables: Sequence[Any]) -> None:
        if self.built or not variables:  # Keras builds with none while it reads an .h5 file
            return
        length = self.coordinate_slot(variables)
        if length is None:
            super().build(variables)
        else:
            keras.optimizers.Optimizer.build(self, variables)  # SGD's would add slots of the size of the model
            self.momentums: List[Any] = []
            self.velocity = self.add_variable([length], initializer="zeros", dtype="float32", name="velocity")
        if self._awaited:
            with tf.init_scope():
                self.set_weights(self._awaited)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        projected.refuse_overrides(self, SubspaceSGD, _WRITE)
        self.check_settings()
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        for variable in self._trainable_variables if trainable_variables is None else trainable_variables:
            if variable.constraint is not None:
                raise ValueError(projected.refusal(self, f"the constraint of {variable.name!r} does not"))
            if self._overwrite_variable_with_gradient(variable):
                raise ValueError(projected.refusal(self, f"Keras sets {variable.name!r} to its gradient"))
        super().apply(grads, trainable_variables)

    def check_settings(self) -> None:
        """Refuses settings by which Keras changes weights beside the update."""
        if self.weight_decay:
            raise ValueError(
                projected.refusal(self, f"weight_decay={self.weight_decay!r} moves them in all directions")
                + ". Give the layers an L2 regularizer: its gradient is projected with the rest"
            )
        if self.use_ema and self.ema_overwrite_frequency:
            raise ValueError(
                projected.refusal(
                    self,
                    f"ema_overwrite_frequency={self.ema_overwrite_frequency!r} sets them to an average of old ones",
                )
                + ". With None the average is kept beside them, and `fit` takes it at its end"
            )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        projected.use(self, gradient, variable)
        if getattr(self, "velocity", None) is None:
            super().update_step(gradient, variable, learning_rate)
        else:  # the rate is in the velocity already
            self.assign_sub(variable, gradient)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Pairs:
        return self.descend(list(grads_and_vars))

    def _distributed_tf_update_step(self, distribution: Any, grads_and_vars: Any, learning_rate: Any) -> None:
        pairs = list(grads_and_vars)
        projected.check(self, pairs, distribution)
        super()._distributed_tf_update_step(distribution, pairs, learning_rate)

    def set_weights(self, weights: Sequence[Any]) -> None:
        weights = [np.asarray(weight) for weight in weights]  # they may be those of a file that is closed soon
        if not self.built:
            self._awaited = tuple(weights)
            self._iterations.assign(weights[0])
            return
        rate = self._learning_rate
        # Keras 2 has the learning rate in the configuration; here it is among the weights, after the step.
        if isinstance(rate, keras.Variable) and len(weights) == len(self.variables) - 1:
            weights.insert(1, rate.numpy())
        if len(weights) != len(self.variables):
            raise ValueError(f"the optimizer has {len(self.variables)} variables, not {len(weights)}")
        super().set_weights(weights)
        self.restored()

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.restored()

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        return super().from_config(projected.to_keras_3(config), custom_objects)
