"""Adapter to Keras 2.6, the IPU stack: the stock SGD with its gradients replaced by updates from the subspace.

Keras calls ``_aggregate_gradients`` once for each optimizer step, also on an IPU. It clips afterwards, in
``_transform_gradients``; here gradients are clipped before they are projected. What is clipped is the gradient of the
whole batch, as with Keras' SGD: then all replicas first send their gradients, D numbers, and no coordinates.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from rbd_ipu._stack import keras, tf
from rbd_ipu.optimizers import replicas

Pairs = List[Tuple[Any, Any]]

_IN_SUBSPACE = "_rbd_ipu_in_subspace"  # marks tensors that were projected already


class SubspaceSGD(keras.optimizers.SGD):
    """Calls ``self.descend(pairs)`` where Keras would sum gradients over replicas."""

    velocity: Optional[Any] = None

    def descend(self, pairs: Pairs, alike: bool = False) -> Pairs:
        """(gradient, variable) pairs of this replica -> (update, variable) pairs, alike on all replicas.

        ``alike``: the gradients are already those of the whole batch, the same on all replicas.
        """
        raise NotImplementedError

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        """Length of a velocity in coordinates, or None where momentum acts in the full space."""
        return None

    def step_index(self) -> Any:
        """Optimizer steps so far, int32: an IPU keeps no more of the int64 counter."""
        return tf.cast(self.iterations, tf.int32)

    def rate(self) -> Any:
        """The learning rate of this step."""
        return self._decayed_lr(tf.float32)

    def described(self, variables: Sequence[Any]) -> List[Any]:
        """The variables as Keras knows them."""
        return list(variables)

    def apply_gradients(
        self, grads_and_vars: Any, name: Any = None, experimental_aggregate_gradients: bool = True
    ) -> Any:
        pairs = list(grads_and_vars)
        # Keras' LossScaleOptimizer aggregates by itself, to see whether all is finite, and applies what it got.
        projected = bool(pairs) and all(hasattr(update, _IN_SUBSPACE) for update, _ in pairs)
        if not (experimental_aggregate_gradients or projected):
            raise ValueError(
                f"{type(self).__name__} projects gradients where it aggregates them, so "
                "experimental_aggregate_gradients=False would train without a subspace; leave it True"
            )
        return super().apply_gradients(pairs, name, experimental_aggregate_gradients)

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        length = self.coordinate_slot(var_list)
        if length is None:
            super()._create_slots(var_list)
        elif self.velocity is None:
            self.velocity = self.add_weight("velocity", [length], initializer="zeros", trainable=False)
            self._weights.append(self.velocity)

    def _aggregate_gradients(self, grads_and_vars: Any) -> Pairs:
        pairs = list(grads_and_vars)
        with tf.init_scope():  # a LossScaleOptimizer asks before there is a velocity
            self._create_all_weights([variable for _, variable in pairs])
        alike = self._changes_gradients() and not replicas.alone()
        if alike:
            pairs = replicas.whole_batch(pairs)
        updates = self.descend(super()._transform_gradients(pairs), alike)
        for update, _ in updates:
            setattr(update, _IN_SUBSPACE, True)
        return updates

    def _transform_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars

    def _changes_gradients(self) -> bool:
        """Whether a step clips or transforms gradients, which of parts of a batch is not what it is of the whole."""
        clips = (self.clipnorm, self.clipvalue, self.global_clipnorm)
        return bool(self.gradient_transformers) or any(bound is not None for bound in clips)

    def _resource_apply_dense(self, grad: Any, var: Any, apply_state: Any = None) -> Any:
        if self.velocity is None:
            return super()._resource_apply_dense(grad, var, apply_state)
        return var.assign_sub(grad, use_locking=self._use_locking)  # the rate is in the velocity already

    def get_config(self) -> Dict[str, Any]:
        config = super().get_config()
        # Keras 2 saves an optimizer's step in .h5 files and checkpoints, but not in SavedModels, where only the
        # configuration survives; without the step, a restored run would draw the bases of the first steps again.
        if self._iterations is not None and tf.executing_eagerly():
            config["iterations"] = int(self.iterations.numpy())
        return config

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        iterations = config.pop("iterations", 0)
        optimizer = super().from_config(config, custom_objects)
        if iterations:
            optimizer.iterations.assign(iterations)
        return optimizer
