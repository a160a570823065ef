"""The training stream of a text: windows of tokens, a pure function of (seed, epoch, step)."""

from typing import Any

from rbd_ipu._compat import tf
from rbd_ipu.data.batches import Batches
from rbd_ipu.seeds import fold_in


class Windows(Batches):
    """Batches of windows that do not overlap: each epoch cuts the text anew, in a new random order.

    An epoch e begins at the token ``offset``, drawn from ``0 .. context - 1`` by ``fold_in(seed, "offset", e)``, cuts
    the text from there into windows of ``context`` tokens, and visits them in
    ``permutation(n, fold_in(seed, "shuffle", e))``. So every token but those of an incomplete window or batch is seen
    once an epoch, and from epoch to epoch with other tokens before it.

    Args:
      text: a :class:`rbd_ipu.data.text.Text`.
      batch_size: windows a step.
      seed: an int or int32 [2]; the same for all of several workers.

    Raises:
      TypeError, ValueError: ``batch_size`` is not a whole number from 1 to the number of windows.

    Example:
      >>> from rbd_ipu.data import load
      >>> batches = load("shakespeare_excerpt").batches(32, seed=1)
      >>> batches.steps_per_epoch
      25
      >>> x, y = next(iter(batches.dataset(epoch=3, step=5)))
      >>> x.shape.as_list(), x.dtype.name, y.shape.as_list(), y.dtype.name
      ([32, 48], 'int32', [32, 48], 'int32')
    """

    def __init__(self, text: Any, batch_size: int, seed: Any = 0):
        if not hasattr(text, "windows"):
            raise TypeError(f"text must be a rbd_ipu.data.text.Text, got {type(text).__name__}")
        super().__init__(text, batch_size, seed)
        #: How many tokens there are.
        self.vocabulary = text.vocabulary
        self.context = context = int(text.context)
        length = len(text.tokens)
        self.size = max(1, (length - context) // context)
        if batch_size > self.size:
            raise ValueError(f"batch_size {batch_size} is more than the {self.size} windows that an epoch has")
        self._offsets = min(context, length - self.size * context)
        with tf.device("/CPU:0"):
            self._tokens = tf.constant(text.tokens)
        self._moves_and_adds = None  # the stored form is not what a device could finish

    def _plan(self, epoch: Any) -> Any:
        """The first tokens of windows, in place of indices."""
        indices, seeds = super()._plan(epoch)
        bits = tf.bitcast(fold_in(self.seed, "offset", epoch), tf.uint32)[0]
        offset = tf.cast(tf.cast(bits, tf.int64) % self._offsets, indices.dtype)
        return indices * self.context + offset, seeds

    def _batch(self, starts: Any, seed: Any) -> Any:
        context = self.context
        window = tf.cast(tf.gather(self._tokens, starts[:, tf.newaxis] + tf.range(context + 1)), tf.int32)
        window = tf.ensure_shape(window, [self.batch_size, context + 1])
        return window[:, :-1], window[:, 1:]
