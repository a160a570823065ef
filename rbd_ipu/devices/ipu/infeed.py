"""Infeeds: the stream of batches that a program reads, dealt out to its replicas one after the other."""

from typing import Any, List, Optional, Sequence, Tuple

from rbd_ipu._stack import tf


class Stream:
    """A dataset that was asked for, before it is an infeed: replicas share one, and its program is bound to it."""

    def __init__(self, dataset: Any):
        self.dataset = dataset


class Infeed:
    """The infeed of a training, made anew only where the data change: a new one means a new compilation.

    Replica r of R takes batches r, r + R, r + 2R, ... of an infeed, so that the replicas' streams are dealt out in
    turns. A finite dataset that every epoch reads to its end is repeated in place of being started again.
    """

    def __init__(self) -> None:
        self._streams: Tuple[Any, ...] = ()
        self._iterator: Optional[Any] = None
        self._taken = 0  # steps read from the present iterator

    def iterator(self, streams: Any, steps: int) -> Any:
        """The iterator for the next ``steps`` steps; to be called in the scope of the strategy.

        Args:
          streams: a Stream, or a tuple of them, one for each replica; a new one begins at its first batch.

        Raises:
          ValueError: a batch is not of a static shape.
          TypeError: a batch is of a type that no IPU has.
        """
        given = streams if isinstance(streams, tuple) else (streams,)
        if not self._goes_on(given):
            self._iterator = iter(dealt([check_static(s.dataset) for s in given], repeat=True))
            self._taken = 0
        self._streams = given
        self._taken += steps
        return self._iterator

    def _goes_on(self, given: Tuple[Any, ...]) -> bool:
        if self._iterator is None or len(given) != len(self._streams):
            return False
        if all(new is old for new, old in zip(given, self._streams)):
            return True
        # Started again, all of them exactly where the repeated ones stand at their first batch.
        return all(
            new.dataset is old.dataset and length > 0 and self._taken % length == 0
            for new, old in zip(given, self._streams)
            for length in [int(new.dataset.cardinality())]
        )


def dealt(datasets: Sequence[Any], repeat: bool) -> Any:
    """One dataset of the elements of several, in turns."""
    parts: List[Any] = [d.repeat() if repeat else d for d in datasets]
    if len(parts) == 1:
        return parts[0]

    def in_turns(*batches: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda *b: tf.stack(b), *batches))

    return tf.data.Dataset.zip(tuple(parts)).flat_map(in_turns)


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
