"""K replicas of a ``tf.distribute.MirroredStrategy``, a worker each, in one process."""

from typing import Any

from rbd_ipu._stack import tf
from rbd_ipu.exchange.base import Exchange
from rbd_ipu.exchange.plan import Plan


class Mirrored(Exchange):
    """The replica that is being traced; the strategy traces one after the other, and exchanges between devices.

    TensorFlow refuses an exchange of replicas within ``tf.cond`` and ``tf.while_loop``: those of the step go around
    ``strategy.run``, see :mod:`rbd_ipu.devices.mirrored`.

    Args:
      workers: K.
      plan: how they share the work.
    """

    def __init__(self, workers: int, plan: Plan):
        self.workers = workers
        self.fed = range(workers)
        self.plan = plan

    def worker(self) -> Any:
        return tf.constant(replica())

    def gather(self, message: Any) -> Any:
        rows = tf.distribute.get_replica_context().all_gather(message[tf.newaxis], axis=0)
        return tf.ensure_shape(rows, [self.workers, *message.shape])  # which the strategy has forgotten

    def mean(self, vector: Any) -> Any:
        # The identity, because all_reduce takes no argument of the function that is being traced.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.identity(vector))


def replica() -> int:
    """The index of the replica that is being traced, 0 to K - 1.

    Example:
      >>> replica()
      0
    """
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
