"""Feeds: the kinds of training data that users have, behind one face."""

from typing import Any, Callable, Iterator, Optional, Tuple

from rbd_ipu import checks
from rbd_ipu._stack import tf
from rbd_ipu.data import Batches


class Feed:
    """Training data with a known number of steps an epoch.

    Attributes:
      steps_per_epoch, batch_size: ints; the batch size is that of the first batch.
    """

    def __init__(self, steps_per_epoch: int, batch_size: int):
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        """An iterator over batches for each epoch from ``epoch`` on, the first of them from ``step`` on.

        ``iterate(dataset)`` makes it, on a device that has a way of its own.
        """
        raise NotImplementedError


class _Stream(Feed):
    """A :class:`Batches`: one endless stream, a pure function of (seed, epoch, step)."""

    def __init__(self, batches: Batches):
        super().__init__(batches.steps_per_epoch, batches.batch_size)
        self._batches = batches

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        iterator = iterate(self._batches.dataset(epoch, step))
        while True:
            yield iterator


class _Dataset(Feed):
    """A tf.data.Dataset, started again for every epoch."""

    def __init__(self, dataset: Any, steps_per_epoch: Optional[int]):
        steps = int(dataset.cardinality())
        if steps_per_epoch is not None:
            wanted = checks.positive_int("steps_per_epoch", steps_per_epoch)
            if 0 <= steps < wanted:
                raise ValueError(f"steps_per_epoch={wanted}, but the dataset has {steps} batches")
            steps = wanted
        if steps < 0:
            kind = "endless" if steps == tf.data.INFINITE_CARDINALITY else "of unknown length"
            raise ValueError(f"the dataset is {kind}: pass steps_per_epoch, the number of batches an epoch")
        if steps == 0:
            raise ValueError("the dataset is empty")
        x = _pair_of(dataset.element_spec)[0]
        size = x.shape[0] if x.shape.rank else None
        if size is None:
            size = int(tf.shape(next(iter(dataset.take(1)))[0])[0])
        super().__init__(steps, size)
        self._dataset = dataset

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        yield iterate(self._dataset.skip(step) if step else self._dataset)
        while True:
            yield iterate(self._dataset)


def feed(data: Any, batch_size: int, seed: int, steps_per_epoch: Optional[int] = None) -> Feed:
    """The feed for what a user passed: a Batches, a pair of arrays, or a tf.data.Dataset of batches.

    Raises:
      TypeError, ValueError: it is none of these, empty, or of unknown length.
    """
    if isinstance(data, tf.data.Dataset):
        return _Dataset(data, steps_per_epoch)
    if steps_per_epoch is not None:
        raise ValueError(f"steps_per_epoch={steps_per_epoch} is for a tf.data.Dataset; other data has a length")
    if isinstance(data, Batches):
        return _Stream(data)
    return _Stream(Batches(_pair_of(data), checks.positive_int("batch_size", batch_size), checks.seed(seed)))


def in_order(data: Any, batch_size: int) -> Any:
    """A finite tf.data.Dataset of all examples in order, to evaluate on.

    Raises:
      TypeError, ValueError: data is neither a pair of arrays of one length nor a finite tf.data.Dataset.
    """
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("an endless dataset cannot be evaluated on; use dataset.take(batches)")
        return data
    if isinstance(data, Batches):
        raise TypeError("a Batches is shuffled and endless; evaluate on arrays or on rbd_ipu.data.evaluation")
    x, y = _pair_of(data)
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x and y must have one length, at least 1; got {len(x)} and {len(y)}")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(checks.positive_int("batch_size", batch_size))


def _pair_of(data: Any) -> Tuple[Any, Any]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(
            "data must be a rbd_ipu.data.Batches, a pair of arrays (x, y), or a tf.data.Dataset of such pairs; "
            f"got {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, (tuple, list)) else "")
        )
    return data[0], data[1]
