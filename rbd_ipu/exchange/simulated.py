"""K workers played by one process, in turn: the reference for real ones, and a way to try K out."""

from typing import Any, List, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._stack import tf
from rbd_ipu.exchange.base import Exchange
from rbd_ipu.exchange.plan import Plan


class Simulated(Exchange):
    """K workers in one process, each with its mini-batch; nothing is sent.

    Example:
      >>> exchange = Simulated(2)
      >>> exchange.gather_all([tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])]).numpy().tolist()
      [[1.0, 2.0], [3.0, 4.0]]
    """

    def __init__(self, workers: int, plan: Optional[Plan] = None):
        self.workers = checks.positive_int("workers", workers)
        self.plan = plan or Plan()
        self.fed = range(self.workers)

    def worker(self) -> Any:
        raise TypeError("a process that simulates all workers is none of them; use played()")

    def played(self) -> List[Any]:
        return [tf.constant(k) for k in self.fed]

    def gather_all(self, messages: Sequence[Any]) -> Any:
        return tf.stack(messages)

    def mean_all(self, vectors: Sequence[Any], ordered: bool = False) -> Any:
        return tf.add_n(list(vectors)) / self.workers
