"""Streams of batches that are pure functions of (seed, epoch, step): from stored arrays to what a network sees.

Every batch can be asked for by its place, without those before it: a resumed run goes on with the batch that an
unbroken one would have had. The images stay decoded in memory and a batch is gathered and augmented as a whole: image
by image, TensorFlow's overhead for an element would take longer than a training step. The batches of a text are
windows of tokens.

What :class:`rbd_ipu.data.Batches` and :func:`rbd_ipu.data.evaluation` give are batches (x float32, y). Where x is
made of bytes, a quarter of the transfer, by arithmetic alone, the dataset carries both parts, for a device that is
sent bytes and makes numbers of them itself: the stored batches, in the same order, and the function that finishes
them.
"""

import copy
import numbers
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu._compat import as_it_is, as_written_by_users, tf, untuned
from rbd_ipu.checks import checked_labels
from rbd_ipu.data.augment import AUGMENTATIONS, parts_of
from rbd_ipu.seeds import fold_in, permutation

Augment = Union[None, str, Callable[[Any, Any], Any]]


class Samples(NamedTuple):
    """Arrays of equal length and how to prepare them.

    x is [n, ...]; y is int32 [n] or, of a pair of arrays, int32 or float32 [n, ...]; weights are float32 [n, ...] or
    None. Of arrays each may be several: a tuple or a dict of them.
    """

    x: Any
    y: Any
    peak: Optional[float] = None  # the value that becomes 1.0; None leaves x as it is
    standardise: bool = False
    weights: Any = None
    tokens: bool = False  # whether x stays whole numbers, int32

    @classmethod
    def of(cls, data: Any) -> "Samples":
        """Samples of a :class:`Split`, of the windows of a :class:`rbd_ipu.data.text.Text`, or of arrays, checked.

        Arrays are (x, y) or (x, y, weights).

        Raises:
          TypeError, ValueError: x is not numeric, or empty; y or weights are not numeric, of another length, or y is
            a vector of whole numbers below 0; one of them holds NaN or infinity.
        """
        if hasattr(data, "windows"):
            x, y = data.windows()
            return cls(x, y, tokens=True)
        if hasattr(data, "standardise"):
            return cls(data.images, data.labels, data.peak, data.standardise)
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise TypeError(f"data must be a Split or arrays (x, y) or (x, y, weights), got {type(data).__name__}")
        x, y, *more = map(several, data)
        count = len(np.asarray(tf.nest.flatten(x)[0])) if np.ndim(tf.nest.flatten(x)[0]) else 0
        weights = tf.nest.map_structure(lambda w: _weights(w, count), more[0]) if more else None
        x = tf.nest.map_structure(lambda part: _inputs(part, count), x)
        return cls(x, tf.nest.map_structure(lambda part: _targets(part, count), y), weights=weights)

    @property
    def size(self) -> int:
        """n."""
        return len(tf.nest.flatten(self.x)[0])

    @property
    def parts(self) -> Any:
        """(x, y) or (x, y, weights)."""
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)

    def resident(self) -> Any:
        """The parts as tensors in the host's memory."""
        with tf.device("/CPU:0"):
            return tf.nest.map_structure(tf.constant, self.parts)

    def scaled(self, x: Any) -> Any:
        """A batch of x as float32, the stored value ``peak`` becoming 1; of tokens int32, as they are."""
        if self.tokens:
            return tf.cast(x, tf.int32)
        x = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), x)
        return x if self.peak is None else x / self.peak

    def finished(self, x: Any) -> Any:
        """A scaled and perhaps augmented batch, as the network sees it."""
        return standardised(x) if self.standardise else x


def several(part: Any) -> Any:
    """One array as it is; several, in a tuple, a dict or a list of arrays, as a tuple or a dict."""
    if isinstance(part, dict):
        return {name: several(value) for name, value in part.items()}
    if isinstance(part, tuple) or (isinstance(part, list) and part and all(map(_is_array, part))):
        return tuple(map(several, part))
    return np.asarray(part)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0


def _inputs(x: np.ndarray, count: int) -> np.ndarray:
    if x.dtype.kind not in "fiu" or x.ndim < 1 or x.size == 0:
        raise TypeError(f"x must be floats or integers [n, ...] and not empty, got {x.dtype} {list(x.shape)}")
    if len(x) != count:
        raise ValueError(f"several inputs must be of one length, got {count} and {len(x)}")
    if x.dtype.kind in "iu" and x.itemsize > 2 and np.abs(x.astype(np.float64)).max() > 2**24:
        raise ValueError(
            "x holds whole numbers beyond 2^24, which float32 does not tell apart: use a tf.data.Dataset"
        )
    # Bytes are stored as they are, a quarter of the memory.
    return x if x.dtype == np.uint8 else _float32("x", x)


def _weights(w: np.ndarray, count: int) -> np.ndarray:
    if w.dtype.kind not in "fiub" or w.ndim < 1:
        raise TypeError(f"weights must be numbers [n, ...], got {w.dtype} {list(w.shape)}")
    if len(w) != count:
        raise ValueError(f"{count} inputs but {len(w)} weights")
    return _float32("weights", w)


def _targets(y: Any, count: int) -> np.ndarray:
    """Class indices int32 [n], or what else a loss may compare outputs with: int32 or float32 [n, ...]."""
    y = np.asarray(y)
    if y.dtype.kind in "iu" and y.ndim == 1:
        return checked_labels(y, count)
    if y.dtype.kind not in "fiub" or y.ndim < 1:
        raise TypeError(f"y must be class indices [n], or floats or integers [n, ...], got {y.dtype} {list(y.shape)}")
    if len(y) != count:
        raise ValueError(f"{count} inputs but {len(y)} labels")
    if y.dtype.kind == "f":
        return _float32("y", y)
    whole = y.astype(np.int32)
    if not np.array_equal(whole, y):
        raise ValueError("y holds whole numbers beyond int32")
    return whole


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN, infinity or numbers beyond float32")
    return array


def standardised(images: Any) -> Any:
    """(x - mean) / max(deviation, 1 / sqrt(n)) of each image over its n values.

    The floor keeps an image of one colour from being divided by zero; it is the rule of
    ``tf.image.per_image_standardization``.
    """
    shape = images.shape
    values = int(np.prod(shape[1:]))
    flat = tf.reshape(images, [-1, values])
    centred = flat - tf.reduce_mean(flat, axis=1, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=1, keepdims=True))
    return tf.reshape(centred / tf.maximum(deviation, values**-0.5), [-1, *shape[1:]])


#: (parts of a stored batch) -> (x, y), in TensorFlow operations.
Finish = Callable[..., Tuple[Any, Any]]
_NAME = "_rbd_ipu_stored"


def remember(dataset: Any, stored: Any, finish: Finish) -> Any:
    """The dataset, which then knows its batches as stored: ``finish(*batch)`` of one is that of the dataset."""
    setattr(dataset, _NAME, (stored, finish))
    return dataset


def stored_form(dataset: Any) -> Tuple[Any, Optional[Finish]]:
    """(stored batches, what finishes them); (the dataset itself, None) where it knows no other form.

    Example:
      >>> from rbd_ipu import data
      >>> stored, finish = stored_form(data.load("digits").evaluation("test", 100))
      >>> x, y = next(iter(stored))
      >>> x.dtype.name, finish(x, y)[0].dtype.name
      ('uint8', 'float32')
    """
    return getattr(dataset, _NAME, (dataset, None))


THREADS = 2  # batches prepared at the same time
AHEAD = 8  # batches that wait, ready
LAST_EPOCH = 2**31 - 1  # what an int32 holds


class Batches:
    """The training stream: a new random order each epoch, without what does not fill a batch.

    Epoch e visits the images in ``permutation(n, fold_in(seed, "shuffle", e))``; step t of it takes
    the t-th ``batch_size`` of them and augments them with ``fold_in(seed, "augment", e, t)``. So
    all of the stream follows from the seed, and no part of it from what was read before.

    Args:
      data: a :class:`Split`, whose images are scaled to [0, 1] (and standardised where it says so),
        or arrays (x, y): x [n, ...] numbers, which become float32 and are otherwise left
        as they are, whole numbers too; y [n] classes, or [n, ...] numbers for a loss of other outputs (float32; whole
        numbers and truth values int32); or (x, y, weights): weights [n, ...] numbers, float32. Each may be several,
        in a tuple or a dict, for a model of several inputs or outputs.
      batch_size: images a step.
      seed: an int or int32 [2]; the same for all of several workers, see :meth:`shard`.
      augment: None, a name from AUGMENTATIONS, or a function (float32 [b, h, w, c], seed int32 [2])
        -> images of the same shape, written in TensorFlow operations.

    Raises:
      TypeError, ValueError: the data are unfit (see :meth:`Samples.of`), ``batch_size`` is not a
        whole number from 1 to the number of images, or the augmentation is unknown or wants images
        where there are none.

    Example:
      >>> from rbd_ipu.data import load
      >>> batches = Batches(load("digits").train, batch_size=32, seed=1)
      >>> batches.steps_per_epoch
      37
      >>> x, y = next(iter(batches.dataset(epoch=3, step=5)))
      >>> x.shape.as_list(), x.dtype.name, y.shape.as_list(), y.dtype.name
      ([32, 8, 8, 1], 'float32', [32], 'int32')
    """

    def __init__(self, data: Any, batch_size: int, seed: Any = 0, augment: Augment = None):
        self._samples = Samples.of(data)
        self.size = self._samples.size
        self.batch_size = _checked_batch_size(batch_size)
        if batch_size > self.size:
            raise ValueError(f"batch_size {batch_size} is more than the {self.size} inputs there are")
        fold_in(seed, "shuffle")  # refuses an unfit seed here, not in the middle of a run
        self.seed = seed
        shapes = [tuple(part.shape[1:]) for part in tf.nest.flatten(self._samples.x)]
        self.shape = shapes[0] if len(shapes) == 1 else tuple(shapes)
        self._augment = _augmentation(augment, self.shape)
        self._parts = self._samples.resident()
        self._moves_and_adds = parts_of(self._augment)
        self._part = (0, 1, 1)

    @property
    def made_of(self) -> Tuple[Any, str]:
        """What decides the stream: the arrays, and the rest in words; of a function of your own only its name."""
        augment = getattr(self._augment, "__qualname__", None)
        words = f"batches of {self.batch_size} {list(self.shape)}, seed {np.asarray(self.seed).tolist()}"
        return self._samples.parts, f"{type(self).__name__}: {words}, augment {augment}, part {self._part}"

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch, for each worker as many."""
        return self.size // (self.batch_size * self._part[1])

    @property
    def element_spec(self) -> Any:
        """Of a batch, as that of a tf.data.Dataset."""

        def spec(part: Any, dtype: Any) -> Any:
            return tf.TensorSpec([self.batch_size, *part.shape[1:]], dtype)

        x, *others = self._parts
        specs = tf.nest.map_structure(lambda part: spec(part, part.dtype), others)
        kind = tf.int32 if self._samples.tokens else tf.float32
        return (tf.nest.map_structure(lambda part: spec(part, kind), x), *specs)

    def shard(self, worker: int, workers: int, count: int = 1) -> "Batches":
        """The stream of one of K workers that go through the same epochs together, no image read by two of them.

        Step t of worker k is step ``t K + k`` of the whole stream, image by image and with the same augmentation. So
        K workers together take ``K * batch_size`` consecutive images of the same order whatever K is.

        Args:
          worker: k, from 0.
          workers: K.
          count: of the workers k ... k + count - 1 that one device feeds: their batches in turns, as an infeed deals
            them out. A step is then one batch for each of them.

        Raises:
          ValueError: k is not below K, or the images do not fill one batch for each worker.

        Example:
          >>> from rbd_ipu.data import load
          >>> whole = load("digits").batches(32, seed=1)
          >>> part = whole.shard(1, 4)
          >>> part.steps_per_epoch
          9
          >>> first, second = [next(iter(b.dataset(step=s)))[1] for b, s in ((part, 2), (whole, 2 * 4 + 1))]
          >>> first.numpy().tolist() == second.numpy().tolist()
          True
        """
        if not (_is_count(worker) and _is_count(workers) and 0 <= worker < workers):
            raise ValueError(f"worker must be a whole number from 0 and below workers, got {worker!r} of {workers!r}")
        if not (_is_count(count) and 1 <= count <= workers - worker):
            raise ValueError(f"count must be a whole number from 1 to {workers - worker}, got {count!r}")
        if (worker, workers) == (0, 1):
            return self
        if self._part != (0, 1, 1):
            raise ValueError("this stream is a worker's part already; cut up the whole one")
        if self.batch_size * workers > self.size:
            raise ValueError(
                f"{workers} workers with batch_size {self.batch_size} need {self.batch_size * workers} inputs, "
                f"there are {self.size}"
            )
        part = copy.copy(self)
        part._part = (worker, workers, count)
        return part

    def dataset(self, epoch: int = 0, step: int = 0) -> Any:
        """The stream from (epoch, step) on, without end.

        A step past the end of the epoch counts on into the next ones, so that ``dataset(step=k)``
        begins k steps from the start.

        Returns:
          A ``tf.data.Dataset`` of (x float32 [batch_size, ...], y [batch_size, ...], int32 where it is classes).
        """
        epoch, step = self._place(epoch, step)
        # The order of the next epoch is worked out while this one is read.
        plans = tf.data.Dataset.range(epoch, LAST_EPOCH).map(as_it_is(self._plan)).prefetch(1)
        places = plans.flat_map(as_it_is(_slices)).skip(step * self._part[2])
        made, bytes_made = self._made(places, self._batch), None
        if _are_bytes(self._samples) and self._moves_and_adds is not None:
            bytes_made = self._made(places, self._stored)
        return made if bytes_made is None else remember(made, bytes_made, self._finish)

    @staticmethod
    def _made(places: Any, batch: Callable[[Any, Any], Any]) -> Any:
        return untuned(places.map(as_it_is(batch), num_parallel_calls=THREADS, deterministic=True).prefetch(AHEAD))

    def _place(self, epoch: int, step: int) -> Any:
        for name, value in (("epoch", epoch), ("step", step)):
            if not _is_count(value) or value < 0:
                raise ValueError(f"{name} must be a whole number from 0, got {value!r}")
        epoch, step = epoch + step // self.steps_per_epoch, step % self.steps_per_epoch
        if epoch >= LAST_EPOCH:
            raise ValueError(f"the stream ends before epoch {LAST_EPOCH}, got epoch {epoch}")
        return epoch, step

    def _plan(self, epoch: Any) -> Any:
        """What an epoch needs: indices [steps * count, batch_size], seeds int32 [steps * count, 2]."""
        worker, workers, count = self._part
        steps = self.steps_per_epoch
        order = permutation(self.size, fold_in(self.seed, "shuffle", epoch))
        indices = tf.reshape(order[: steps * workers * self.batch_size], [steps, workers, self.batch_size])
        seeds = tf.reshape(fold_in(self.seed, "augment", epoch, tf.range(steps * workers)), [steps, workers, 2])
        own = slice(worker, worker + count)
        return tf.reshape(indices[:, own], [steps * count, self.batch_size]), tf.reshape(seeds[:, own], [-1, 2])

    def _batch(self, indices: Any, seed: Any) -> Any:
        x, *others = tf.nest.map_structure(lambda part: tf.gather(part, indices), self._parts)
        x = self._samples.scaled(x)
        if self._augment is not None:
            x = as_written_by_users(self._augment)(x, seed)
        x = self._samples.finished(x)
        stored = self._samples.x
        x = tf.nest.map_structure(lambda a, b: tf.ensure_shape(a, [self.batch_size, *b.shape[1:]]), x, stored)
        return (x, *others)

    def _stored(self, indices: Any, seed: Any) -> Any:
        """The same batch as it is sent to a device that finishes it: (bytes, y), or (bytes, numbers to add, y)."""
        move, add = self._moves_and_adds or (None, None)
        images, y = (tf.gather(part, indices) for part in self._parts)
        if move is not None:  # every grey value is a whole number before and after
            images = tf.cast(move(tf.cast(images, tf.float32), seed), tf.uint8)
        images = tf.ensure_shape(images, [self.batch_size, *self.shape])
        added = [] if add is None else [add(seed, self.batch_size)]
        return (images, *added, y)

    def _finish(self, images: Any, *rest: Any) -> Any:
        *added, y = rest
        x = self._samples.scaled(images)
        for delta in added:
            x = x + delta[:, tf.newaxis, tf.newaxis, tf.newaxis]
        return self._samples.finished(x), y


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


def evaluation(data: Any, batch_size: int) -> Any:
    """All images once, in the order they are stored, scaled as in training and never augmented.

    Args:
      data: a :class:`Split` or arrays, as for :class:`Batches`.
      batch_size: images at a time; the last batch holds what is left.

    Returns:
      A ``tf.data.Dataset`` of (x float32 [<= batch_size, ...], y int32 [<= batch_size]).

    Raises:
      TypeError, ValueError: as for :class:`Batches`, but a batch may be larger than the data.

    Example:
      >>> from rbd_ipu.data import load
      >>> [len(y) for x, y in evaluation(load("digits").test, batch_size=128)]
      [128, 128, 44]
    """
    samples = Samples.of(data)
    size = _checked_batch_size(batch_size)
    parts = samples.resident()

    def stored(start: Any) -> Any:
        return tf.nest.map_structure(lambda part: part[start : start + size], parts)

    def finish(x: Any, *others: Any) -> Any:
        return (samples.finished(samples.scaled(x)), *others)

    def made(batch: Callable[[Any], Any]) -> Any:
        starts = tf.data.Dataset.range(0, samples.size, size)
        return untuned(starts.map(as_it_is(batch), num_parallel_calls=THREADS, deterministic=True).prefetch(2))

    whole = made(lambda start: finish(*stored(start)))
    return remember(whole, made(stored), finish) if _are_bytes(samples) else whole


def _are_bytes(samples: Samples) -> bool:
    """Whether x is one array of bytes and y one array, without weights."""
    x, *others = samples.parts
    return isinstance(x, np.ndarray) and x.dtype == np.uint8 and [type(part) for part in others] == [np.ndarray]


def _slices(*tensors: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(tensors)


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_batch_size(value: Any) -> int:
    if not _is_count(value) or value < 1:
        raise ValueError(f"batch_size must be a whole number from 1, got {value!r}")
    return int(value)


def _augmentation(augment: Any, shape: Any) -> Optional[Callable[[Any, Any], Any]]:
    if augment is None or augment == "none":
        return None
    if not callable(augment):
        augment = AUGMENTATIONS.get(augment)
    if len(shape) != 3 or not all(isinstance(length, int) for length in shape):
        raise ValueError(f"an augmentation works on images [height, width, channels], the data are {list(shape)}")
    return augment
