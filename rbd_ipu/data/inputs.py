"""Feeds: the kinds of training data that users have, behind one interface."""

from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.data import Batches, evaluation

#: The parts (i, n) of the data that a process reads, one for each worker that it plays: the i-th of n equal ones; or
#: (i, n, count): those of count workers from i on in one stream, in turns, for a device that deals them out itself.
Shards = Sequence[Tuple[int, ...]]
WHOLE: Shards = ((0, 1),)


class Feed:
    """Training data with a known number of steps an epoch.

    A step of a worker takes ``batches`` mini-batches. An epoch has as many steps as it has whole sets of them, and at
    least one, which then reads on into the next epoch.

    Attributes:
      steps_per_epoch, batch_size: ints; the batch size is that of a worker's first batch.
      images: that all workers together take in a step.
      spec: of a batch.
    """

    spec: Any

    def __init__(self, batches_per_epoch: int, batch_size: int, shards: Shards, batches: int):
        self.steps_per_epoch = max(1, batches_per_epoch // batches)
        self.batch_size = batch_size
        self.images = batch_size * shards[0][1] * batches
        self._batches = batches

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        """An iterator over batches for each epoch from ``epoch`` on, the first of them from ``step`` on.

        ``iterate(dataset)`` makes it, on a device that has a way of its own. Where a process plays several workers it
        is a tuple, an iterator for each.
        """
        raise NotImplementedError


class _Stream(Feed):
    """A :class:`Batches`: one endless stream for each worker, a pure function of (seed, epoch, step).

    What sets of batches leave over of an epoch is where the next one begins.
    """

    def __init__(self, stream: Batches, shards: Shards, batches: int):
        self._parts = [stream.shard(*shard) for shard in shards]
        super().__init__(self._parts[0].steps_per_epoch, stream.batch_size, shards, batches)
        self.spec = stream.element_spec

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        before = (epoch * self.steps_per_epoch + step) * self._batches
        place = divmod(before, self._parts[0].steps_per_epoch)
        iterator = _one_or_all([iterate(part.dataset(*place)) for part in self._parts])
        while True:
            yield iterator


class _Dataset(Feed):
    """A tf.data.Dataset; of n workers, the i-th reads batches i, i + n, i + 2n, ...

    It is started again for every epoch. With ``steps_per_epoch`` it is one stream: an epoch goes on where the one
    before has stopped, as in Keras; where the dataset ends, the stream begins again.
    """

    def __init__(self, dataset: Any, steps_per_epoch: Optional[int], shards: Shards, batches: int):
        steps = int(dataset.cardinality())
        if steps > 0:
            steps //= shards[0][1]
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
        self.spec = _parts_of(dataset.element_spec)
        x = _first(self.spec[0])
        size = x.shape[0] if x.shape.rank else None
        if size is None:
            batch = next(iter(dataset.take(1)), None)
            if batch is None:
                raise ValueError("the dataset is empty")
            size = int(tf.shape(_first(batch[0]))[0])
        super().__init__(steps, size, shards, batches)
        self._stream = steps_per_epoch is not None
        if self._stream:
            dataset = dataset.repeat()
        parts = [_part_of(dataset, self.steps_per_epoch * batches, *shard) for shard in shards]
        self._parts = parts if batches <= steps else [part.repeat() for part in parts]
        self._together = shards[0][2] if len(shards[0]) > 2 else 1

    def iterators(self, epoch: int, step: int = 0, iterate: Callable[[Any], Any] = iter) -> Iterator[Any]:
        def begun(steps: int) -> Any:
            gone = steps * self._batches * self._together
            return _one_or_all([iterate(part.skip(gone) if gone else part) for part in self._parts])

        if self._stream:
            iterator = begun(epoch * self.steps_per_epoch + step)
            while True:
                yield iterator
        while True:
            yield begun(step)
            step = 0


def _part_of(dataset: Any, steps: int, i: int, n: int, count: int = 0) -> Any:
    """A part, as :data:`Shards` names it, of a dataset of batches; one for several ends with its last whole round."""
    if not count:
        return dataset if n == 1 else dataset.shard(n, i)
    endless = dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    rounds = dataset if endless else dataset.take(steps * n)
    if count == n:
        return rounds
    numbered = rounds.enumerate().filter(lambda k, _: (k % n >= i) & (k % n < i + count))
    own = numbered.map(lambda _, batch: batch)
    known = rounds.cardinality() >= 0
    return own.apply(tf.data.experimental.assert_cardinality(steps * count)) if known else own


def feed(
    data: Any,
    batch_size: int,
    seed: int,
    steps_per_epoch: Optional[int] = None,
    shards: Shards = WHOLE,
    batches: int = 1,
) -> Feed:
    """The feed for what a user passed: a Batches, arrays, or a tf.data.Dataset of batches.

    ``shards`` are the parts of it that this process reads, and ``batches`` how many mini-batches a step takes.

    Raises:
      TypeError, ValueError: it is none of these, empty, or of unknown length.
    """
    if isinstance(data, tf.data.Dataset):
        return _Dataset(data, steps_per_epoch, shards, batches)
    if steps_per_epoch is not None:
        raise ValueError(f"steps_per_epoch={steps_per_epoch} is for a tf.data.Dataset; other data has a length")
    if isinstance(data, Batches):
        return _Stream(data, shards, batches)
    stream = Batches(_parts_of(data), checks.positive_int("batch_size", batch_size), checks.seed(seed))
    return _Stream(stream, shards, batches)


def _one_or_all(iterators: Sequence[Any]) -> Any:
    return iterators[0] if len(iterators) == 1 else tuple(iterators)


def in_order(data: Any, batch_size: int) -> Any:
    """A finite tf.data.Dataset of all examples in order, to evaluate on.

    Raises:
      TypeError, ValueError: data are neither arrays of one length nor a finite tf.data.Dataset.
    """
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("an endless dataset cannot be evaluated on; use dataset.take(batches)")
        _parts_of(data.element_spec)
        return data
    if isinstance(data, Batches):
        raise TypeError("a Batches is shuffled and endless; evaluate on arrays or on rbd_ipu.data.evaluation")
    return evaluation(_parts_of(data), checks.positive_int("batch_size", batch_size))


def _first(inputs: Any) -> Any:
    """The first of several inputs of a model."""
    return tf.nest.flatten(inputs)[0]


def _parts_of(data: Any) -> Tuple[Any, ...]:
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(
            "data must be a rbd_ipu.data.Batches, arrays (x, y) or (x, y, weights), or a tf.data.Dataset of such "
            f"tuples; got {type(data).__name__}"
            + (f" of {len(data)}" if isinstance(data, (tuple, list)) else "")
            + ("; a model that needs no targets takes any as y" if isinstance(data, tf.TensorSpec) else "")
        )
    if any(isinstance(part, tf.RaggedTensor) for part in tf.nest.flatten(tuple(data))):
        raise TypeError(
            "data have a RaggedTensor, whose rows differ in length: pad it (to_tensor) and mask it, or train by "
            "model.fit with an optimizer of rbd_ipu"
        )
    return tuple(data)
