"""What an exchange is, and the one of a worker on its own."""

from typing import Any, List, Sequence, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.exchange.modes import shard_of
from rbd_ipu.exchange.plan import Plan


class Exchange:
    """K workers telling each other what they found; all of it is called inside the traced step.

    A process plays one worker; that of :class:`rbd_ipu.exchange.Simulated` plays all of them in turn.

    Attributes:
      workers: K, an int.
      plan: how they share the work.
      fed: the workers whose data this process reads.
      note: what ``exchange="auto"`` has been settled to, and why.
    """

    workers = 1
    note = ""
    fed: Sequence[int] = (0,)
    plan = Plan(exchange="coordinates")

    def worker(self) -> Any:
        """The index of this worker, 0 to K - 1: int32 scalar."""
        raise NotImplementedError

    def gather(self, message: Any) -> Any:
        """Every worker's message, in the order of the workers, the same everywhere: [m] -> [K, m]."""
        raise NotImplementedError

    def mean(self, vector: Any) -> Any:
        """The mean over the workers of a vector or scalar, the same everywhere."""
        raise NotImplementedError

    def ordered_mean(self, vector: Any) -> Any:
        """:meth:`mean`, added up in the order of the workers where that can be said: for small vectors."""
        return self.mean(vector)

    @property
    def shards(self) -> List[Tuple[int, ...]]:
        """The parts (i, n) of the data that this process reads, one for each worker that it feeds; or (i, n, count),
        one for all of them (:data:`rbd_ipu.feeding.Shards`).
        """
        return [shard_of(self.plan.mode, worker, self.workers) for worker in self.fed]

    def played(self) -> List[Any]:
        """The workers that this process plays: int32 scalars."""
        return [self.worker()]

    def gather_all(self, messages: Sequence[Any]) -> Any:
        """:meth:`gather` for the messages of all workers that this process plays."""
        return self.gather(messages[0])

    def mean_all(self, vectors: Sequence[Any], ordered: bool = False) -> Any:
        """:meth:`mean`, or :meth:`ordered_mean`, for the vectors of all workers that this process plays."""
        return self.ordered_mean(vectors[0]) if ordered else self.mean(vectors[0])


class Alone(Exchange):
    """The exchange of one worker: the identity.

    Example:
      >>> Alone().gather(tf.constant([1.0, 2.0])).shape.as_list()
      [1, 2]
    """

    def worker(self) -> Any:
        return tf.constant(0)

    def gather(self, message: Any) -> Any:
        return message[tf.newaxis]

    def mean(self, vector: Any) -> Any:
        return vector
