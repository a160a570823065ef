"""K processes, one worker each, that exchange through MPI."""

from typing import Any, Callable, Optional

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.errors import WorkersError
from rbd_ipu.parallel.cost_model import gathered, reduced
from rbd_ipu.parallel.exchange import Exchange
from rbd_ipu.parallel.meter import Meter, Volume
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.ranks import Ranks


class MPI(Exchange):
    """The worker that this process is: rank k of K. An exchange is one call of the host in the loop of steps.

    Coordinates are gathered and added up in the order of the ranks, by the operation that adds up simulated workers:
    K real ones and K simulated ones have the same bits. Updates, which are as long as the model, take MPI's own
    reduction; its order is MPI's.

    Args:
      ranks: from :func:`rbd_ipu.parallel.ranks.connect`.
      plan: how the workers share a step.

    Attributes:
      lost: the WorkersError that ended an exchange inside a traced function, where TensorFlow hides it.
    """

    def __init__(self, ranks: Ranks, plan: Plan):
        self.workers = ranks.size
        self.index = ranks.rank
        self.fed = (ranks.rank,)
        self.plan = plan
        self.meter = Meter(ranks.size)
        self.ranks = ranks

    @property
    def lost(self) -> Optional[WorkersError]:
        return self.ranks.lost

    def worker(self) -> Any:
        return tf.constant(self.index)

    def gather(self, message: Any) -> Any:
        rows = tf.numpy_function(self._timed(self.ranks.gather, gathered), [message], message.dtype)
        return tf.ensure_shape(rows, [self.workers, *message.shape])

    def mean(self, vector: Any) -> Any:
        total = tf.numpy_function(self._timed(self.ranks.total, reduced), [vector], vector.dtype)
        return tf.ensure_shape(total, vector.shape) / self.workers

    def ordered_mean(self, vector: Any) -> Any:
        return tf.add_n(tf.unstack(self.gather(vector))) / self.workers

    def _timed(self, collective: Callable[[np.ndarray], np.ndarray], volume: Volume) -> Callable[[np.ndarray], Any]:
        return lambda array: self.meter.timed(collective, array, volume)

    # --- on the host, between two calls of the loop --------------------------------------------------

    def rows(self, words: Any) -> np.ndarray:
        """Every worker's int32 [n]: [K, n]. All workers must ask."""
        return self.ranks.gather(np.asarray(words, np.int32))

    def from_first(self, data: bytes) -> bytes:
        """Worker 0's bytes, of a length that all know. All workers must ask."""
        return self.ranks.from_first(data)
