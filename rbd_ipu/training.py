"""The Trainer: one training loop for every method, on every device, with Keras callbacks around it.

The optimizer of a model that a Trainer trains applies the updates of the Trainer's method, and nothing else. A stock
SGD would do that too. But it would stay with the model, at the learning rate of a random subspace, and
``model.fit``, or a file of the model, would go on with plain SGD at a rate a hundred times too large.
"""

import math
import time
from typing import Any, Dict, NoReturn, Optional, Sequence, Tuple, Union

from rbd_ipu import checks
from rbd_ipu._compat import KERAS_3, create_variables, current_rate, keras, tf
from rbd_ipu.data.inputs import Feed, feed, in_order
from rbd_ipu.devices import Device, open_device
from rbd_ipu.errors import NonFiniteError
from rbd_ipu.hooks import Hooks
from rbd_ipu.methods import Method
from rbd_ipu.methods.base import inner_optimizer
from rbd_ipu.objective import Objective
from rbd_ipu.objective import means as examined
from rbd_ipu.parallel.round import check_groups
from rbd_ipu.step import MEASURES, Progress, means, one_step


class Applies:
    """What makes an optimizer of Keras one that a Trainer alone uses.

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
            super().apply(updates, variables)  # type: ignore[misc]
        else:
            super().apply_gradients(pairs, experimental_aggregate_gradients=False)  # type: ignore[misc]

    @property
    def _checkpoint_dependencies(self) -> Any:
        """None, for a checkpoint of TensorFlow that names this optimizer."""
        return []

    def _trackable_children(self, *_: Any, **__: Any) -> Any:
        """The same for TensorFlow 2.9 and later."""
        return {}

    if KERAS_3:
        apply = apply_gradients

        def _all_reduce_sum_gradients(self, pairs: Any) -> Any:
            """The pairs, which are alike on all replicas. TensorFlow never frees a graph in which it has added up."""
            return pairs

        def save_own_variables(self, store: Any) -> None:
            """Nothing: a file of weights would set the learning rate of any SGD that it is loaded beside."""

        def load_own_variables(self, store: Any) -> None:
            """Nothing: neither files of this optimizer nor those of another have anything for it."""


class Applier(Applies, keras.optimizers.SGD):
    """Keras' SGD with its learning rate, momentum and count of steps."""


def applier(method: Method) -> Any:
    """The optimizer that applies the updates of a method.

    Raises:
      ValueError: this Keras has no such optimizer.
    """
    inner = inner_optimizer(method.applied_by)
    if method.applied_by == "sgd":
        return Applier(method.learning_rate, momentum=method.momentum)
    return type("Applier", (Applies, inner), {})(method.learning_rate)


def give(model: Any, optimizer: Any) -> None:
    """Makes an optimizer the model's, however the model was compiled, and nothing that is saved with it."""
    model.optimizer = optimizer
    model.train_function = None  # traced with another one
    model._delete_tracking("optimizer")  # as Keras 2 does where it saves a model without
    if KERAS_3 and hasattr(model, "_compile_config"):
        del model._compile_config  # what a file is told of the optimizer


# At every so many steps of an epoch, from its first, the update is compared with the gradient.
COMPARE_EVERY = 16
# A call of the loop should last about this long: short enough to answer Ctrl-C, long enough to cost nothing.
CALL_SECONDS = 0.5


def _check_tokens(model: Any, data: Any) -> None:
    """Refuses a stream of tokens for a model of another vocabulary or context."""
    vocabulary = getattr(data, "vocabulary", None)
    if vocabulary is None:
        return
    shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    for name, wanted, shape in (("context", data.shape[0], shapes[0]), ("vocabulary", vocabulary, shapes[1])):
        has = shape[-1] if isinstance(shape, tuple) else None
        if has is not None and has != wanted:
            raise ValueError(
                f"the text has a {name} of {wanted} and model {model.name!r} has one of {has}: they must be the same"
            )


class Trainer:
    """Trains a Keras model by a method, with the loop over steps on the device.

    Args:
      model: a built Keras model with at least one trainable variable. What it was compiled with counts: losses, their
        weights, metrics. Its optimizer becomes one that only applies the method's updates:
        ``model.optimizer.learning_rate`` is the rate in use, and callbacks may change it. The model is saved without
        it, and loads uncompiled; ``model.fit`` refuses it.
      method: a :class:`rbd_ipu.methods.Method`, for example from :func:`rbd_ipu.methods.create`.
      device: "cpu", "gpu", or an opened device.
      loss: a loss as ``compile`` takes it, in place of the model's own; or, for several outputs, a function of all of
        them, ``loss(y, outputs)``. By default what the model was compiled with, and otherwise softmax cross entropy
        of logits with integer labels.
      replay_log: a :class:`rbd_ipu.ReplayLog`, which keeps the messages of every step; or None.

    Raises:
      ValueError: the model is not built or has no trainable variables; the method does not fit it; or the model asks
        for what only Keras' own ``fit`` does (``docs/keras.md``), with what to use instead; or a replay log cannot be
        kept of such a training.
      TypeError: an argument is of the wrong kind.

    Example:
      >>> import numpy as np, rbd_ipu
      >>> from rbd_ipu import methods, models
      >>> model = models.build("fc", shape=(8, 8, 1), seed=0)
      >>> trainer = rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=1.0, dim=16), "cpu")
      >>> x = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
      >>> history = trainer.fit((x, np.arange(64) % 10), epochs=2, verbose=0)
      >>> sorted(history.history)
      ['accuracy', 'correlation', 'cosine', 'images_per_second', 'loss', 'seconds', 'step']
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        device: Union[str, Device] = "cpu",
        loss: Optional[Any] = None,
        replay_log: Optional[Any] = None,
    ):
        if any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(model).__mro__):
            raise TypeError(
                f"model {getattr(model, 'name', model)!r} is of tf_keras, the legacy Keras 2 (tf.keras is that "
                "one with TF_USE_LEGACY_KERAS=1); here rbd_ipu trains models of the package keras, which is Keras 3"
            )
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be a Keras model, got {model!r}")
        if not isinstance(method, Method):
            raise TypeError(f"method must come from rbd_ipu.methods.create(name, ...), got {method!r}")
        if not model.built:
            raise ValueError(
                f"model {model.name!r} is not built yet, so its parameters cannot be counted; give it an Input "
                "layer or call it on a batch first"
            )
        if not model.trainable_variables:
            raise ValueError(f"model {model.name!r} has no trainable variables; nothing can be trained")
        bound = [v for v in model.trainable_variables if getattr(v, "constraint", None) is not None]
        if bound and not method.follows_gradient:
            raise ValueError(
                f"the constraint of {bound[0].name!r} would move weights out of the subspace of method "
                f"{method.name!r}: leave it out, or use method 'sgd'"
            )
        direct = [v for v in model.trainable_variables if getattr(v, "overwrite_with_gradient", False)]
        if direct:
            raise ValueError(
                f"Keras sets {direct[0].name!r} to its gradient (overwrite_with_gradient), where method "
                f"{method.name!r} subtracts an update: freeze it, or train by model.fit with an optimizer of Keras"
            )
        self.model = model
        self.method = method
        self.device = open_device(device) if isinstance(device, str) else device
        self.device.check(model)
        self.objective = Objective(model, loss)
        self._variables = list(model.trainable_variables)
        self.replay_log = replay_log
        if replay_log is not None:
            replay_log.check(self)
        with self.device:
            fed = self.device.exchange.fed
            self.method.play(fed if len(fed) > 0 else (0,), self.device.exchange.workers)
            self.method.build(self._variables)
            self.optimizer = optimizer = applier(method)
            self.objective.compile(optimizer)
            give(model, optimizer)
            create_variables(optimizer, self._variables)
        step = one_step(
            model, self.objective, method, optimizer, self._variables, self.device.exchange, COMPARE_EVERY,
            self.device.part, self.device.subtract, None if replay_log is None else replay_log.append,
        )  # fmt: skip
        self._run = self.device.loop(step)
        self._evaluate = self.device.evaluation(self.objective)
        self._rate = 0.0  # steps a second, as last measured
        self._traced = False  # the first call traces and compiles: its time says nothing
        #: Where the training is: a checkpoint keeps it, and ``fit(start=...)`` goes on from there.
        self.progress = Progress()

    def fit(
        self,
        train: Any,
        validation: Optional[Any] = None,
        epochs: int = 1,
        callbacks: Any = (),
        verbose: Any = "auto",
        initial_epoch: int = 0,
        batch_size: int = 32,
        steps_per_epoch: Optional[int] = None,
        seed: int = 0,
        start: Optional[Progress] = None,
    ) -> Any:
        """Trains for some epochs.

        Args:
          train: a :class:`rbd_ipu.data.Batches`; arrays ``(x, y)`` or ``(x, y, weights)``, shuffled by ``seed`` and
            cut into batches of ``batch_size`` (the remainder of an epoch is left out); or a ``tf.data.Dataset`` of
            such batches. x, y and weights may be several, in tuples or dicts, for several inputs and outputs.
          validation: the same kinds, or None; evaluated after each epoch, whole and in order.
          epochs: the epoch to stop before, counted from 0 over the whole run.
          callbacks: Keras callbacks; ``docs/keras.md`` says of each what it does here. A callback of your own with a
            hook of the batch gets every batch, which costs a call of the loop a step; one that sets
            ``every_batch = False`` is called once for each call, of about half a second.
          verbose: 0 silent, 1 a progress bar, 2 a line an epoch; "auto" is 1.
          initial_epoch: the epoch to start at.
          batch_size, seed: for arrays only.
          steps_per_epoch: cuts epochs of a tf.data.Dataset; required where its length is unknown or infinite. Each
            goes on where the one before stopped, as in Keras, and the data begin again where they end. It counts
            mini-batches, of which a step of some methods takes several.
          start: where to go on, also in the middle of an epoch: the ``progress`` of an earlier trainer, whose weights
            and optimizer this one has been given, as by :func:`rbd_ipu.checkpoints.restore`. It overrides
            ``initial_epoch``. The history then holds the epochs that end from there on.

        Returns:
          The Keras History. Each epoch has: ``loss`` and, where the loss is one of classes, ``accuracy`` (means over
          its examples), or in its place the metrics that the model was compiled with; the same with
          ``val_``; ``correlation`` and ``cosine`` (of the update with the full gradient, means over every sixteenth
          step), ``images_per_second`` (of training alone, without the first call, which traces),
          ``seconds`` (all of the epoch) and ``step`` (updates so far).

        Raises:
          NonFiniteError: a loss or update was NaN or infinite. The weights are those of the last finite step.
          TypeError, ValueError: data or an argument is wrong, or a callback does not work here; a text has another
            vocabulary or context than the model; the method has groups of workers, and there is one worker.
        """
        epochs = checks.positive_int("epochs", epochs)
        check_groups(self.method, self.device.exchange)  # a trainer that replays has one worker
        shards = self.device.exchange.shards
        source = feed(train, batch_size, seed, steps_per_epoch, shards, self.method.batches)
        held_out = None if validation is None else in_order(validation, batch_size)
        self._check_model()
        for text in (train, validation):
            _check_tokens(self.model, text)
        self.objective.build(source.spec, self.device)
        history = keras.callbacks.History()
        give(self.model, self.optimizer)
        hooks = Hooks(
            callbacks,
            self,
            own=(history,),
            add_progbar=verbose not in (0, False),
            verbose=1 if verbose == "auto" else int(verbose),
            epochs=epochs,
            steps=source.steps_per_epoch,
        )
        if hooks.backup is not None:
            start = hooks.backup.restore(source.steps_per_epoch) or start
        self.model.stop_training = False
        self.progress = (start or Progress(epoch=initial_epoch)).within(source.steps_per_epoch)
        self.device.compare({"epochs": epochs, "steps of an epoch": source.steps_per_epoch})
        if self.replay_log is not None:
            self.replay_log.begin(self, resumed=start is not None)
        hooks.begin(self.progress.step)
        logs: Optional[Dict[str, float]] = None
        try:
            iterators = source.iterators(self.progress.epoch, self.progress.step, self.device.iterate)
            for epoch in range(self.progress.epoch, epochs):
                hooks.on_epoch_begin(epoch)
                logs = self._train_epoch(epoch, next(iterators), source, hooks, history)
                started = time.perf_counter()
                self.method.gather(self.device, self.step)
                if held_out is not None:
                    hooks.on_test_begin()
                    found = self.evaluate(held_out)
                    hooks.on_test_end(found)
                    logs.update({f"val_{k}": v for k, v in found.items()})
                logs["seconds"] = self.progress.seconds + time.perf_counter() - started
                # A loss that is not a number has ended the training of all workers.
                failed = self.device.has_numbers and math.isnan(logs["loss"])
                if not failed:
                    self.progress = Progress(epoch=epoch + 1, steps_per_epoch=source.steps_per_epoch)
                hooks.on_epoch_end(epoch, logs)
                if failed or self.device.agree(int(not self.model.stop_training)) == 0:
                    break
        except BaseException as error:
            if hooks.backup is not None:
                hooks.backup.keeps = True
            self.device.leave(error)
            raise
        finally:
            hooks.on_train_end(logs)
        return history

    def evaluate(self, data: Any, batch_size: int = 32) -> Dict[str, float]:
        """Mean ``loss`` and ``accuracy`` (or the model's metrics) over data of the kinds that :meth:`fit` takes."""
        self.objective.check_compiled()
        dataset = in_order(data, batch_size)
        self.objective.build(dataset.element_spec, self.device)
        with self.device:
            self.objective.reset()
            sums = [float(value) for value in self._evaluate(dataset)]
            if sums[0] == 0:
                raise ValueError("the data to evaluate on is empty")
            return {
                **examined(sums),
                **self.objective.results(self.objective.kept_by_first(self.device), self.device),
            }

    @property
    def step(self) -> int:
        """The number of updates so far."""
        return int(self.optimizer.iterations.numpy())  # a mirrored one is no number

    def _check_model(self) -> None:
        """Refuses a model that trains other variables, or by another loss, than when the Trainer was made."""
        self.objective.check_compiled()
        now = self.model.trainable_variables
        if len(now) != len(self._variables) or any(a is not b for a, b in zip(now, self._variables)):
            raise ValueError(
                f"model {self.model.name!r} had {len(self._variables)} trainable variables when this Trainer was "
                f"made, and has {len(now)} or others now: make a new Trainer after layers were frozen or unfrozen"
            )

    def _train_epoch(self, epoch: int, iterator: Any, source: Feed, hooks: Hooks, history: Any) -> Dict[str, float]:
        while self.progress.step < source.steps_per_epoch:
            done = self.progress.step
            wanted = self.device.steps_a_call(int(self._rate * CALL_SECONDS), source.steps_per_epoch, hooks.every)
            wanted = hooks.until_due(min(wanted, source.steps_per_epoch - done))
            if self.model.stop_training:  # as in Keras, an epoch that has begun has a step
                wanted = 0 if done else 1
            n = self.device.agree(wanted)
            if n == 0:  # a callback has stopped the training, perhaps that of another worker
                self.model.stop_training = True
                break
            hooks.on_train_batch_begin(done)
            started = time.perf_counter()
            try:
                sums, finite = self._call(iterator, n, done)
            except tf.errors.OutOfRangeError as error:
                raise ValueError(
                    f"the dataset ended within epoch {epoch + 1}, before its step {source.steps_per_epoch}: it has "
                    "fewer batches than steps_per_epoch says"
                ) from error
            seconds = time.perf_counter() - started
            self.progress = self.progress.after(int(sums[0]) - done, sums, seconds, timed=self._traced)
            if not finite:
                if not hooks.forgiving:
                    raise NonFiniteError(epoch, self.step, current_rate(self.optimizer), history)
                hooks.ran(done, int(sums[0]) - done + 1, {"loss": math.nan})
                self.model.stop_training = True
                return {"loss": math.nan, "step": self.step}
            if self._traced:
                self._rate = n / seconds
            self._traced = True
            hooks.ran(done, n, self._logs())
        logs = self._logs()
        logs["step"] = self.step
        if self.progress.timed_steps:
            logs["images_per_second"] = source.images * self.progress.timed_steps / self.progress.timed_seconds
        logs.update(self.device.measured())
        return logs

    def _call(self, iterator: Any, n: int, done: int) -> Tuple[Sequence[float], float]:
        """(sums of the epoch up to there, whether all was finite) after n more steps."""
        before, kept = self.progress.sums[: len(MEASURES)], self.progress.sums[len(MEASURES) :]
        with self.device:
            if done:
                self.objective.keep(kept, self.device)
            else:
                self.objective.reset()
        *sums, finite = self._run(iterator, n, done, before)
        with self.device:
            return [*sums, *self.objective.kept(self.device)], finite

    def _logs(self) -> Dict[str, float]:
        """The metrics of the epoch so far."""
        sums = self.progress.sums
        with self.device:
            return {**means(sums), **self.objective.results(sums[len(MEASURES) :], self.device)}
