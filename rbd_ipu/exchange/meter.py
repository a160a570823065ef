"""Meters: how long the exchanges of a worker took, and how many bytes it sent for them."""

import time
from typing import Any, Callable, Dict, Optional, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.exchange import sockets


class Meter:
    """Adds up the exchanges of this process; :meth:`read` gives means a step and begins anew.

    Seconds are those from the moment when a worker has its message to the moment when it has all: waiting for slower
    workers is part of them. Bytes are counted by the operating system, on the TCP sockets of this process.
    """

    def __init__(self) -> None:
        self._seconds, self._count = 0.0, 0
        self._sent: Optional[int] = None

    def timed(self, exchange: Callable[[Any], Any], message: Any) -> Any:
        """``exchange(message)``, on the host, with its time added up."""
        began = time.perf_counter()
        result = exchange(message)
        self._seconds += time.perf_counter() - began
        self._count += 1
        return result

    def start(self) -> None:
        """Leaves out what has been sent and waited for until now."""
        self._reset()
        self._sent = sockets.sent()

    def read(self) -> Dict[str, float]:
        """``exchange_seconds`` and, where the system counts them, ``exchange_bytes``: sent by this worker, a step."""
        (seconds, count), sent = self._totals(), sockets.sent()
        if count == 0:
            return {}
        values = {"exchange_seconds": seconds / count}
        if sent is not None and self._sent is not None:
            values["exchange_bytes"] = (sent - self._sent) / count
        self.start()
        return values

    def _totals(self) -> Tuple[float, int]:
        return self._seconds, self._count

    def _reset(self) -> None:
        self._seconds, self._count = 0.0, 0


class GraphMeter(Meter):
    """The same for exchanges that are operations of a graph."""

    def __init__(self) -> None:
        super().__init__()
        with tf.device("/CPU:0"):
            self._total = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._times = tf.Variable(0, dtype=tf.int64, trainable=False)

    def timed(self, exchange: Callable[[Any], Any], message: Any) -> Any:
        """``exchange(message)``, in a traced function, with its time added up."""
        with tf.control_dependencies([message]):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            result = exchange(tf.identity(message))
        with tf.control_dependencies([result]):
            took = tf.timestamp() - began
        self._total.assign_add(took)
        self._times.assign_add(1)
        return result

    def _totals(self) -> Tuple[float, int]:
        return float(self._total), int(self._times)

    def _reset(self) -> None:
        self._total.assign(0.0)
        self._times.assign(0)
