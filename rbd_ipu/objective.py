"""What a model is trained for: losses, accuracy and metrics, as in Keras' own ``fit``."""

import inspect
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import KERAS_3, as_written_by_users, compile_keras, compiled_with, keras, program, tensors, tf

#: Losses of Keras whose targets are classes, by the kind of target; an accuracy goes with them.
KINDS = {
    "sparse_categorical_crossentropy": "sparse",
    "categorical_crossentropy": "one-hot",
    "categorical_focal_crossentropy": "one-hot",
    "categorical_hinge": "one-hot",
}


def default_loss() -> Any:
    """Softmax cross entropy of logits with integer labels: what all experiments of the paper use."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def per_batch(loss: Any) -> Callable[[Any, Any], Any]:
    """``(y, outputs) -> []`` from a Keras loss: the mean over the batch, or the sum where the loss says so.

    As in Keras' own fit, labels [B] are those of outputs [B, 1], and a loss is computed in float32 at least. The
    reduction is done here: inside a strategy Keras refuses to do it in loops other than its own.

    Raises:
      TypeError: not a Keras loss, its name, or a function.
      ValueError: a loss without a reduction.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if not callable(loss):
        raise TypeError(f"loss must be a Keras loss, its name, or a function (y, outputs), got {loss!r}")
    check_reduction(loss)
    values = as_written_by_users(loss.call if isinstance(loss, keras.losses.Loss) else loss)
    matched = _matched if _of_keras(loss) else _as_keras_gives_them
    return lambda y, outputs: _reduced(values(*matched(y, outputs)), is_sum(loss))


def _reduced(values: Any, as_sum: bool) -> Any:
    """The sum or the mean of a loss, over the examples that it does not mask itself (``ignore_class`` of Keras 3)."""
    mask = _mask(values)
    if mask is None:
        return tf.reduce_sum(values) if as_sum else tf.reduce_mean(values)
    counted = tf.cast(mask, values.dtype)
    total = tf.reduce_sum(values * counted)
    return total if as_sum else total / (tf.reduce_sum(counted) + keras.backend.epsilon())


def is_sum(loss: Any) -> bool:
    """Whether a loss is the sum over a batch."""
    return getattr(loss, "reduction", None) == "sum"


def is_mean(loss: Any) -> bool:
    """Whether a loss is certainly the mean over a batch: none, one of Keras', or a Loss that is no sum."""
    known = loss is None or isinstance(loss, (str, keras.losses.Loss)) or _of_keras(loss)
    return known and not is_sum(loss)


def check_reduction(loss: Any) -> None:
    """Refuses a loss that is not a number.

    Raises:
      ValueError: with what is accepted.
    """
    if isinstance(loss, keras.losses.Loss) and loss.reduction in (None, "none"):
        raise ValueError(
            f"loss {loss.name!r} has reduction {loss.reduction!r} and gives a number for each example; the Trainer "
            "descends one number: use reduction='sum_over_batch_size' or 'sum'"
        )


def kind_of_classes(loss: Any) -> Optional[str]:
    """How classes are written in the targets of a loss: "sparse" (indices) or "one-hot"; None for a regression.

    A function that Keras does not know may be of classes: "unknown", its targets tell.

    Example:
      >>> kind_of_classes(default_loss()), kind_of_classes("mse"), kind_of_classes(lambda y, outputs: 0.0)
      ('sparse', None, 'unknown')
    """
    if not (isinstance(loss, str) or _of_keras(loss)):
        return "unknown"
    short = isinstance(loss, str) and loss.lower() in ("crossentropy", "ce")  # names that only compile knows
    loss = keras.losses.get(loss) if isinstance(loss, str) and not short else loss
    names = (_snake(type(loss).__name__), getattr(getattr(loss, "fn", loss), "__name__", ""))
    return next((KINDS[name] for name in names if name in KINDS), None)


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def _of_keras(loss: Any) -> bool:
    owner = loss if hasattr(loss, "__name__") else type(loss)
    return str(owner.__module__).split(".")[0] == "keras" or str(owner.__module__).startswith(
        "tensorflow.python.keras"
    )


def _matched(y: Any, outputs: Any) -> Tuple[Any, Any]:
    """Labels of the rank of the outputs, which would otherwise be compared each with each; no half precision."""
    if not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return y, outputs  # of several outputs, for a function that knows what they are
    if outputs.dtype in (tf.float16, tf.bfloat16):
        outputs = tf.cast(outputs, tf.float32)
    if None not in (y.shape.rank, outputs.shape.rank):
        if y.shape.rank + 1 == outputs.shape.rank and outputs.shape[-1] == 1:
            y = y[..., None]
        elif y.shape.rank == outputs.shape.rank + 1 and y.shape[-1] == 1:
            y = y[..., 0]
    return y, outputs


def _as_keras_gives_them(y: Any, outputs: Any) -> Tuple[Any, Any]:
    """Targets of the rank and type that a function of the user's own gets in Keras' fit."""
    y, outputs = _matched(y, outputs)
    if not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return y, outputs
    if KERAS_3 or (y.dtype.is_floating and outputs.dtype.is_floating):
        y = tf.cast(y, outputs.dtype)
    if not KERAS_3 and y.shape.rank == 1:
        y = y[:, None]
    return y, outputs


def regularised(loss: Any, model: Any) -> Any:
    """The loss of a batch, with what the model's regularisers add to it, as of its last call: scalar."""
    if not model.losses:
        return loss
    return loss + tf.add_n([tf.cast(value, loss.dtype) for value in model.losses])


def hits(y: Any, outputs: Any, kind: Optional[str] = "unknown") -> Optional[Any]:
    """Which of a batch are classified right, float32 of the shape of the labels; None where outputs are no classes.

    Labels are integers [B, ...] or [B, ..., 1], or one-hot rows [B, ..., C]; outputs [B, ..., C] with C >= 2, logits
    or probabilities alike. ``kind`` is what :func:`kind_of_classes` says of the loss.
    """
    if kind is None or not (tf.is_tensor(y) and tf.is_tensor(outputs)):
        return None
    rank = outputs.shape.rank
    if None in (rank, y.shape.rank) or rank < 2 or (outputs.shape[-1] or 0) < 2:
        return None
    found = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    if kind == "one-hot":
        if y.shape.rank != rank or y.shape[-1] != outputs.shape[-1]:
            return None
        wanted = tf.argmax(y, axis=-1, output_type=tf.int32)
    else:
        if y.shape.rank == rank and y.shape[-1] == 1:
            y = tf.squeeze(y, -1)
        if y.shape.rank != rank - 1 or (kind == "unknown" and not y.dtype.is_integer):
            return None
        wanted = tf.cast(y, tf.int32)
    return tf.cast(tf.equal(found, wanted), tf.float32)


#: What is summed of every mini-batch, in order: examples, loss of each, labels, and which of them were classified
#: right; the last two only where outputs are classes.
REPORTED = ("examples", "loss", "labels", "right")

IN_FIT = "train it by model.fit with rbd_ipu.RandomBasesDescent as its optimizer"

#: Methods of a model that Keras' fit calls and this package does not.
_STEPS = ("train_step", "test_step", "make_train_function", "make_test_function")
#: Settings of an optimizer that change a gradient or what becomes of it.
_SETTINGS = (
    "clipnorm", "clipvalue", "global_clipnorm", "weight_decay", "use_ema", "gradient_accumulation_steps",
    "loss_scale_factor",
)  # fmt: skip


def split(batch: Any) -> Tuple[Any, Any, Any]:
    """(x, y, weights) of a batch (x, y) or (x, y, weights); weights may be None."""
    x, y, *weights = batch
    return x, y, weights[0] if weights else None


class Objective:
    """The loss of a model and its metrics, as the model was compiled.

    What the common case needs is computed here: a loss of one output, without masks and weights, and the accuracy of
    classes. All else is Keras' own: its compiled loss, a model's ``compute_loss``, and metrics, whose variables the
    steps change where they are.

    Args:
      model: a Keras model.
      loss: what ``compile`` takes, in place of the model's own; or, for several outputs, a function ``(y, outputs)``
        of your own of all of them. None: what the model was compiled with, or softmax cross entropy if it was not.

    Raises:
      ValueError: the model was compiled with something that the Trainer does not do; it says what does.
      TypeError: no loss.
    """

    def __init__(self, model: Any, loss: Any = None):
        self.model = model
        self._compiled = compiled_with(model)
        _refuse(model, self._compiled or {})
        self._passed = loss is not None
        self._own_loss = overrides(model, "compute_loss")
        several = len(getattr(model, "outputs", None) or [None]) > 1  # a subclass does not say
        if loss is None and self._compiled is None:
            if several and not self._own_loss:
                raise ValueError(
                    f"model {model.name!r} has {len(model.outputs)} outputs and no loss: compile it with one for "
                    "each, or pass the Trainer a function, loss=lambda y, outputs: ..., that puts them together"
                )
            loss = default_loss()
        self.given = loss
        self.loss = loss if loss is not None else (self._compiled or {}).get("loss")
        nested = isinstance(self.loss, (list, tuple, dict))
        for one in tf.nest.flatten(self.loss):
            if one is not None and not callable(one) and not isinstance(one, str):
                raise TypeError(f"loss must be a Keras loss, its name, or a function (y, outputs), got {one!r}")
            check_reduction(one)
        named = nested or isinstance(loss, (str, keras.losses.Loss)) or _of_keras(loss)
        self._function = loss is not None and not named
        self._of_all = several and self._function
        weights = (self._compiled or {}).get("loss_weights")
        if self._of_all and weights is not None:
            raise ValueError(
                f"model {model.name!r} was compiled with loss_weights={weights!r}, for which a loss function of all "
                "outputs has no place: pass a loss for each output, or compile the model without"
            )
        self._values = self._plain()
        described = self._compiled or {}
        self._own_metrics = overrides(model, "compute_metrics")
        self._metrics = bool(described.get("metrics") or described.get("weighted_metrics"))
        #: How classes are written, where an accuracy is reported.
        self.kind: Optional[str] = None
        only = tf.nest.flatten(self.loss)
        if len(only) == 1 and only[0] is not None and not (self._own_loss or self._metrics):
            self.kind = kind_of_classes(only[0])
        self._built = False
        self._keeps = True  # whether the device lets Keras keep metrics

    def compile(self, optimizer: Any) -> None:
        """Compiles the model, if it was not, and with the loss, if one was passed."""
        compile_keras(self.model, self._compiled, optimizer, None if self._of_all else self.given)
        names = ("_compile_loss", "_compile_metrics") if KERAS_3 else ("compiled_loss", "compiled_metrics")
        self._traced = {name: getattr(self.model, name, None) for name in names}

    def check_compiled(self) -> None:
        """Refuses a model that was compiled with another loss or other metrics meanwhile.

        What else a compile has put in their place is put back: steps were traced with the variables of the old ones.

        Raises:
          ValueError: it quotes both.
        """
        now = compiled_with(self.model) or {}
        known = self._compiled or {}
        wanted = {} if self._passed or not now else {"loss": self.loss, "loss_weights": known.get("loss_weights")}
        if now and known:
            wanted.update({name: known.get(name) for name in ("metrics", "weighted_metrics")})
        for name, before in wanted.items():
            if _described(now.get(name)) != _described(before):
                raise ValueError(
                    f"model {self.model.name!r} was compiled with {name}={now.get(name)!r} after this Trainer was "
                    f"made for {name}={before!r}: make a new Trainer after a compile"
                )
        for name, value in self._traced.items():
            if getattr(self.model, name, None) is not value:
                setattr(self.model, name, value)

    # --- the loss -------------------------------------------------------------------------------------------

    def __call__(self, batch: Any, training: bool) -> Tuple[Any, Any]:
        """(loss [], outputs) of a batch."""
        outputs = self.forward(batch, training)
        return self.loss_of(batch, outputs, training), outputs

    def forward(self, batch: Any, training: bool) -> Any:
        """The outputs of the model."""
        x = split(batch)[0]
        if not KERAS_3:  # which takes x [B] for x [B, 1]
            x = tf.nest.map_structure(_column, x)
        if KERAS_3 and not self.model._call_has_training_arg:
            return self.model(x)
        return self.model(x, training=training)

    def is_plain(self, batch: Any, outputs: Any) -> bool:
        """Whether the loss of a batch is computed here, and not by Keras."""
        _, _, weights = split(batch)
        if self._of_all or (self._function and not tf.is_tensor(outputs)):
            if weights is not None:
                raise ValueError(
                    "a loss function of all outputs has no place for sample weights: compile the model with a loss "
                    "for each output, or use the weights as a part of y"
                )
            return True
        return self._values is not None and weights is None and tf.is_tensor(outputs) and _mask(outputs) is None

    def loss_of(self, batch: Any, outputs: Any, training: bool) -> Any:
        """The loss [] of a batch from its outputs, directly after :meth:`forward`."""
        x, y, weights = split(batch)
        if self.is_plain(batch, outputs):
            return regularised(self._values(y, outputs), self.model)  # type: ignore[misc]
        return self._by_keras(x, y, weights, outputs, training)

    def _plain(self) -> Optional[Callable[[Any, Any], Any]]:
        """The loss as a function of one output (or of all), or None where Keras must compute it."""
        loss, described = self.loss, self._compiled or {}
        stock = not isinstance(loss, keras.losses.Loss) or type(loss).__call__ is keras.losses.Loss.__call__
        weighted = described.get("loss_weights") is not None
        if self._own_loss or loss is None or isinstance(loss, (list, tuple, dict)) or not stock or weighted:
            return None
        try:
            return per_batch(loss)
        except ValueError:
            if self._compiled is None or isinstance(loss, keras.losses.Loss):
                raise
            return None  # a name that only compile knows

    def _by_keras(self, x: Any, y: Any, weights: Any, outputs: Any, training: bool) -> Any:
        model, replicas = self.model, tf.distribute.get_strategy().num_replicas_in_sync
        if self.loss is None and not self._own_loss and not model.losses:
            raise ValueError(
                f"model {model.name!r} was compiled without a loss and adds none; nothing can be trained"
            )
        if isinstance(y, dict) and self.loss is not None and not self._own_loss:
            names = list(outputs if isinstance(outputs, dict) else model.output_names)
            if not set(y) <= set(names):
                raise ValueError(f"model {model.name!r} has the outputs {names}, and the targets are of {list(y)}")
        if not self._keeps:
            raise self._unmeasured()
        if replicas > 1 and (self._own_loss or not all(map(is_mean, tf.nest.flatten(self.loss)))):
            what = "a compute_loss" if self._own_loss else "a loss function, or one with reduction='sum',"
            raise ValueError(
                f"model {model.name!r} has {what} of its own, with masks, weights or several outputs; on several "
                "devices Keras does not say how it is shared: use a loss of Keras' with "
                "reduction='sum_over_batch_size', or one device"
            )
        if hasattr(keras.Model, "compute_loss"):
            options = {"training": training} if _takes_training(model.compute_loss) else {}
            own = as_written_by_users(model.compute_loss)
            value = own(x=x, y=y, y_pred=outputs, sample_weight=weights, **options)
        else:
            y, weights = (tf.nest.map_structure(_column, part) for part in (y, weights))
            value = model.compiled_loss(y, outputs, weights, regularization_losses=model.losses)
        value = tf.cast(tf.convert_to_tensor(value), tf.float32)
        return value * replicas if replicas > 1 else value  # Keras divides by them

    # --- what is reported -----------------------------------------------------------------------------------

    def report(self, batch: Any, outputs: Any, loss: Any) -> Any:
        """Sums over a batch, float32, in the order of REPORTED: [2], or [4] where outputs are classes.

        Compiled metrics see the batch, too: their variables change.
        """
        x, y, weights = split(batch)
        rows = tf.nest.flatten(x)[0]
        size = tf.constant(float(rows.shape[0])) if rows.shape[0] else tf.cast(tf.shape(rows)[0], tf.float32)
        if not KERAS_3 and self.loss is None:
            size = tf.constant(1.0)  # so does Keras 2
        values = [size, size * tf.cast(loss, tf.float32)]
        if self._metrics or self._own_metrics:
            self._update_metrics(x, y, weights, outputs)
        right = hits(y, outputs, self.kind)
        if right is not None:
            mask = _mask(outputs)
            seen = tf.ones_like(right) if mask is None else tf.cast(mask, tf.float32)
            values += [tf.cast(tf.size(right), tf.float32) if mask is None else tf.reduce_sum(seen)]
            values += [tf.reduce_sum(right if mask is None else right * seen)]
        return tf.stack(values)

    def _update_metrics(self, x: Any, y: Any, weights: Any, outputs: Any) -> None:
        model = self.model
        if hasattr(keras.Model, "compute_metrics"):
            own = as_written_by_users(model.compute_metrics)
            found = own(x=x, y=y, y_pred=outputs, sample_weight=weights)
            if self._own_metrics and KERAS_3:
                extra = set(found) - set(model.get_metrics_result())
                if extra:
                    raise ValueError(
                        f"compute_metrics of model {model.name!r} gives {sorted(extra)}, which are no metrics of the "
                        f"model's; make them Metrics that it keeps, or {IN_FIT}"
                    )
        else:
            y, weights = (tf.nest.map_structure(_column, part) for part in (y, weights))
            model.compiled_metrics.update_state(y, outputs, weights)

    # --- the variables of Keras' metrics --------------------------------------------------------------------

    @property
    def measured_by_keras(self) -> bool:
        """Whether Keras' metrics may have something to say, beside the loss."""
        outputs = getattr(self.model, "outputs", None)
        single = isinstance(outputs, (list, tuple)) and len(outputs) == 1
        own = self._own_loss or self._own_metrics
        return bool(self._metrics or own or self.metrics) or not (self._of_all or (single and self._values))

    def _unmeasured(self) -> ValueError:
        return ValueError(
            f"model {self.model.name!r} has metrics, masks, sample weights or a loss that Keras must compute, and on "
            "an IPU the Trainer has one loss function and the accuracy only: use metrics on a CPU, and "
            "loss=lambda y, outputs: ... for all else, with weights as a part of y"
        )

    def build(self, spec: Any, device: Any) -> None:
        """Lets Keras make what it makes when it meets the first batch: once, and before the first step.

        Args:
          spec: of a batch.
          device: where the model lives.

        Raises:
          ValueError, TypeError: data and model do not fit, in Keras' words.
        """
        self._keeps = device.keeps_metrics
        if not self._keeps and (self._metrics or self._own_metrics or self._own_loss or self.metrics):
            raise self._unmeasured()
        if self._built or not (self._keeps and self.measured_by_keras):
            return

        def see(batch: Any) -> Any:
            loss, outputs = self(batch, training=True)
            self.report(batch, outputs, loss)
            return loss

        with device:
            if KERAS_3 and device.strategy.num_replicas_in_sync > 1:
                self._build_outside(spec)  # Keras 3 makes no variables in a replica
            else:
                program(lambda batch: device.strategy.run(see, args=(batch,))).get_concrete_function(spec)
        self._built = True

    def _build_outside(self, spec: Any) -> None:
        zeros = tf.nest.map_structure(lambda one: tf.zeros([size or 1 for size in one.shape], one.dtype), spec)
        outputs, y = self.forward(zeros, training=False), split(zeros)[1]
        for container in (self.model._compile_loss, self.model._compile_metrics):
            if container is not None and not container.built:
                container.build(y, outputs)

    @property
    def metrics(self) -> List[Any]:
        """Keras' metrics but for that of the loss."""
        of_loss = getattr(self.model, "_loss_tracker", None)
        if not KERAS_3:
            of_loss = getattr(getattr(self.model, "compiled_loss", None), "_loss_metric", None)
        return [metric for metric in self.model.metrics if metric is not of_loss]

    @property
    def variables(self) -> List[Any]:
        """What they keep, as tf.Variables."""
        return tensors([variable for metric in self.metrics for variable in metric.variables])

    def kept(self, device: Any) -> List[float]:
        """What they keep, in plain numbers: [workers that have their own, m]."""
        if not self.variables:
            return []
        each = [device.copies(variable) for variable in self.variables]
        here = [_flat([copies[k].numpy() for copies in each]) for k in range(len(each[0]))]
        return device.rows(np.concatenate(here)).ravel().tolist()

    def kept_by_first(self, device: Any) -> List[float]:
        """What the first worker of this process has: after a validation, which all do alike."""
        return _flat([device.copies(variable)[0].numpy() for variable in self.variables]).tolist()

    def reset(self) -> None:
        """As at the beginning of an epoch."""
        if self.variables:
            self.model.reset_metrics()

    def keep(self, values: Sequence[float], device: Any) -> None:
        """Gives them back what :meth:`kept` gave.

        Raises:
          ValueError: it is of other metrics, or of another number of workers.
        """
        each = [device.copies(variable) for variable in self.variables]
        here, of = device.process
        local = len(each[0]) if each else 1
        size = local * sum(int(np.prod(variable.shape)) for variable in self.variables)
        if len(values) != of * size:
            raise ValueError(
                f"start keeps {len(values)} numbers of metrics, and the metrics here have {of * size}: the model was "
                "compiled with other ones, or there were other workers"
            )
        if size:
            for k, part in enumerate(np.split(np.reshape(values, [of, size])[here], local)):
                _assign([copies[k] for copies in each], part)

    def results(self, values: Sequence[float], device: Any) -> Dict[str, float]:
        """What they say by name, of what :meth:`kept` gave: of all workers together.

        Workers' variables are added up, as Keras does it.
        """
        named: Dict[str, Any] = {}
        variables = self.variables
        if not variables:
            return named
        each = [device.copies(variable) for variable in variables]
        total = np.sum(np.reshape(values, [-1, sum(int(np.prod(v.shape)) for v in variables)]), axis=0)
        for k in range(len(each[0])):
            _assign([copies[k] for copies in each], total if k == 0 else np.zeros_like(total))
        if hasattr(self.model, "get_metrics_result"):
            named = dict(self.model.get_metrics_result())
            if all(metric.name != "loss" for metric in self.metrics):
                named.pop("loss", None)
        else:
            for metric in self.metrics:
                result = metric.result()
                named.update(result if isinstance(result, dict) else {metric.name: result})
        return {name: np.asarray(value).tolist() for name, value in named.items()}


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.ravel(array).astype(np.float64) for array in arrays)])


def _assign(variables: Sequence[Any], values: np.ndarray) -> None:
    start = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        value = np.reshape(values[start : start + size], variable.shape)
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))
        start += size


def means(sums: Sequence[float]) -> Dict[str, float]:
    """Loss and, where outputs are classes, accuracy, from sums in the order of REPORTED.

    Example:
      >>> means([4.0, 2.0, 4.0, 3.0]), means([4.0, 2.0, 0.0, 0.0])
      ({'loss': 0.5, 'accuracy': 0.75}, {'loss': 0.5})
    """
    examples, loss, labels, right = sums
    found = {"loss": loss / examples if examples else float("nan")}
    return {**found, "accuracy": right / labels} if labels else found


def overrides(model: Any, name: str) -> bool:
    """Whether a model has a method of its own where Keras has one."""
    base = getattr(keras.Model, name, None)
    if base is None:
        return False  # Keras does not call it either
    if name in vars(model):
        return True
    return getattr(type(model), name) is not base


def _refuse(model: Any, described: Dict[str, Any]) -> None:
    """Refuses by name what the Trainer does not do."""
    of = f"model {model.name!r} "
    for name in _STEPS:
        if overrides(model, name):
            raise ValueError(f"{of}has a {name} of its own, which only Keras' fit calls: {IN_FIT}")
    if getattr(model, "dynamic", False) or described.get("run_eagerly"):
        raise ValueError(
            f"{of}was compiled with run_eagerly=True; the Trainer's loop is one compiled function: {IN_FIT}"
        )
    optimizer = described.get("optimizer")
    scaling = keras.optimizers.LossScaleOptimizer if KERAS_3 else keras.mixed_precision.LossScaleOptimizer
    scaled = isinstance(optimizer, scaling)
    policy = getattr(model, "dtype_policy", None) if KERAS_3 else model._dtype_policy
    if scaled or policy is not None and policy.name == "mixed_float16":
        raise ValueError(
            f"{of}is of mixed_float16 or has a LossScaleOptimizer, but the Trainer does not scale losses: use "
            f"mixed_bfloat16, or {IN_FIT}"
        )
    settings = {name: getattr(optimizer, name, None) for name in _SETTINGS}
    if not KERAS_3 and isinstance(optimizer, keras.optimizers.Optimizer):
        settings["gradient_transformers"] = optimizer.gradient_transformers
        own = optimizer.gradient_aggregator is not keras.optimizers.SGD().gradient_aggregator
        settings["gradient_aggregator"] = own and optimizer.gradient_aggregator
    for name, value in settings.items():
        if value:
            raise ValueError(
                f"{of}was compiled with an optimizer of {name}={value}; the Trainer's method takes its place and "
                f"does not have it: {IN_FIT}({name}={value})"
            )


def _described(losses: Any) -> Any:
    """Losses or metrics, of one output or of several, in what can be compared."""

    def one(loss: Any) -> Any:
        # A class with the configuration of its base may have settings that it does not say.
        known = isinstance(loss, keras.losses.Loss) and (_of_keras(loss) or "get_config" in vars(type(loss)))
        return (type(loss), {k: v for k, v in loss.get_config().items() if k != "name"}) if known else loss

    if isinstance(losses, dict):
        return {name: one(loss) for name, loss in losses.items()}
    return [one(loss) for loss in losses] if isinstance(losses, (list, tuple)) else one(losses)


def _takes_training(function: Callable[..., Any]) -> bool:
    return "training" in inspect.signature(function).parameters


def _mask(outputs: Any) -> Any:
    return getattr(outputs, "_keras_mask", None)


def _column(tensor: Any) -> Any:
    """[B] as [B, 1], as Keras 2 does it in its fit."""
    return tensor[:, None] if tensor is not None and tensor.shape.rank == 1 else tensor
