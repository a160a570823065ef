"""K processes, one worker each, in a ring of connections that were made before they began."""

from typing import Any, Optional

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.exchange.base import Exchange
from rbd_ipu.exchange.meter import Meter
from rbd_ipu.exchange.plan import Plan
from rbd_ipu.exchange.ring import Ring
from rbd_ipu.workers.errors import WorkersError


class Neighbours(Exchange):
    """The worker that this process is, among those that ``rbd-ipu train --workers K`` has started or a cluster.

    Beside one by TensorFlow's collectives a message needs no names of devices and operations, some 400 bytes, and a
    small one takes a quarter of the time: no server stands between two processes.

    Attributes:
      lost: the WorkersError that ended an exchange inside a traced function, where TensorFlow hides it.
    """

    def __init__(self, ring: Ring, plan: Plan):
        self.workers = ring.workers
        self.index = ring.worker
        self.fed = (ring.worker,)
        self.plan = plan
        self.meter = Meter()
        self.lost: Optional[WorkersError] = None
        self._ring = ring

    def worker(self) -> Any:
        return tf.constant(self.index)

    def gather(self, message: Any) -> Any:
        rows = tf.numpy_function(self._heard(self._ring.gather), [message], message.dtype)
        return tf.ensure_shape(rows, [self.workers, *message.shape])

    def mean(self, vector: Any) -> Any:
        total = tf.numpy_function(self._heard(self._ring.total), [vector], vector.dtype)
        return tf.ensure_shape(total, vector.shape) / self.workers

    def _heard(self, collective: Any) -> Any:
        def run(array: np.ndarray) -> np.ndarray:
            try:
                return self.meter.timed(collective, array)
            except WorkersError as error:
                self.lost = error
                raise

        return run

    # --- on the host, between two calls of the loop --------------------------------------------------

    def rows(self, words: Any) -> np.ndarray:
        """Every worker's int32 [n]: [K, n]. All workers must ask."""
        return self._ring.gather(np.asarray(words, np.int32))

    def total(self, words: np.ndarray) -> np.ndarray:
        """The sum over the workers of int32 [n]. All workers must ask."""
        return self._ring.total(words)
