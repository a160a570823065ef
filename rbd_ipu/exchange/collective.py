"""K processes, one worker each, that exchange by TensorFlow's collective operations."""

import itertools
from typing import Any, Dict

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.exchange.base import Exchange
from rbd_ipu.exchange.meter import GraphMeter
from rbd_ipu.exchange.plan import Plan
from rbd_ipu.scaling.volume import gathered, reduced

GROUP = 1_000_003  # the name of our group of workers; those of tf.distribute count from 1
# Operations find each other by number: all workers trace the same ones in the same order.
_NUMBERS = itertools.count(1)


class Collective(Exchange):
    """The worker that this process is, among those of a ``tf.distribute.MultiWorkerMirroredStrategy``.

    The strategy has connected the processes; variables and steps are plain ones, and a collective is one operation in
    the middle of the loop of steps. (It stays outside XLA, which has no kernel for it on a CPU. ``strategy.gather``
    would send the lengths of the messages first, which doubles waiting and bytes of a small message.)

    Args:
      worker: the index of this process.
      workers: K.
      plan: how they share the work.
      patience: seconds to wait for the others.
    """

    def __init__(self, worker: int, workers: int, plan: Plan, patience: float):
        self.workers = workers
        self.index = worker
        self.fed = (worker,)
        self.plan = plan
        self.meter = GraphMeter(workers)
        self.lost = None  # TensorFlow raises errors of its own
        self._patience = patience
        self._gather_on_host = tf.function(self._gather)
        self._total_on_host = tf.function(self._total)

    def worker(self) -> Any:
        return tf.constant(self.index)

    def gather(self, message: Any) -> Any:
        return self.meter.timed(self._gather, message, gathered)

    def mean(self, vector: Any) -> Any:
        return self.meter.timed(self._total, vector, reduced) / self.workers

    def _gather(self, message: Any) -> Any:
        rows = tf.raw_ops.CollectiveGatherV2(input=message[tf.newaxis], **self._group())
        return tf.ensure_shape(rows, [self.workers, *message.shape])

    def _total(self, vector: Any) -> Any:
        return tf.raw_ops.CollectiveReduceV2(input=vector, merge_op="Add", final_op="Id", **self._group())

    def _group(self) -> Dict[str, Any]:
        return {
            "group_size": self.workers,
            "group_key": GROUP,
            "instance_key": next(_NUMBERS),
            "ordering_token": [],
            "timeout_seconds": self._patience,
        }

    # --- on the host, between two calls of the loop --------------------------------------------------

    def rows(self, words: Any) -> np.ndarray:
        """Every worker's int32 [n]: [K, n]. All workers must ask."""
        return self._gather_on_host(tf.constant(words, tf.int32)).numpy()

    def from_first(self, data: bytes) -> bytes:
        """Worker 0's bytes, of a length that all know. All workers must ask."""
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.int32)
        # The sum with zeros is exact, and costs two times the bytes whatever K is; a gather would cost K times.
        words = words if self.index == 0 else np.zeros_like(words)
        return self._total_on_host(tf.constant(words)).numpy().tobytes()[: len(data)]
