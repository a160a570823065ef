"""R replicas on IPUs that exchange inside their program, by the collectives of Graphcore's TensorFlow."""

from typing import Any, List, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.exchange.base import Exchange
from rbd_ipu.exchange.plan import Plan


class Replicas(Exchange):
    """The replica that a program is, when it runs; which one, only the device knows.

    TensorFlow sees one replica (``replica_id_in_sync_group`` is always 0 on an IPU), so that the index comes from
    the device, and collectives are operations of the program. This process feeds its own replicas.

    Args:
      ipu: the package ``tensorflow.python.ipu``.
      workers: R, the replicas of all processes.
      plan: how they share the work; "auto" is "coordinates".
      first, local: the replicas that this process feeds are first ... first + local - 1.
    """

    def __init__(self, ipu: Any, workers: int, plan: Plan, first: int = 0, local: int = 1):
        self.workers = workers
        self.plan = plan._replace(exchange="coordinates") if plan.exchange == "auto" else plan
        self._ipu = ipu
        self.fed = range(first, first + local)

    @property
    def shards(self) -> List[Tuple[int, ...]]:
        # One stream: the infeed gives its elements to the replicas in turns.
        return [(self.fed[0], self.workers, len(self.fed))] if self.plan.mode.own_data else [(0, 1)]

    def worker(self) -> Any:
        return self._ipu.replication_ops.replication_index()

    def gather(self, message: Any) -> Any:
        rows = self._ipu.all_to_all_op.all_gather(message, self.workers)
        return tf.reshape(rows, [self.workers, *message.shape])

    def mean(self, vector: Any) -> Any:
        return self._ipu.cross_replica_ops.cross_replica_mean(vector)
