"""Meter: how long the exchanges of a worker took, and how many bytes it sent for them."""

from typing import Any, Callable, Dict, Optional

from rbd_ipu._stack import tf
from rbd_ipu.exchange import sockets


class Meter:
    """Adds up the exchanges of this process; :meth:`read` gives means a step and begins anew.

    Seconds are those from the moment when a worker has its message to the moment when it has all: waiting for slower
    workers is part of them. Bytes are counted by the operating system, on the TCP sockets of this process.
    """

    def __init__(self) -> None:
        with tf.device("/CPU:0"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._sent: Optional[int] = None

    def timed(self, exchange: Callable[[Any], Any], message: Any) -> Any:
        """``exchange(message)``, in a traced function, with its time added up."""
        with tf.control_dependencies([message]):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            result = exchange(tf.identity(message))
        with tf.control_dependencies([result]):
            took = tf.timestamp() - began
        self._seconds.assign_add(took)
        self._count.assign_add(1)
        return result

    def start(self) -> None:
        """Leaves out what has been sent and waited for until now."""
        self._seconds.assign(0.0)
        self._count.assign(0)
        self._sent = sockets.sent()

    def read(self) -> Dict[str, float]:
        """``exchange_seconds`` and, where the system counts them, ``exchange_bytes``: sent by this worker, a step."""
        count, sent = int(self._count), sockets.sent()
        if count == 0:
            return {}
        values = {"exchange_seconds": float(self._seconds) / count}
        if sent is not None and self._sent is not None:
            values["exchange_bytes"] = (sent - self._sent) / count
        self.start()
        return values
