"""The loop of many steps on the device: one function, run by the strategy, n steps a call."""

from typing import Any, Callable, Dict, List, NamedTuple

from rbd_ipu._stack import apply_update, tf
from rbd_ipu.losses import hits
from rbd_ipu.methods import Method
from rbd_ipu.state import State, unflatten
from rbd_ipu.statistics import likeness


class Totals(NamedTuple):
    """Sums over the steps of a call, float32 scalars; each divided by ``steps`` is a mean over steps.

    But ``cosine`` and ``correlation`` are sums over the ``compared`` steps: to compare the update with the gradient
    takes five passes over both, which is as long as a small network takes.

    ``finite`` is 1 as long as every loss and update was finite. The step at which one is not changes nothing,
    is not counted, and ends the loop: the weights are those of the last finite step.
    """

    steps: Any
    compared: Any
    loss: Any
    accuracy: Any
    cosine: Any
    correlation: Any
    finite: Any


def train_steps(
    model: Any,
    loss: Callable[[Any, Any], Any],
    method: Method,
    optimizer: Any,
    variables: List[Any],
    compare_every: int,
) -> Callable[[Any, Any, Any], Totals]:
    """The compiled function ``(iterator, n, done) -> Totals`` that trains for n steps, after ``done`` of the epoch.

    n is a tensor, so that calls of any length share one trace. On a CPU the network is a plain graph (ten times
    faster there than XLA); methods compile their bases.
    """

    def one_step(batch: Any, place: Any) -> Dict[str, Any]:
        state = State(model, loss, variables)
        step = tf.cast(optimizer.iterations, tf.int32)
        update = method.step(state, batch, step)
        seen = state.evaluate(batch)
        compared = tf.equal(place % compare_every, 0)
        if method.follows_gradient:
            cosine = correlation = tf.cast(compared, tf.float32)
        else:
            cosine, correlation = tf.cond(
                compared,
                lambda: likeness(update, seen.gradient),
                lambda: (tf.constant(0.0), tf.constant(0.0)),
            )
        right = hits(batch[1], seen.outputs)
        accuracy = tf.constant(float("nan")) if right is None else tf.reduce_mean(right)
        # A sum is not finite when an entry is not.
        finite = tf.math.is_finite(seen.loss) & tf.math.is_finite(tf.reduce_sum(update))
        tf.cond(finite, lambda: apply(update), lambda: tf.constant(0))
        return {
            "steps": tf.constant(1.0),
            "compared": tf.cast(compared, tf.float32),
            "loss": tf.cast(seen.loss, tf.float32),
            "accuracy": accuracy,
            "cosine": cosine,
            "correlation": correlation,
            "finite": tf.cast(finite, tf.float32),
        }

    def apply(update: Any) -> Any:
        apply_update(optimizer, list(zip(unflatten(update, variables), variables)))
        return tf.constant(0)

    @tf.function
    def run(iterator: Any, n: Any, done: Any) -> Totals:
        def body(i: Any, totals: Totals) -> Any:
            new = one_step(next(iterator), done + i)
            good = new.pop("finite")
            sums = {name: getattr(totals, name) + tf.where(good > 0.0, value, 0.0) for name, value in new.items()}
            return i + 1, Totals(finite=good, **sums)

        zero = tf.constant(0.0)
        start = Totals(zero, zero, zero, zero, zero, zero, tf.constant(1.0))
        _, totals = tf.while_loop(
            lambda i, totals: (i < n) & (totals.finite > 0.0),
            body,
            (tf.constant(0), start),
            parallel_iterations=1,
        )
        return totals

    return run


def evaluate_all(model: Any, loss: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The compiled function ``dataset -> (examples, sum of losses, sum of hits)``."""

    @tf.function
    def run(dataset: Any) -> Any:
        count, total, right = tf.constant(0.0), tf.constant(0.0), tf.constant(0.0)
        for x, y in dataset:
            outputs = model(x, training=False)
            n = tf.cast(tf.shape(x)[0], tf.float32)
            found = hits(y, outputs)
            count += n
            total += n * tf.cast(loss(y, outputs), tf.float32)
            right += tf.constant(float("nan")) if found is None else tf.reduce_sum(found)
        return count, total, right

    traces: Dict[Any, Callable] = {}

    def evaluate(dataset: Any) -> Any:
        # One trace for each kind of dataset, kept here: TensorFlow warns of functions traced once and called rarely.
        kind = str(dataset.element_spec)
        if kind not in traces:
            traces[kind] = run.get_concrete_function(dataset)
        return traces[kind](dataset)

    return evaluate
