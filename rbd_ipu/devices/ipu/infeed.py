"""Infeeds: the stream of batches that a program reads; element i R + r of it is the i-th of replica r."""

from typing import Any, Callable, Optional

from rbd_ipu._stack import tf


class Stream:
    """A dataset that was asked for, before it is an infeed: a program is bound to the infeed it was compiled with.

    Args:
      dataset: batches, in the order in which the replicas of this process take them.
      copies: each batch is for so many replicas.
      finish: what the program makes (x, y) of a batch with; None: it is one already.
    """

    def __init__(self, dataset: Any, copies: int = 1, finish: Optional[Callable[..., Any]] = None):
        self.dataset = dataset
        self.finish = finish
        self.copies = copies


class Infeed:
    """The infeed of a training, made anew only where the data change: a new one means a new compilation.

    A finite dataset that every epoch reads to its end is repeated in place of being started again.
    """

    def __init__(self) -> None:
        self._stream: Optional[Stream] = None
        self._iterator: Optional[Any] = None
        self._taken = 0  # batches of the dataset that were read by the present iterator

    def iterator(self, stream: Stream, batches: int) -> Any:
        """The iterator for so many batches of the stream; to be called in the scope of the strategy.

        A new stream begins at its first batch.

        Raises:
          ValueError: a batch is not of a static shape.
          TypeError: a batch is of a type that no IPU has.
        """
        if not self._goes_on(stream):
            self._iterator = iter(each(check_static(stream.dataset).repeat(), stream.copies))
            self._taken = 0
        self._stream = stream
        self._taken += batches
        return self._iterator

    def _goes_on(self, new: Stream) -> bool:
        if self._iterator is None or self._stream is None:
            return False
        if new is self._stream:
            return True
        # Started again, exactly where the repeated one stands at its first batch.
        length = int(new.dataset.cardinality())
        same = new.dataset is self._stream.dataset and new.copies == self._stream.copies
        return same and length > 0 and self._taken % length == 0


def each(dataset: Any, copies: int) -> Any:
    """Every element so many times in a row."""
    if copies == 1:
        return dataset
    return dataset.flat_map(lambda *batch: tf.data.Dataset.from_tensors(batch).repeat(copies))


def check_static(dataset: Any) -> Any:
    """The dataset, if an IPU can be fed from it.

    Raises:
      ValueError, TypeError: see :meth:`Infeed.iterator`; the message says what to do.
    """
    for spec in tf.nest.flatten(dataset.element_spec):
        if not spec.shape.is_fully_defined():
            raise ValueError(
                f"an IPU needs batches of one static shape, got {spec.shape}: use "
                "dataset.batch(size, drop_remainder=True)"
            )
        if spec.dtype not in (tf.float32, tf.float16, tf.int32, tf.bool, tf.int8, tf.uint8):
            raise TypeError(
                f"an IPU takes float32, float16, int32, bool, int8 or uint8, got {spec.dtype.name}: cast the dataset"
            )
    return dataset
