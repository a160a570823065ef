"""Labelled images in memory: a split, and a data set of three splits."""

import dataclasses
import numbers
from typing import Any, Callable, Mapping, Tuple, Union

import numpy as np

from rbd_ipu.checks import checked_labels
from rbd_ipu.seeds import fold_in_numpy, permutation_numpy

Augment = Union[None, str, Callable[[Any, Any], Any]]

WHICH = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, as stored; a stream scales them when it hands them out.

    Args:
      images: uint8 [n, height, width, channels].
      labels: [n], whole numbers from 0; kept as int32.
      peak: the grey value that becomes 1.0.
      standardise: whether each image is also brought to mean 0 and deviation 1 (as CIFAR-10 in the
        paper).

    Raises:
      TypeError, ValueError: the arrays are of another type or shape, are empty or differ in length.

    Example:
      >>> split = Split(np.zeros([5, 8, 8, 1], np.uint8), np.arange(5))
      >>> len(split), split.images.shape
      (5, (5, 8, 8, 1))
    """

    images: np.ndarray
    labels: np.ndarray
    peak: float = 255.0
    standardise: bool = False

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
            raise TypeError(
                "images must be uint8 [n, height, width, channels] and not empty, "
                f"got {images.dtype} {list(images.shape)}"
            )
        if not 0 < self.peak < float("inf"):
            raise ValueError(f"peak must be a positive number, got {self.peak!r}")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", checked_labels(self.labels, len(images)))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def arrays(self) -> Tuple[np.ndarray, ...]:
        """All that there is: the images and the labels."""
        return (self.images, self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The images at ``indices``, as a split of its own."""
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: three splits and what to know about them.

    Attributes:
      name: as in :func:`rbd_ipu.data.load`.
      train, validation, test: :class:`Split`; no image is in two of them.
      classes: how many classes there are; labels are ``0 .. classes - 1``.
      augment: what :meth:`batches` does to training images unless told otherwise, see
        AUGMENTATIONS.
      source: where the images come from.
      licence: the terms they come under.
      files: the files they were read from, name: SHA-256; empty where they came from elsewhere.

    Example:
      >>> from rbd_ipu.data import load
      >>> digits = load("digits")
      >>> digits.shape, digits.classes, len(digits.train), len(digits.validation), len(digits.test)
      ((8, 8, 1), 10, 1197, 300, 300)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    augment: Augment
    source: str
    licence: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    examples = "images"  # what the messages call them
    of_text = False

    @property
    def shape(self) -> Tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def standardise(self) -> bool:
        """Whether every image is brought to mean 0 and deviation 1."""
        return self.train.standardise

    def joined(self) -> "ImageData":
        """The same data with nothing held out: training also on the validation images, which are then the test's.

        For a last run, after everything has been chosen; its validation numbers are test numbers.

        Example:
          >>> from rbd_ipu.data import load
          >>> len(load("digits").joined().train)
          1497
        """
        images = np.concatenate([self.train.images, self.validation.images])
        labels = np.concatenate([self.train.labels, self.validation.labels])
        train = dataclasses.replace(self.train, images=images, labels=labels)
        return dataclasses.replace(self, train=train, validation=self.test)

    def for_tuning(self, share: float = 0.25, seed: int = 0) -> "ImageData":
        """The same data with a share of the training images held out, as the validation images.

        What a setting is chosen by must not be what the result is judged by: the true validation images are left out.

        Args:
          share: of the training images, above 0 and below 1; the paper chooses learning rates on 0.25 (Section C.1).
            Rounded to whole images, at least one on either side.
          seed: decides which. No part of a run's seed, so that all runs are compared on the same images.

        Raises:
          ValueError: the share is not above 0 and below 1.

        Example:
          >>> from rbd_ipu.data import load
          >>> tuning = load("digits").for_tuning()
          >>> len(tuning.train), len(tuning.validation)
          (898, 299)
        """
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < 1:
            raise ValueError(f"share must be a number above 0 and below 1, got {share!r}")
        count = len(self.train)
        held_out = min(max(1, round(share * count)), count - 1)
        order = permutation_numpy(count, fold_in_numpy(seed, "tuning"))
        train, validation = np.sort(order[held_out:]), np.sort(order[:held_out])
        return dataclasses.replace(self, train=self.train.take(train), validation=self.train.take(validation))

    def batches(self, batch_size: int, seed: Any = 0, augment: Union[bool, Augment] = True) -> Any:
        """:class:`rbd_ipu.data.Batches` over the training split.

        ``augment``: True for the data set's own, False or None for none, or one by name or
        function.
        """
        from rbd_ipu.data.batches import Batches

        if isinstance(augment, bool):
            augment = self.augment if augment else None
        return Batches(self.train, batch_size, seed=seed, augment=augment)

    def evaluation(self, which: str, batch_size: int) -> Any:
        """:func:`rbd_ipu.data.evaluation` over "train", "validation" or "test"."""
        from rbd_ipu.data.batches import evaluation

        if which not in WHICH:
            raise ValueError(f"unknown split {which!r}; accepted: {', '.join(map(repr, WHICH))}")
        return evaluation(getattr(self, which), batch_size)
