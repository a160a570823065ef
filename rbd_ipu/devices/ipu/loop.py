"""The programs that an IPU runs: loops of constant length, compiled whole, with queues at both ends.

They are plain functions of what they are given, so that they can be traced anywhere: ``next(iterator)`` is an infeed
where the iterator was made in the scope of an ``IPUStrategy``, and ``enqueue`` that of an outfeed.
"""

from typing import Any, Callable, Optional, Sequence

from rbd_ipu._stack import tf
from rbd_ipu.devices.ipu.fingerprint import fingerprint
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.steps import MEASURES, Step

#: What a step tells the host, in order: float32.
TOLD = (*MEASURES, "finite")


def train_program(
    step: Step,
    steps: int,
    enqueue: Callable[[Any], Any],
    compared: Sequence[Any] = (),
    finish: Optional[Callable[..., Any]] = None,
) -> Callable[[Any, Any], None]:
    """The compiled function ``(iterator, done)`` that trains for ``steps`` steps.

    The length is a Python int, so that the loop is a Poplar Repeat; another length is another program. A loop of
    constant length cannot stop: after a step whose loss or update is not finite, the others change no weights.

    Args:
      step: one update, :func:`rbd_ipu.steps.one_step`.
      steps: how many.
      enqueue: called once, with what every step tells the host: a dict of ``measures``, float32 in the order of
        TOLD, and, where there are ``compared``, their ``fingerprint`` after the step, int32.
      compared: variables that all replicas should hold alike.
      finish: ``finish(*batch)`` is (x, y), where the iterator's batches are images as stored.

    Returns:
      A ``tf.function`` of the iterator of this program's batches, and of the number of steps before it in the epoch,
      an int32 scalar tensor. It can be traced on any TensorFlow, with any iterator: ``get_concrete_function``.
    """

    def run(iterator: Any, done: Any) -> None:
        def body(i: Any, alive: Any) -> Any:
            new = step.run(lambda: _batch(iterator, finish), done + i, alive > 0.0)
            told = {"measures": tf.stack([new[name] for name in TOLD])}
            if compared:
                told["fingerprint"] = fingerprint(compared)
            enqueue(told)
            return i + 1, new["finite"]

        tf.while_loop(lambda i, _: i < steps, body, (tf.constant(0), tf.constant(1.0)), parallel_iterations=1)

    return tf.function(run, jit_compile=True)


def _batch(iterator: Any, finish: Optional[Callable[..., Any]]) -> Any:
    batch = next(iterator)
    return batch if finish is None else finish(*batch)


def evaluate_program(
    objective: Objective, steps: int, enqueue: Callable[[Any], Any], finish: Optional[Callable[..., Any]] = None
) -> Callable[[Any], None]:
    """The compiled function ``(iterator)`` that looks at ``steps`` batches, without learning.

    ``enqueue`` is called once, with each batch's sums, float32 in the order of REPORTED. ``finish`` as in
    :func:`train_program`.
    """

    def run(iterator: Any) -> None:
        def body(i: Any) -> Any:
            batch = _batch(iterator, finish)
            loss, outputs = objective(batch, training=False)
            report = objective.report(batch, outputs, loss)
            enqueue(tf.concat([report, tf.zeros([len(REPORTED) - report.shape[0]])], axis=0))
            return (i + 1,)

        tf.while_loop(lambda i: i < steps, body, (tf.constant(0),), parallel_iterations=1)

    return tf.function(run, jit_compile=True)
