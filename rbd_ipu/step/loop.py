"""The loop of many steps on the device: one function, run by the strategy, n steps a call."""

from typing import Any, Callable, Dict, Optional

from rbd_ipu._compat import tf
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.step.step import LOGGED, MEASURES, Run


def train_steps(step: Run, logged: bool = False) -> Callable[[Any, Any, Any, Any], Any]:
    """The compiled function ``(iterator, n, done, sums) -> sums`` that trains for n steps, ``done`` into the epoch.

    ``step(next_batch, place) -> measures`` is one update: the ``run`` of a :class:`rbd_ipu.step.step.Step`, or what a
    device makes of one.

    ``sums``, a float vector in the order of ``MEASURES``, are those over the steps of the epoch before; the steps are
    added to them one by one, so that no bit depends on where the epoch is cut into calls. They come back as scalars
    of their type, with ``finite`` after them: 1 as long as every loss and update was finite. The step at which one is
    not is not counted and ends the loop: the weights are those of the last finite step.

    ``iterator`` is a tuple of iterators where a process plays several workers, one for each.

    ``logged`` adds a last result: the rows ``LOGGED`` of all steps that were tried, int32 [n, ...].

    n is a tensor, so that calls of any length share one trace. On a CPU the network is a plain graph (ten times
    faster there than XLA); methods compile their bases.
    """

    @tf.function
    def run(iterator: Any, n: Any, done: Any, sums: Any) -> Any:
        def body(i: Any, sums: Any, _: Any, *rows: Any) -> Any:
            new = step(_next(iterator), done + i)
            measured = tf.stack([new[name] for name in MEASURES])
            added = tf.where(new["finite"] > 0.0, measured, tf.zeros_like(measured))
            kept = [row.write(i, new[LOGGED]) for row in rows]
            return (i + 1, sums + tf.cast(added, sums.dtype), new["finite"], *kept)

        kept = [tf.TensorArray(tf.int32, size=n)] if logged else []
        tried, total, finite, *kept = tf.while_loop(
            lambda i, _, finite, *rows: (i < n) & (finite > 0.0),
            body,
            (tf.constant(0), tf.ensure_shape(sums, [len(MEASURES)]), tf.constant(1.0), *kept),
            parallel_iterations=1,
        )
        return (*tf.unstack(total), finite, *[rows.gather(tf.range(tried)) for rows in kept])

    return run


def replay_steps(step: Callable[[Any], Any], width: int) -> Callable[[Any], Any]:
    """The compiled function ``rows int32 [n, width] -> how many were good`` that makes n steps again.

    ``step`` is that of :func:`rbd_ipu.step.step.one_replayed`; the first row that is not good ends the loop.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, width], tf.int32)])
    def run(rows: Any) -> Any:
        def body(i: Any, _: Any) -> Any:
            good = step(rows[i])
            return i + tf.cast(good, tf.int32), good

        return tf.while_loop(
            lambda i, good: (i < tf.shape(rows)[0]) & (good > 0.0),
            body,
            (tf.constant(0), tf.constant(1.0)),
            parallel_iterations=1,
        )[0]

    return run.get_concrete_function()  # TensorFlow warns of functions traced once and called rarely


def _next(iterator: Any) -> Callable[..., Any]:
    """What gives the next mini-batch; of several iterators, that of the i-th."""
    if isinstance(iterator, tuple):
        return lambda i: next(iterator[i])
    return lambda: next(iterator)


def evaluate_all(objective: Objective, as_replica: Optional[Callable[..., Any]] = None) -> Callable[[Any], Any]:
    """The compiled function ``dataset -> sums`` over all examples, in the order of REPORTED.

    ``as_replica(function)`` calls it where Keras can compute losses and metrics; None: anywhere.
    """

    @tf.function
    def run(dataset: Any) -> Any:
        sums = tf.zeros([len(REPORTED)])
        for batch in dataset:
            outputs = objective.forward(batch, training=False)

            def look(batch: Any = batch, outputs: Any = outputs) -> Any:
                report = objective.report(batch, outputs, objective.loss_of(batch, outputs, training=False))
                return tf.pad(report, [[0, len(REPORTED) - report.shape[0]]])

            plain = objective.is_plain(batch, outputs) and not objective.measured_by_keras
            sums += look() if plain or as_replica is None else as_replica(look)
        return tuple(tf.unstack(sums))

    traces: Dict[Any, Callable] = {}

    def evaluate(dataset: Any) -> Any:
        # One trace for each kind of dataset, kept here: TensorFlow warns of functions traced once and called rarely.
        kind = str(dataset.element_spec)
        if kind not in traces:
            traces[kind] = run.get_concrete_function(dataset)
        return traces[kind](dataset)

    return evaluate
