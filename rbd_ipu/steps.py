"""One update, from a mini-batch to changed weights: what the loop of every device repeats."""

from typing import Any, Callable, Dict, List

from rbd_ipu._stack import apply_update, tf
from rbd_ipu.exchange import Exchange
from rbd_ipu.losses import hits
from rbd_ipu.methods import Method
from rbd_ipu.state import State, unflatten
from rbd_ipu.statistics import likeness

#: What a step measures, in order: float32 scalars. ``cosine`` and ``correlation`` are 0 at the steps that are not
#: ``compared``: to compare the update with the gradient takes five passes over both, as long as a small network.
MEASURES = ("steps", "compared", "loss", "accuracy", "cosine", "correlation")

Step = Callable[[Callable[[], Any], Any], Dict[str, Any]]


def descend(method: Method, state: State, batch: Any, step: Any, exchange: Exchange) -> Any:
    """The update of this step, in units of the learning rate, the same on all workers: [D].

    Algorithm 1 of the paper: every worker's message, one exchange, and the update of all.
    """
    if exchange.workers == 1:
        return method.step(state, batch, step)
    return method.update(exchange.gather(method.message(state, batch, step, exchange.worker())), step)


def one_step(
    model: Any,
    loss: Callable[[Any, Any], Any],
    method: Method,
    optimizer: Any,
    variables: List[Any],
    exchange: Exchange,
    compare_every: int,
) -> Step:
    """The function ``(next_batch, place) -> measures`` that makes one update, to be called in a traced function.

    ``next_batch()`` gives this worker's next mini-batch (x, y); ``place`` is the step's number in its epoch. A step
    whose loss or update is not finite changes no weights; its measures say ``finite`` = 0.
    """

    def run(next_batch: Callable[[], Any], place: Any) -> Dict[str, Any]:
        batch = next_batch()
        state = State(model, loss, variables, next_batch)
        step = tf.cast(optimizer.iterations, tf.int32)
        update = descend(method, state, batch, step, exchange)
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

    return run
