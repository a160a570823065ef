"""Adapter to Keras 2.6, the IPU stack: the stock SGD with its gradients replaced by updates from the subspace.

A step, under any strategy and also on an IPU::

    gradients -> aggregated over replicas, clipped, projected (_aggregate_gradients) -> applied (_distributed_apply)

What is clipped is the gradient of the whole batch, before it is projected. Where nothing needs it as a whole, the
replicas exchange its coordinates instead.
"""

import contextlib
import copy
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from rbd_ipu._compat import is_saving_model, keras, tf, writes_saved_model
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.projected import Pairs
from rbd_ipu.placement import on_ipu

# The methods that change weights.
_WRITE = (
    "_distributed_apply",
    "_resource_apply_dense",
    "_resource_apply_sparse",
    "_resource_apply_sparse_duplicate_indices",
)


class _InSavedModel:
    """An optimizer that has its step in its configuration, in a SavedModel and only there.

    Of an optimizer a SavedModel brings back the configuration and no state. Without the step a restored run would
    draw the bases of its first steps again.
    """

    iterations: Any
    owners: Any = None  # projected.Owners, where the state belongs to some variables

    @property
    def _checkpoint_dependencies(self) -> Any:
        known = super()._checkpoint_dependencies  # type: ignore[misc]
        return [own for own in known if own.name != "owners"] if writes_saved_model() or is_saving_model() else known

    def _with_step(self, config: Dict[str, Any]) -> Dict[str, Any]:
        if tf.executing_eagerly() and is_saving_model():
            config["iterations"] = int(self.iterations.numpy())
        return config


class SubspaceSGD(_InSavedModel, keras.optimizers.SGD):
    """Calls ``self.descend(pairs)`` where Keras would sum gradients over replicas."""

    velocity: Optional[Any] = None

    def __init__(self, *args: Any, gradient_aggregator: Any = None, **kwargs: Any):
        super().__init__(*args, gradient_aggregator=gradient_aggregator, **kwargs)
        self._aggregates_as_keras = gradient_aggregator is None

    def descend(self, pairs: Pairs) -> Pairs:
        """(gradient, variable) pairs of this replica -> (update, variable) pairs, alike on all replicas."""
        raise NotImplementedError

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        """Length of a velocity in coordinates, or None where momentum acts in the full space."""
        return None

    def restored(self) -> None:
        """The state of the optimizer was read from a file."""

    def check_settings(self) -> None:
        """Refuses settings by which Keras changes weights beside the update: Keras 2 has none."""

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
        # Keras' own would call _transform_gradients once more on what was projected; the rest is as there.
        projected.refuse_overrides(self, SubspaceSGD, _WRITE)
        pairs = list(grads_and_vars)
        present = _present(pairs)
        if pairs and not present:
            raise ValueError(f"No gradients provided for any variable: {[v.name for _, v in pairs]}")
        # Keras' LossScaleOptimizer aggregates by itself, to see whether all is finite, and applies what it got.
        known = bool(pairs) and projected.are_marked(self, present)
        if not (experimental_aggregate_gradients or known):
            raise ValueError(
                projected.refusal(
                    self,
                    "projects gradients where it aggregates them, which experimental_aggregate_gradients=False skips",
                )
            )
        if not pairs:
            return tf.no_op()
        _check_replica(pairs, present)
        variables = [variable for _, variable in present]
        for variable in variables:
            if projected.constraint_of(variable) is not None:
                raise ValueError(projected.refusal(self, f"the constraint of {variable.name!r} does not"))
        with tf.name_scope(self._name):
            with tf.init_scope():
                self._create_all_weights(variables)
            state = self._prepare(variables)
            updates = present if known else self._updates(present)
            projected.check(self, updates)
            strategy = tf.distribute.get_strategy()

            def write(distribution: Any, updates: Pairs) -> Any:
                return self._distributed_apply(distribution, updates, name=name, apply_state=state)

            if tf.distribute.has_strategy() and strategy.extended._use_merge_call():
                return tf.distribute.get_replica_context().merge_call(write, args=(updates,))
            return write(strategy, updates)

    def _updates(self, pairs: Pairs) -> Pairs:
        """Gradients -> updates, with whatever a subclass makes of ``_aggregate_gradients``."""
        before = projected.count()
        pairs = list(self._aggregate_gradients(self._transform_unaggregated_gradients(pairs)))
        if projected.are_marked(self, pairs):
            return pairs
        if projected.count() != before:
            raise ValueError(projected.refusal(self, "its updates were changed after they had been projected"))
        return self._project_whole(_present(pairs))

    def _aggregate_gradients(self, grads_and_vars: Any) -> Pairs:
        pairs = list(grads_and_vars)
        present = _present(pairs)
        with tf.init_scope():  # a LossScaleOptimizer asks before there is a velocity
            self._create_all_weights([variable for _, variable in present])
        if self._is_linear():
            updates = self.descend(present)
        elif self._aggregates_as_keras and on_ipu():  # where Keras' sum may be of losses that nobody divided
            updates = self._project_whole(projected.whole_batch(present))
        else:
            updates = self._project_whole(_present(self.gradient_aggregator(present)))
        found = iter(updates)
        return [(None, variable) if gradient is None else next(found) for gradient, variable in pairs]

    def _is_linear(self) -> bool:
        """Whether nothing but sums stands between gradients and the projection, which may then come first."""
        own = (self.clipnorm, self.clipvalue, self.global_clipnorm)
        as_keras = type(self)._transform_gradients is keras.optimizers.SGD._transform_gradients
        return self._aggregates_as_keras and as_keras and own == (None,) * 3 and not self.gradient_transformers

    def _project_whole(self, pairs: Pairs) -> Pairs:
        """Gradients of the whole batch, alike on all replicas -> updates."""
        with projected.agreed():
            return self.descend(list(self._transform_gradients(pairs)))

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        length = self.coordinate_slot(var_list)
        if length is None:
            super()._create_slots(var_list)
        elif self.velocity is None:
            self.velocity = self.add_weight("velocity", [length], initializer="zeros", trainable=False)
            self._weights.append(self.velocity)

    def _distributed_apply(self, distribution: Any, grads_and_vars: Any, name: Any, apply_state: Any) -> Any:
        pairs = list(grads_and_vars)
        projected.check(self, pairs, distribution)
        return super()._distributed_apply(distribution, pairs, name=name, apply_state=apply_state)

    def _resource_apply_dense(self, grad: Any, var: Any, apply_state: Any = None) -> Any:
        projected.use(self, grad, var)
        if self.velocity is None:
            return super()._resource_apply_dense(grad, var, apply_state)
        return var.assign_sub(grad, use_locking=self._use_locking)  # the rate is in the velocity already

    def _resource_apply_sparse(self, grad: Any, var: Any, indices: Any, apply_state: Any = None) -> Any:
        raise ValueError(projected.refusal(self, f"it is given the gradient of {var.name!r} alone"))

    def _resource_apply_sparse_duplicate_indices(self, grad: Any, var: Any, indices: Any, **kwargs: Any) -> Any:
        return self._resource_apply_sparse(grad, var, indices)

    def set_weights(self, weights: Sequence[Any]) -> None:
        weights = list(weights)
        # Keras 3 has the learning rate among the weights, after the step; here it is in the configuration.
        if len(weights) == len(self.weights) + 1 and np.ndim(weights[1]) == 0:
            del weights[1]
        super().set_weights(weights)
        self.restored()

    def get_config(self) -> Dict[str, Any]:
        config = self._with_step(super().get_config())
        if "iterations" in config and self.owners is not None:
            config["owners"] = self.owners.serialize()
        return config

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        config = projected.to_keras_2(config)
        iterations, owners = config.pop("iterations", 0), config.pop("owners", None)
        optimizer = super().from_config(config, custom_objects)
        if owners is not None:
            optimizer.owners.deserialize(owners)
        if iterations:  # of a SavedModel
            optimizer.iterations.assign(iterations)
            if optimizer._momentum:
                projected._say(
                    f"a SavedModel holds the step of {cls.__name__}, {iterations}, but not its momentum, which "
                    "begins anew. Files of the kinds .h5 and tf.train.Checkpoint hold all"
                )
        return optimizer


def _present(pairs: Any) -> Pairs:
    """The pairs that have a gradient."""
    return [(gradient, variable) for gradient, variable in pairs if gradient is not None]


def _check_replica(pairs: Pairs, present: Pairs) -> None:
    """Refuses a call from outside of a replica; says in the log which variables have no gradient."""
    if tf.distribute.in_cross_replica_context():
        raise RuntimeError("apply_gradients() is for a replica: call it in what strategy.run runs")
    if len(present) < len(pairs):
        names = [variable.name for gradient, variable in pairs if gradient is None]
        tf.get_logger().warning(f"Gradients do not exist for variables {names} when minimizing the loss.")


def _function(what: str, config: Any, custom_objects: Any) -> Any:
    """The function that a configuration means.

    Raises:
      ValueError: nobody knows it.
    """
    if isinstance(config, projected.Function):
        return config.function
    for name in (config.get("registered_name"), config["config"]):
        found = keras.utils.get_registered_object(name, custom_objects) if name else None
        if found is not None:
            return found
    raise ValueError(
        f"{what} of this optimizer was the function {config['config']!r}, and a file holds no functions: register it "
        "(keras.utils.register_keras_serializable) before the model is saved, or give it in custom_objects"
    )


class Wrapper(_InSavedModel, keras.optimizers.Optimizer):
    """An optimizer around another: calls ``self.descend(gradients, variables)`` with clipped gradients.

    What acts on gradients (clipping, transformers, an aggregator) is taken over from the inner optimizer, and is done
    here, before ``descend``. The inner one is then called by :meth:`apply_inner`, with what all replicas hold alike.
    """

    _taken_over = ("clipnorm", "clipvalue", "global_clipnorm")
    _HAS_AGGREGATE_GRAD = True
    gradient_aggregator: Any

    def __init__(self, inner: Any, name: str, **kwargs: Any):
        settings = projected.taken_over(self, inner, kwargs)
        super().__init__(name=name, **{key: value for key, value in settings.items() if value is not None})
        self._aggregator_of_keras = self.gradient_aggregator
        for key, idle in (("gradient_aggregator", self._aggregator_of_keras), ("gradient_transformers", [])):
            own = getattr(inner, key)
            if own != idle:
                projected.note_taken(inner, key, own)
            setattr(self, key, own)
            setattr(inner, key, idle)
        self.inner_optimizer = inner
        self._track_trackable(inner, "inner_optimizer")
        object.__setattr__(self, "_order", [])  # of the variables that have slots
        object.__setattr__(self, "_known_variables", [])
        self.coordinates: Optional[Any] = None

    def __deepcopy__(self, memo: Dict[int, Any]) -> "Wrapper":
        """A copy with its state. The coordinates are shared, by whose identity the inner optimizer finds slots."""
        if self.coordinates is not None:  # of no use between steps
            memo[id(self.coordinates)] = self.coordinates
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    # --- state -------------------------------------------------------------------------------------------------

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        variables = list(var_list)
        if not variables:
            return
        inside = self.inside(variables)
        chosen = [v for v, own in zip(variables, inside) if own]
        for variable in chosen if self._use.kept else ():
            key = projected._key(variable)
            for name in self._use.kept:
                if name not in self._slots.get(key, {}):
                    self._new(name, variable)
            if key not in self._order:
                self._order.append(key)
        if self.state == "coordinates":
            if self.coordinates is None:
                dim = self.sketch_of(chosen).dim
                with self._distribution_strategy_scope():
                    self.coordinates = tf.Variable(
                        tf.zeros([dim]),
                        trainable=True,
                        name="subspace_coordinates",
                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                    )
                # A checkpoint saves the slots of what it knows.
                self._track_trackable(self.coordinates, "coordinates")
                self.owners = projected.Owners()
                self._track_trackable(self.owners, "owners")
                self.owners.expect(chosen)
            self.inner_optimizer._create_all_weights(
                [self.coordinates, *[v for v, own in zip(variables, inside) if not own]]
            )
        else:
            self.inner_optimizer._create_all_weights(variables)
        known = {projected._key(v) for v in self._known_variables}
        self._known_variables.extend(v for v in variables if projected._key(v) not in known)

    _known_variables: List[Any]
    _present: Sequence[Any] = ()  # variables of the present step, also those without a gradient

    def candidates(self, variables: Sequence[Any]) -> List[Any]:
        """The variables that patterns may mean, beside those of this step: all that the optimizer was ever given."""
        return [*variables, *self._present, *self._known_variables]

    def _new(self, name: str, like: Any) -> Any:
        """A slot of a variable, of which each replica has its own; files hold the mean."""
        size = int(like.shape.num_elements())
        with self._distribution_strategy_scope():
            strategy = tf.distribute.get_strategy()
            many = projected.keeps_its_own(strategy)
            with strategy.extended.colocate_vars_with(like):
                variable = tf.Variable(
                    tf.zeros([size]),
                    trainable=False,
                    name=f"{like.name.split(':')[0]}/{name}",
                    synchronization=tf.VariableSynchronization.ON_READ if many else tf.VariableSynchronization.AUTO,
                    aggregation=tf.VariableAggregation.MEAN,
                )
        self._slots.setdefault(projected._key(like), {})[name] = variable
        self._slot_names[:] = self._use.kept
        self._restore_slot_variable(slot_name=name, variable=like, slot_variable=variable)
        return variable

    def _create_or_restore_slot_variable(self, slot_variable_position: Any, slot_name: str, variable: Any) -> None:
        own = slot_name in self._use.kept and slot_name not in self._slots.get(projected._key(variable), {})
        if tf.executing_eagerly() and own:
            self._new(slot_name, variable)  # Keras would make one that all replicas share
        super()._create_or_restore_slot_variable(slot_variable_position, slot_name, variable)

    @property
    def weights(self) -> List[Any]:
        order = [*self._order, *[key for key in self._slots if key not in self._order]]
        own = [self._slots[key][name] for name in self._use.kept for key in order if name in self._slots[key]]
        return [*self.inner_optimizer.weights, *own]

    def variables(self) -> List[Any]:
        return self.weights

    def set_weights(self, weights: Sequence[Any]) -> None:
        super().set_weights(self._from_keras_3(list(weights)))

    def _from_keras_3(self, weights: List[Any]) -> List[Any]:
        """The state that Keras 3 has written (step, 0, ours, step, rate, slots) in the order of ``weights``.

        The rate is missing where it is a schedule. What has another number of arrays is handed back as it is.
        """
        inner = self.inner_optimizer
        slots = len(inner.weights) - 1
        ours = len(self.weights) - 1 - slots
        if len(weights) - (3 + ours + slots) not in (0, 1):
            return weights
        found = projected.slots_to_keras_2(inner, weights[len(weights) - slots :], len(inner._slots))
        return [weights[0], *found, *weights[2 : 2 + ours]]

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        self.inner_optimizer.iterations = variable

    # --- a step ------------------------------------------------------------------------------------------------

    def _aggregate_gradients(self, grads_and_vars: Any) -> Pairs:
        """Of a wrapper around this one: the sum over replicas, of the size of the model."""
        pairs = _present(list(grads_and_vars))
        return list(self.gradient_aggregator(pairs))

    def apply_gradients(
        self, grads_and_vars: Any, name: Any = None, experimental_aggregate_gradients: bool = True
    ) -> Any:
        projected.refuse_overrides(self, Wrapper, _WRITE)
        self.check_settings()
        pairs = list(grads_and_vars)
        present = _present(pairs)
        if pairs and not present:
            raise ValueError(f"No gradients provided for any variable: {[v.name for _, v in pairs]}")
        if not pairs:
            return tf.no_op()
        _check_replica(pairs, present)
        object.__setattr__(self, "_present", [variable for _, variable in pairs])
        with tf.name_scope(self._name):
            with tf.init_scope():
                self._create_all_weights([variable for _, variable in present])
            alike = not experimental_aggregate_gradients
            if experimental_aggregate_gradients:
                present = _present(self._transform_unaggregated_gradients(present))
                if self._aggregates_otherwise():
                    present, alike = _present(self._aggregate_gradients(present)), True
            replicas = 1 if alike else tf.distribute.get_strategy().num_replicas_in_sync
            gradients, variables = zip(*self._of_one_replica(present, replicas))
            with projected.agreed() if alike else contextlib.nullcontext():
                return self.descend(gradients, variables)

    def _of_one_replica(self, pairs: List[Any], replicas: int) -> List[Any]:
        """The pairs clipped and transformed as where there is one replica: Keras has divided the losses of K by K."""
        changes = (self.clipnorm, self.clipvalue, self.global_clipnorm, self.gradient_transformers)
        if replicas == 1 or not any(changes):
            return list(self._transform_gradients(pairs))
        whole = [(float(replicas) * tf.convert_to_tensor(gradient), variable) for gradient, variable in pairs]
        return [(gradient / float(replicas), variable) for gradient, variable in self._transform_gradients(whole)]

    def _aggregates_otherwise(self) -> bool:
        """Whether somebody sums gradients over replicas or processes by himself: the sum is compressed then."""
        as_ours = getattr(self._aggregate_gradients, "__func__", None) is Wrapper._aggregate_gradients
        return not as_ours or self.gradient_aggregator is not self._aggregator_of_keras

    def _resource_apply_dense(self, grad: Any, var: Any, apply_state: Any = None) -> Any:
        raise ValueError(projected.refusal(self, f"it is given the gradient of {var.name!r} alone"))

    def _resource_apply_sparse(self, grad: Any, var: Any, indices: Any, apply_state: Any = None) -> Any:
        return self._resource_apply_dense(grad, var)

    def _resource_apply_sparse_duplicate_indices(self, grad: Any, var: Any, indices: Any, **kwargs: Any) -> Any:
        return self._resource_apply_dense(grad, var)

    described, step_index = SubspaceSGD.described, SubspaceSGD.step_index

    def kept(self, name: str, variable: Any) -> Any:
        """m or v of a variable ("memory", "second_moment"): a tf.Variable float32 [n]."""
        return self._slots[projected._key(variable)][name]

    def constrain(self, variables: Sequence[Any]) -> None:
        """The constraints of variables that moved within the subspace."""
        for variable in variables:
            if projected.constraint_of(variable) is not None:
                self.write(variable, (), lambda v, _: v.assign(v.constraint(v)))

    def apply_inner(self, updates: Sequence[Any], variables: Sequence[Any]) -> Any:
        """The inner optimizer's step, with what all replicas hold alike."""
        with projected.agreed():
            return self.inner_optimizer.apply_gradients(
                list(zip(updates, variables)), experimental_aggregate_gradients=False
            )

    def inner_slots(self) -> List[Any]:
        """The inner optimizer's state for the coordinates."""
        return list(self.inner_optimizer._slots.get(projected._key(self.coordinates), {}).values())

    def decay_weights(self, variables: Sequence[Any]) -> None:
        """Nothing: the optimizers of Keras 2 do not decay weights."""
        return None  # AutoGraph takes docstrings away

    def write(self, variable: Any, value: Any, write: Any) -> None:
        """``write(variable, value)`` on every replica; all hold the value alike."""

        def update(distribution: Any, variable: Any, value: Any) -> Any:
            return distribution.extended.update(variable, write, args=(value,), group=False)

        strategy = tf.distribute.get_strategy()
        if tf.distribute.has_strategy() and strategy.extended._use_merge_call():
            tf.distribute.get_replica_context().merge_call(update, args=(variable, value))
        else:
            update(strategy, variable, value)

    def own_variables(self) -> List[Any]:
        """The variables that this optimizer has slots for."""
        return list(self._known_variables)

    # --- what belongs to the inner optimizer ---------------------------------------------------------------------

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    lr = learning_rate

    def get_slot_names(self) -> List[str]:
        # A SavedModel takes only slots of the shape of their variable.
        return [] if writes_saved_model() else super().get_slot_names()

    def get_slot(self, var: Any, slot_name: str) -> Any:
        own = slot_name in self._use.kept
        return super().get_slot(var, slot_name) if own else self.inner_optimizer.get_slot(var, slot_name)

    def pattern_config(self, patterns: Any) -> Any:
        """Patterns, or a function of a variable, as a configuration has them."""
        if not callable(patterns):
            return patterns
        name = getattr(patterns, "__name__", type(patterns).__name__)
        registered = keras.utils.get_registered_name(patterns)
        return projected.Function(patterns, {"class_name": "function", "config": name, "registered_name": registered})

    def wrapper_config(self) -> Dict[str, Any]:
        """Name, inner optimizer, and what was taken over from it."""
        config = {**super().get_config(), "inner_optimizer": keras.optimizers.serialize(self.inner_optimizer)}
        return self._with_step(config)

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        inner = config.pop("inner_optimizer")
        if isinstance(inner, dict):
            settings = projected.to_keras_2(inner["config"])
            inner = keras.optimizers.deserialize(
                {"class_name": inner["class_name"], "config": settings}, custom_objects=custom_objects
            )
        for key in ("loss_scale_factor", "gradient_accumulation_steps"):  # of Keras 3
            value = config.pop(key, None)
            if value is not None:
                raise ValueError(
                    f"this optimizer was saved with {key}={value!r}, which the optimizers of Keras 2 have not"
                )
        for name in ("include", "exclude"):
            if isinstance(config.get(name), dict):
                config[name] = _function(name, config[name], custom_objects)
        iterations = config.pop("iterations", 0)
        optimizer = cls(inner, **config)
        if iterations:  # of a SavedModel
            optimizer.iterations.assign(iterations)
            projected._say(
                f"a SavedModel holds the step of {cls.__name__}, {iterations}, but neither its memory nor the state "
                "of its inner optimizer: they begin anew. Files of the kinds .h5 and tf.train.Checkpoint hold all"
            )
        return optimizer
