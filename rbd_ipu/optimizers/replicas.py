"""Coordinates averaged over replicas: one collective of one vector, right under every strategy.

Keras divides a replica's loss by ``num_replicas_in_sync``, so that the sum of the replicas' gradients is the gradient
of the mean. Under Graphcore's ``IPUStrategy`` that number is 1 whatever the replicas are, nothing is divided,
and the mean has to be taken. Its ``PopDistStrategy`` says how many there are.
"""

import contextlib
import threading
from typing import Any, Iterator, List, Sequence, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.place import here, on_ipu
from rbd_ipu.state import flatten, unflatten

_here = threading.local()  # each replica has its thread


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """For what all replicas hold alike: there is nothing to exchange."""
    before = getattr(_here, "agreed", False)
    _here.agreed = True
    try:
        yield
    finally:
        _here.agreed = before


def alone() -> bool:
    """Whether there is one replica only; on an IPU, whether somebody said so (``rbd_ipu.open_device`` does)."""
    if getattr(_here, "agreed", False):
        return True
    return here().replicas == 1 if on_ipu() else tf.distribute.get_strategy().num_replicas_in_sync == 1


def mean(coordinates: Any) -> Any:
    """The mean over replicas of their batches' coordinates, of losses as Keras divided them."""
    context = tf.distribute.get_replica_context()
    if context is None or alone():
        return coordinates
    divided = tf.distribute.get_strategy().num_replicas_in_sync > 1
    operation = tf.distribute.ReduceOp.SUM if divided else tf.distribute.ReduceOp.MEAN
    return context.all_reduce(operation, tf.identity(coordinates))


def whole_batch(pairs: Sequence[Tuple[Any, Any]]) -> List[Tuple[Any, Any]]:
    """(gradient, variable) pairs of a replica's part -> those of the whole batch, in one collective of D numbers."""
    gradients, variables = zip(*pairs)
    return list(zip(unflatten(mean(flatten(gradients)), variables), variables))
