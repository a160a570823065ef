"""A validation on the device: all examples, each once, although programs take batches of one size only.

The batches of a dataset are of one size but for the last. Two programs, one for each size, read them; where batches
do not deal out evenly to the replicas, some are read twice, and the host leaves the second reading out.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.data.stored import stored_form
from rbd_ipu.devices.ipu.infeed import check_static
from rbd_ipu.devices.ipu.loop import evaluate_program
from rbd_ipu.objective import REPORTED, Objective


class Reading(NamedTuple):
    """Batches of one size, ready to be read again and again.

    Attributes:
      size: examples of a batch.
      batches: how many of them there are.
      iterator: over them, padded to full rounds of the replicas, without end.
      read: what runs the program on the iterator and gives [>= batches, REPORTED], in order; None where there are no
        numbers.
    """

    size: int
    batches: int
    iterator: Any
    read: Callable[[Any], Optional[np.ndarray]]


class Evaluation:
    """The function ``dataset -> sums`` in the order of REPORTED, on an IPU.

    Args:
      objective: what is evaluated.
      replicas: how many read an infeed.
      make: ``(steps -> enqueue -> program) -> (iterator -> values [steps * replicas, REPORTED])``, the device's part.
    """

    def __init__(
        self,
        objective: Objective,
        replicas: int,
        make: Callable[[Callable[[Any], Any]], Callable[[Any], Optional[np.ndarray]]],
    ):
        self._objective = objective
        self._replicas = replicas
        self._make = make
        self._known: Dict[int, Tuple[Any, List[Reading]]] = {}

    def __call__(self, dataset: Any) -> List[float]:
        """Sums over a finite dataset of batches; to be called in the scope of the strategy."""
        if id(dataset) not in self._known:  # the dataset is kept with them, so that its id stays its own
            self._known[id(dataset)] = (dataset, self._readings(dataset))
        total = np.zeros(len(REPORTED))
        for reading in self._known[id(dataset)][1]:
            told = reading.read(reading.iterator)
            if told is None:
                total[:] = float("nan")
            else:
                total += told[: reading.batches].astype(np.float64).sum(axis=0)
        return total.tolist()

    def _readings(self, dataset: Any) -> List[Reading]:
        dataset, finish = stored_form(dataset)
        sizes = _sizes(dataset)
        full = sizes.count(sizes[0]) if sizes else 0
        if set(sizes[:full]) | set(sizes[full + 1 :]) > set(sizes[:1]):
            raise ValueError(f"on an IPU all batches but the last must be of one size, got sizes {sizes}")
        parts = [(sizes[0], dataset.take(full), full)] if full else []
        parts += [(size, dataset.skip(full), 1) for size in sizes[full:]]
        return [self._reading(*part, finish) for part in parts]

    def _reading(self, size: int, dataset: Any, batches: int, finish: Any) -> Reading:
        steps = -(-batches // self._replicas)
        fixed = dataset.map(lambda *parts: tf.nest.map_structure(lambda part: _of_size(part, size), parts))
        rounds = check_static(fixed).repeat().take(steps * self._replicas).repeat()
        read = self._make(lambda enqueue: evaluate_program(self._objective, steps, enqueue, finish))
        return Reading(size, batches, iter(rounds), read)


def _sizes(dataset: Any) -> List[int]:
    """The number of examples of each batch, without an iterator: here that would be an infeed."""
    with tf.device("/device:CPU:0"):
        sizes = dataset.map(lambda *parts: tf.shape(tf.nest.flatten(parts)[0])[0]).reduce(
            tf.zeros([0], tf.int32), lambda found, size: tf.concat([found, [size]], axis=0)
        )
    return [int(size) for size in sizes]


def _of_size(batch: Any, size: int) -> Any:
    return tf.ensure_shape(batch, [size, *batch.shape[1:]])
