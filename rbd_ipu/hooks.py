"""The callbacks of a ``Trainer.fit``: which of them work there, and how often the loop has to come back for them."""

import math
from typing import Any, Dict, List, Tuple

from rbd_ipu._compat import KERAS_3, keras, tf

#: Those of ``keras.callbacks`` that do not work in a Trainer: why, and what to use instead.
REFUSED: Dict[str, str] = {
    "BaseLogger": "the logs of a Trainer are means over the epoch already: leave it out",
    "OrbaxCheckpoint": (
        "it does not hold all that a Trainer goes on from: use keras.callbacks.BackupAndRestore or "
        "rbd_ipu.checkpoints.Checkpoints to go on, keras.callbacks.ModelCheckpoint to keep the model"
    ),
    "SwapEMAWeights": (
        "a Trainer keeps no moving average of the weights: train by model.fit with "
        "rbd_ipu.RandomBasesDescent(..., use_ema=True)"
    ),
}
_TRAIN_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_TEST_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_RISING = ("accuracy", "cosine", "correlation")  # of the Trainer's own measures, those of which more is better


def of_keras(name: str) -> Tuple[Any, ...]:
    """The classes that Keras has under a name in ``keras.callbacks``: one, or none."""
    places = (keras.callbacks, getattr(keras.callbacks, "experimental", None))
    return tuple(getattr(place, name) for place in places if hasattr(place, name))


class Hooks(keras.callbacks.CallbackList):
    """The callbacks of one ``Trainer.fit``, as a Keras CallbackList.

    The loop runs many steps a call; the hooks of a batch are called before and after each call. Where a callback has
    to see certain batches, calls end at these:

    ==========================================  ===================================================================
    callback                                    sees
    ==========================================  ===================================================================
    one of the user's with a hook of the batch  every batch; with the attribute ``every_batch = False``, each call
    ModelCheckpoint(save_freq=k)                every k-th batch, and so does BackupAndRestore(save_freq=k)
    TensorBoard                                 every batch where it writes something of each, else each call
    all others of Keras and of this package     each call
    ==========================================  ===================================================================

    Args:
      callbacks: of Keras: one, several (also nested), or a CallbackList; None: none.
      trainer: the Trainer.
      own: further callbacks, not checked.
      **options: as for the CallbackList.

    Attributes:
      every: calls must end at each multiple of so many steps of this fit; 0: anywhere.
      done: the steps of this fit so far.
      forgiving: whether a number that is not finite shall end the training without an error: TerminateOnNaN.
      backup: what plays the part of a BackupAndRestore, or None.

    Raises:
      TypeError: something is no callback of this Keras.
      ValueError: a callback does not work here; with the reason, and what to use instead.
    """

    def __init__(self, callbacks: Any, trainer: Any, own: Tuple[Any, ...] = (), **options: Any):
        given = _listed(callbacks)
        for callback in given:
            _check(callback, trainer)
        backups = [callback for callback in given if isinstance(callback, of_keras("BackupAndRestore"))]
        if len(backups) > 1:
            raise ValueError(f"{len(backups)} BackupAndRestore callbacks; a training goes on from one backup")
        given = [callback for callback in given if callback not in backups]
        self.backup = None
        if backups:
            from rbd_ipu.checkpoints.callback import Backup  # late: most runs have none

            self.backup = Backup(backups[0], trainer)
            given.append(self.backup)  # the last: it never counts an epoch that others have not seen the end of
        self.done = 0
        self.every = 0 if self.backup is None else self.backup.every
        for callback in given:
            self.every = math.gcd(self.every, _steps_between(callback))
        self.forgiving = any(isinstance(callback, of_keras("TerminateOnNaN")) for callback in given)
        bars = of_keras("ProgbarLogger")
        self._counts = not KERAS_3 and any(_writes_batches(one) or isinstance(one, bars) for one in given)
        super().__init__([*given, *own], model=trainer.model, **options)
        for callback in given:
            if KERAS_3 and getattr(callback, "monitor_op", callback) is None:
                callback._set_monitor_op()  # refuses what it cannot judge; by itself it would do so after an epoch

    def begin(self, step: int) -> None:
        """The training begins, at a step of an epoch."""
        for callback in self.callbacks:
            if _saves_by_batch(callback):
                callback._last_batch_seen = step - 1  # else Keras would count a batch less, or those before ``step``
        if self._counts:
            self.model._train_counter.assign(0)
        self.on_train_begin()

    def ran(self, first: int, steps: int, logs: Dict[str, float]) -> None:
        """A call of the loop has ended."""
        self.done += steps
        if self._counts:  # what Keras 2 does within its train_function
            counter = self.model._train_counter
            counter.assign_add(steps)
            for name, value in logs.items():
                tf.summary.scalar(f"batch_{name}", value, step=counter)
        self.on_train_batch_end(first + steps - 1, logs)

    def until_due(self, wanted: int) -> int:
        """How many of ``wanted`` steps the next call may take."""
        return min(wanted, self.every - self.done % self.every) if self.every else wanted


def _listed(callbacks: Any) -> List[Any]:
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if isinstance(callbacks, keras.callbacks.Callback):
        return [callbacks]
    try:
        return list(tf.nest.flatten(list(callbacks)))
    except TypeError:
        raise TypeError(f"callbacks must be a list of Keras callbacks, got {callbacks!r}") from None


def _check(callback: Any, trainer: Any) -> None:
    if not isinstance(callback, keras.callbacks.Callback):
        raise TypeError(
            f"callbacks must be callbacks of Keras {keras.__version__} (keras.callbacks.Callback), got {callback!r}"
        )
    name = type(callback).__name__
    for refused, reason in REFUSED.items():
        if isinstance(callback, of_keras(refused)):
            raise ValueError(f"{name} does not work in Trainer.fit: {reason}")
    if isinstance(callback, of_keras("BackupAndRestore")) and type(callback) not in of_keras("BackupAndRestore"):
        raise ValueError(
            f"{name} does not work in Trainer.fit, which plays BackupAndRestore itself, for a Trainer has a state of "
            "its own: use keras.callbacks.BackupAndRestore as it is, or rbd_ipu.checkpoints.Checkpoints"
        )
    if isinstance(callback, (*of_keras("LearningRateScheduler"), *of_keras("ReduceLROnPlateau"))):
        rate = trainer.method.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                f"{name} sets the learning rate, and this method follows a schedule, {type(rate).__name__}: "
                "give the method a number, or leave the callback out"
            )
    seen = [hook for hook in _TEST_HOOKS if _is_users(callback, hook)]
    if seen:
        raise ValueError(
            f"{name}.{seen[0]} would never be called in Trainer.fit, where a validation is one call: use "
            "on_test_begin and on_test_end, or on_epoch_end"
        )
    if KERAS_3 and getattr(callback, "mode", None) == "auto" and _measured(callback) in _RISING:
        callback.mode = "max"  # Keras would look for a metric of its own by that name


def _measured(callback: Any) -> str:
    """What a callback looks at, whether of the training or of the validation."""
    name = str(getattr(callback, "monitor", ""))
    return name[len("val_") :] if name.startswith("val_") else name


def _steps_between(callback: Any) -> int:
    """The callback must be called after each multiple of so many steps; 0: after some."""
    if any(_is_users(callback, hook) for hook in _TRAIN_HOOKS):
        return 1 if getattr(callback, "every_batch", True) else 0
    if _saves_by_batch(callback):
        return math.gcd(callback.save_freq, callback._batches_seen_since_last_saving)
    return 1 if _writes_batches(callback) else 0


def _saves_by_batch(callback: Any) -> bool:
    return isinstance(callback, of_keras("ModelCheckpoint")) and callback.save_freq != "epoch"


def _writes_batches(callback: Any) -> bool:
    """Whether it is a TensorBoard that writes something of every batch."""
    if not isinstance(callback, of_keras("TensorBoard")):
        return False
    return callback.update_freq != "epoch" or callback.write_steps_per_second


def _is_users(callback: Any, hook: str) -> bool:
    """Whether a hook is of neither Keras nor this package; a LambdaCallback has the user's functions."""
    module = getattr(getattr(callback, hook), "__module__", None) or ""
    return module.split(".")[0] not in ("keras", "tensorflow", "rbd_ipu")
