"""Meters: how long the exchanges of a worker took, and how many bytes it sent for them."""

import time
from typing import Any, Callable, Dict, Tuple

from rbd_ipu._compat import tf

Volume = Callable[
    [float, int], float
]  # of rbd_ipu.parallel.cost_model: (bytes of a message, K) -> bytes that a worker sends


class Meter:
    """Adds up the exchanges of this process; :meth:`read` gives means a step and begins anew.

    Seconds are those from the moment when a worker has its message to the moment when it has all: waiting for slower
    workers is part of them. Bytes are counted, not measured: what a worker has to send so that all have all messages
    (K - 1 of them pass through each) or their sum (2 (K - 1) / K of one). Headers come on top.

    Args:
      workers: K.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._seconds, self._bytes, self._count = 0.0, 0.0, 0

    def timed(self, exchange: Callable[[Any], Any], message: Any, volume: Volume) -> Any:
        """``exchange(message)``, on the host, with its time and its bytes added up."""
        began = time.perf_counter()
        result = exchange(message)
        self._seconds += time.perf_counter() - began
        self._bytes += volume(message.nbytes, self.workers)
        self._count += 1
        return result

    def start(self) -> None:
        """Leaves out what has been sent and waited for until now."""
        self._seconds, self._bytes, self._count = 0.0, 0.0, 0

    def read(self) -> Dict[str, float]:
        """``exchange_seconds`` and ``exchange_bytes``, those sent by this worker, both a step."""
        seconds, sent, count = self._totals()
        if count == 0:
            return {}
        self.start()
        return {"exchange_seconds": seconds / count, "exchange_bytes": sent / count}

    def _totals(self) -> Tuple[float, float, int]:
        return self._seconds, self._bytes, self._count


class GraphMeter(Meter):
    """The same for exchanges that are operations of a graph."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        with tf.device("/CPU:0"):
            self._time, self._sent = (tf.Variable(0.0, dtype=tf.float64, trainable=False) for _ in range(2))
            self._times = tf.Variable(0, dtype=tf.int64, trainable=False)

    def timed(self, exchange: Callable[[Any], Any], message: Any, volume: Volume) -> Any:
        """``exchange(message)``, in a traced function, with its time and its bytes added up."""
        with tf.control_dependencies([message]):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            result = exchange(tf.identity(message))
        with tf.control_dependencies([result]):
            took = tf.timestamp() - began
        self._time.assign_add(took)
        self._sent.assign_add(volume(message.shape.num_elements() * message.dtype.size, self.workers))
        self._times.assign_add(1)
        return result

    def start(self) -> None:
        for variable in (self._time, self._sent, self._times):
            variable.assign(tf.zeros_like(variable))

    def _totals(self) -> Tuple[float, float, int]:
        return float(self._time), float(self._sent), int(self._times)
