"""Adapter to Keras 3: the stock SGD with its gradients replaced by updates from the subspace.

Keras calls ``_all_reduce_sum_gradients`` once for each optimizer step: after it has accumulated and clipped the
gradients, before it applies them. It is a private hook; a test fails loudly should Keras move it.
"""

import contextlib
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from rbd_ipu._compat import keras, tensors, tf
from rbd_ipu.compartments import describe
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.projected import Pairs

COORDINATES = "subspace_coordinates"

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

# Those by which Keras changes weights beside them.
_BESIDE = (
    "_apply_weight_decay",
    "_overwrite_model_variables_with_average_value",
    "_overwrite_variables_directly_with_gradients",
)

if not all(hasattr(keras.optimizers.SGD, name) for name in _WRITE):
    raise ImportError(
        f"Keras {keras.__version__} has no hook between clipping and applying gradients "
        "(_all_reduce_sum_gradients); rbd_ipu's optimizers do not know this version. The Trainer works without it"
    )


class _WithOwners:
    """An optimizer of whose state files say which variables it belongs to."""

    owners: Any = None  # projected.Owners, where the state belongs to some variables

    def restored(self) -> None:
        """The state of the optimizer is read from a file."""

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        children = dict(super()._trackable_children(save_type, **kwargs))  # type: ignore[misc]
        if save_type == "savedmodel":  # which would not give them back
            children.pop("owners", None)
        return children

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)  # type: ignore[misc]
        if self.owners is not None:
            store["owners"] = np.frombuffer(self.owners.serialize().encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 (it is no dict)
        owners = values.pop("owners", None)
        super().load_own_variables(values)  # type: ignore[misc]
        if len(values) == len(self.variables):  # type: ignore[attr-defined]  # else Keras has left them where they are
            if self.owners is not None and owners is not None:
                self.owners.deserialize(np.asarray(owners).tobytes().decode())
            self.restored()


class SubspaceSGD(_WithOwners, keras.optimizers.SGD):
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
    _reading = False

    def build(self, variables: Sequence[Any]) -> None:
        if not projected.is_to_build(self, variables):
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
        projected.refuse_overrides(self, SubspaceSGD, _WRITE + _BESIDE)
        self.check_settings()
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        for variable in self._trainable_variables if trainable_variables is None else trainable_variables:
            if variable.constraint is not None:
                raise ValueError(projected.refusal(self, f"the constraint of {variable.name!r} does not"))
            if self._overwrite_variable_with_gradient(variable):
                raise ValueError(projected.refusal(self, f"Keras sets {variable.name!r} to its gradient"))
        with projected.applying(self):
            super().apply(grads, trainable_variables)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> Any:
        projected.check_applying(self)
        return super()._backend_update_step(grads, trainable_variables, learning_rate)

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

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        return super().from_config(projected.to_keras_3(config), custom_objects)


class Wrapper(_WithOwners, keras.optimizers.Optimizer):
    """An optimizer around another: calls ``self.descend(gradients, variables)`` with what Keras has clipped.

    What acts on gradients (clipping, loss scale, accumulation) is taken over from the inner optimizer, and is done
    here, before ``descend``. The inner one is then called by :meth:`apply_inner`, with what all replicas hold alike.
    """

    _taken_over = ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor", "gradient_accumulation_steps")
    _building = False
    _awaited: Any = ()  # weights that were set before there were variables for them
    _reading = False

    def __init__(self, inner: Any, name: str, **kwargs: Any):
        settings = projected.taken_over(self, inner, kwargs)
        super().__init__(learning_rate=0.0, name=name, **settings)
        self.inner_optimizer = inner
        if not isinstance(inner, Wrapper):  # which sees by itself that all replicas hold the same updates
            inner._all_reduce_sum_gradients = list
            inner._get_current_learning_rate = self._rate_of_inner
        object.__setattr__(self, "_kept", {})  # by name and variable; Keras would track a dict of its own kind

    def _rate_of_inner(self) -> Any:
        """Its learning rate now: Keras' schedules count each of several steps whose gradients are accumulated."""
        inner = self.inner_optimizer
        if self.gradient_accumulation_steps and isinstance(
            inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            return inner._learning_rate(self._iterations)
        return type(inner)._get_current_learning_rate(inner)

    def build(self, variables: Sequence[Any]) -> None:
        if not projected.is_to_build(self, variables):
            return
        variables = list(variables)
        self._building = True
        super().build(variables)
        self._building = False
        inside = self.inside(variables)
        chosen = [v for v, own in zip(variables, inside) if own]
        sketch = self.sketch_of(chosen)
        for name in self._use.kept:
            for variable in chosen:
                self._kept[name, self._var_key(variable)] = self._new(name, variable)
        if self.state == "coordinates":
            with tf.init_scope(), self._in_strategy():
                z = keras.Variable(
                    lambda shape, dtype: tf.zeros(shape, dtype),
                    shape=(sketch.dim,),
                    dtype="float32",
                    name=COORDINATES,
                    aggregation="only_first_replica",
                )
            self.owners = projected.Owners()
            self.owners.expect(chosen)
            object.__setattr__(self, "coordinates", z)  # of no use between steps, and in no file of Keras'
            self._track_trackable(z, "coordinates")  # a tf.train.Checkpoint would miss it
            self.inner_optimizer.build([self.coordinates, *[v for v, own in zip(variables, inside) if not own]])
        else:
            self.inner_optimizer.build(variables)
        if self._awaited:
            with tf.init_scope():
                self.set_weights(self._awaited)
            self._awaited = ()

    def _in_strategy(self) -> Any:
        """Its strategy's scope, unless this is a replica of it, which may not enter it again."""
        inside = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        return contextlib.nullcontext() if inside else self._distribution_strategy.scope()

    def _new(self, name: str, like: Any) -> Any:
        """A variable of which each replica has its own; files hold the mean."""
        about = describe(like, 0)
        strategy = self._distribution_strategy
        with tf.init_scope(), strategy.extended.colocate_vars_with(tensors([like])[0]), keras.name_scope(self.name):
            variable = keras.Variable(
                lambda shape, dtype: tf.zeros(shape, dtype),
                shape=(about.size,),
                dtype="float32",
                trainable=False,
                synchronization="on_read" if projected.keeps_its_own(strategy) else "auto",
                aggregation="mean",
                name=f"{about.name.replace('/', '_')}_{name}",
            )
        self._track_variable(variable)
        return variable

    @property
    def variables(self) -> List[Any]:
        return self._variables[:] + self.inner_optimizer.variables

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        projected.refuse_overrides(self, Wrapper, _WRITE + _BESIDE)
        self.check_settings()
        with projected.applying(self):
            super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        raise ValueError(projected.refusal(self, f"it is given the gradient of {variable.name!r} alone"))

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        projected.check_applying(self)
        self.descend(list(grads), list(trainable_variables))

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: it is the inner optimizer's."""

    described, step_index = SubspaceSGD.described, SubspaceSGD.step_index

    def kept(self, name: str, variable: Any) -> Any:
        """m or v of a variable ("memory", "second_moment"): a tf.Variable float32 [n]."""
        return self._kept[name, self._var_key(variable)].value

    def candidates(self, variables: Sequence[Any]) -> List[Any]:
        """The variables that patterns may mean: of this step, and all that the optimizer was built with."""
        return [*variables, *self._trainable_variables]

    def constrain(self, variables: Sequence[Any]) -> None:
        """Nothing: Keras applies constraints after the step."""

    def apply_inner(self, updates: Sequence[Any], variables: Sequence[Any]) -> Any:
        """The inner optimizer's step, with what all replicas hold alike.

        It is given the tf.Variables, which have no constraints: Keras applies those once, after our step.
        """
        with projected.agreed():
            return self.inner_optimizer.apply(list(updates), tensors(variables))

    def inner_slots(self) -> List[Any]:
        """The inner optimizer's state for the coordinates."""
        return tensors([v for v in self.inner_optimizer.variables if COORDINATES in v.path])

    def decay_weights(self, variables: Sequence[Any]) -> None:
        """The inner optimizer's weight decay, on the weights."""
        self.inner_optimizer._apply_weight_decay(list(variables))

    def write(self, variable: Any, value: Any, write: Any) -> None:
        """``write(variable, value)`` on every replica; all hold the value alike."""

        def update(distribution: Any, variable: Any, value: Any) -> None:
            distribution.extended.update(variable, write, args=(value,), group=False)

        merge = tf.__internal__.distribute.interim.maybe_merge_call
        merge(update, self._distribution_strategy, tensors([variable])[0], value)

    def own_variables(self) -> List[Any]:
        """The variables that this optimizer has slots for."""
        return list(self._trainable_variables)

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def weight_decay(self) -> Any:
        """That of the inner optimizer."""
        return getattr(self._inner, "weight_decay", None)

    @weight_decay.setter
    def weight_decay(self, weight_decay: Any) -> None:
        self._set_of_inner("weight_decay", weight_decay)

    @property
    def use_ema(self) -> bool:
        """Whether the inner optimizer keeps an average of the weights."""
        return not self._building and getattr(self._inner, "use_ema", False)

    @use_ema.setter
    def use_ema(self, use_ema: bool) -> None:
        self._set_of_inner("use_ema", use_ema)

    @property
    def _inner(self) -> Any:
        """The inner optimizer; None while Keras sets the defaults of this one."""
        return getattr(self, "inner_optimizer", None)

    def _set_of_inner(self, name: str, value: Any) -> None:
        if self._inner is not None:
            setattr(self._inner, name, value)

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        """Nothing: the inner optimizer has done it."""

    @property
    def ema_overwrite_frequency(self) -> None:
        """None: the inner optimizer overwrites weights itself."""
        return None

    @ema_overwrite_frequency.setter
    def ema_overwrite_frequency(self, frequency: Any) -> None:
        self._set_of_inner("ema_overwrite_frequency", frequency)

    @property
    def _model_variables_moving_average(self) -> Any:
        return self.inner_optimizer._model_variables_moving_average

    @_model_variables_moving_average.setter
    def _model_variables_moving_average(self, averages: Any) -> None:
        """Nothing: they are the inner optimizer's."""

    def finalize_variable_values(self, var_list: Any) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def set_weights(self, weights: Sequence[Any]) -> None:
        if not self.built:  # Keras builds with no variables while it reads an .h5 file, which is closed soon
            self._awaited = tuple(np.asarray(weight) for weight in weights)
            self._iterations.assign(self._awaited[0])
            return
        weights = self._from_keras_2(list(weights))
        if len(weights) != len(self.variables):
            raise ValueError(
                f"{type(self).__name__} has {len(self.variables)} variables, not {len(weights)}: it is the state of "
                "another optimizer. Load the model with compile=False, and compile it anew"
            )
        for variable, weight in zip(self.variables, weights):
            if tuple(variable.shape) != np.shape(weight):
                raise ValueError(f"{variable.path} has shape {variable.shape}, got weights of {np.shape(weight)}")
        for variable, weight in zip(self.variables, weights):
            variable.assign(weight)

    def _from_keras_2(self, weights: List[Any]) -> List[Any]:
        """The state that Keras 2 has written (step, inner slots, ours), in the order of ``variables``.

        What has another number of arrays is handed back as it is.
        """
        inner, ours = self.inner_optimizer, len(self._variables) - 2  # without step and rate
        rate = [inner._learning_rate] if isinstance(inner._learning_rate, keras.Variable) else []
        slots = len(inner.variables) - 1 - len(rate)
        if len(weights) != 1 + slots + ours:
            return weights
        step, found, ours_found = weights[0], weights[1 : 1 + slots], weights[1 + slots :]
        found = projected.slots_to_keras_3(inner, found, len(inner._trainable_variables))
        return [step, self._variables[1].numpy(), *ours_found, step, *[r.numpy() for r in rate], *found]

    def pattern_config(self, patterns: Any) -> Any:
        """Patterns, or a function of a variable, as a configuration has them."""
        if not callable(patterns):
            return patterns
        return projected.Function(patterns, keras.saving.serialize_keras_object(patterns))

    def wrapper_config(self) -> Dict[str, Any]:
        """Name, inner optimizer, and what was taken over from it."""
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            **{key: getattr(self, key) for key in self._taken_over},
        }

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        config.pop("iterations", None)  # of a SavedModel of Keras 2
        inner = config.pop("inner_optimizer")
        if isinstance(inner, dict):
            inner = keras.saving.deserialize_keras_object(_of_keras_3(inner), custom_objects=custom_objects)
        for name in ("include", "exclude"):
            if isinstance(config.get(name), projected.Function):
                config[name] = config[name].function
            elif isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(inner, **config)


def _of_keras_3(inner: Dict[str, Any]) -> Dict[str, Any]:
    """The configuration of an inner optimizer, as Keras 3 has it, whichever Keras wrote it."""
    if "module" in inner:
        return inner
    settings = projected.to_keras_3(inner["config"])
    for key in ("amsgrad", "centered", "initial_accumulator_value"):
        settings.setdefault(key, inner["config"].get(key))
    settings = {key: value for key, value in settings.items() if value is not None}
    return {
        "module": "keras.optimizers",
        "class_name": inner["class_name"],
        "config": settings,
        "registered_name": None,
    }
