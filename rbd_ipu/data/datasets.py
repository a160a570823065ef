"""The data sets by name: digits (embedded), MNIST, Fashion-MNIST and CIFAR-10; texts of Shakespeare.

The embedded data sets: 1,797 handwritten digits, 8 by 8 pixels, and the beginning of a play (see NOTICE.md beside the
files).

The paper's three data sets: what is known of each, and how the training images are divided.
"""

import hashlib
import io
import os
import pkgutil
from typing import Any, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu.checks import Registry
from rbd_ipu.data.images import WHICH, ImageData, Split
from rbd_ipu.data.text import TextData
from rbd_ipu.data.tfds import data_folder, read, read_text, sums
from rbd_ipu.errors import DamagedDataError
from rbd_ipu.seeds import fold_in_numpy, permutation_numpy

PEAK = 16.0  # the grey values are counts of ink in blocks of 4 by 4 pixels
TRAIN, VALIDATION = 1197, 300  # and 300 to test


def digits(split_seed: int = 0) -> ImageData:
    """Loads the digits and deals them out at random, always the same way for a ``split_seed``."""
    packed = pkgutil.get_data("rbd_ipu.data", "digits.npz")
    assert packed is not None  # get_data gives None only for loaders without files
    with np.load(io.BytesIO(packed)) as arrays:
        everything = Split(arrays["images"], arrays["labels"], peak=PEAK)
    order = permutation_numpy(len(everything), fold_in_numpy(split_seed, "split"))
    train, validation, test = np.split(order, [TRAIN, TRAIN + VALIDATION])
    return ImageData(
        name="digits",
        train=everything.take(train),
        validation=everything.take(validation),
        test=everything.take(test),
        classes=10,
        augment="none",  # a shift by one of eight pixels costs FC 3 to 7 points of accuracy
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (test set), UCI, doi:10.24432/C50P49",
        licence="CC BY 4.0",
        files={"digits.npz": hashlib.sha256(packed).hexdigest()},
    )


HELD_OUT = 10_000  # training images kept for validation, as in the first public implementation


class Facts(NamedTuple):
    """What a data set is, and how the paper prepares it (its Section 4)."""

    shape: Tuple[int, int, int]
    augment: str
    standardise: bool
    source: str
    licence: str


PUBLISHED = {
    "mnist": Facts(
        (28, 28, 1),
        "pad_crop_brightness",
        False,
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits",
        "CC BY-SA 3.0",
    ),
    "fashion_mnist": Facts(
        (28, 28, 1),
        "pad_crop_brightness",
        False,
        "Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747",
        "MIT",
    ),
    "cifar10": Facts(
        (32, 32, 3),
        "pad_crop_flip",
        True,
        "Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        "none stated",
    ),
}


def published(name: str, data_dir: Any = None, split_seed: int = 0) -> ImageData:
    """Reads a data set of :data:`PUBLISHED` from where TensorFlow Datasets left it."""
    facts = PUBLISHED[name]
    folder = data_folder(name, data_dir)
    train, test = (_split(read(folder, which), facts, f"{folder}, split {which}") for which in ("train", "test"))
    if len(train) <= HELD_OUT:
        raise DamagedDataError(
            f"{folder} holds {len(train)} training images; more than {HELD_OUT} are needed, "
            "of which that many are held out for validation"
        )
    order = permutation_numpy(len(train), fold_in_numpy(split_seed, "split"))
    return ImageData(
        name=name,
        train=train.take(np.sort(order[HELD_OUT:])),
        validation=train.take(np.sort(order[:HELD_OUT])),
        test=test,
        classes=10,
        augment=facts.augment,
        source=facts.source,
        licence=facts.licence,
        files=sums(folder),
    )


def _split(arrays: Tuple[np.ndarray, np.ndarray], facts: Facts, where: str) -> Split:
    images, labels = arrays
    if images.shape[1:] != facts.shape or labels.max(initial=0) >= 10:
        raise DamagedDataError(
            f"{where}: expected images {list(facts.shape)} and labels 0 .. 9, got images "
            f"{list(images.shape[1:])} and labels up to {labels.max(initial=0)}"
        )
    return Split(images, labels, standardise=facts.standardise)


EXCERPT = "shakespeare.txt"
HELD_OUT_TEXT = 5_000  # characters, at the beginning of the excerpt, to validate on, and as many after them to test

SHAKESPEARE = "Shakespeare, from Karpathy, char-rnn (tinyshakespeare)"
PUBLIC_DOMAIN = "public domain"


def shakespeare_excerpt() -> TextData:
    """Loads the beginning of "Coriolanus": 39,981 characters to train on, twice 5,000 to judge by."""
    packed = pkgutil.get_data("rbd_ipu.data", EXCERPT)
    assert packed is not None
    text = packed.decode("utf-8")
    return TextData.of(
        "shakespeare_excerpt",
        text[2 * HELD_OUT_TEXT :],
        text[:HELD_OUT_TEXT],
        text[HELD_OUT_TEXT : 2 * HELD_OUT_TEXT],
        source=SHAKESPEARE,
        licence=PUBLIC_DOMAIN,
        files={EXCERPT: hashlib.sha256(packed).hexdigest()},
    )


def tiny_shakespeare(data_dir: Any = None) -> TextData:
    """Reads tiny_shakespeare from where TensorFlow Datasets left it, in its own three splits."""
    folder = data_folder("tiny_shakespeare", data_dir)
    train, validation, test = (read_text(folder, which) for which in WHICH)
    facts: Any = {"source": SHAKESPEARE, "licence": PUBLIC_DOMAIN, "files": sums(folder)}
    try:
        return TextData.of("tiny_shakespeare", train, validation, test, **facts)
    except (TypeError, ValueError) as error:
        raise DamagedDataError(f"{folder} holds other texts than expected: {error}") from error


DATASETS = Registry("data set")  # rows: (data_dir, split_seed) -> ImageData or TextData
TEXTS = ("tiny_shakespeare", "shakespeare_excerpt")  # the rows that are TextData


@DATASETS.register("digits")
def _digits(data_dir: Any, split_seed: int) -> ImageData:
    return digits(split_seed)


def _published(name: str) -> Any:
    return lambda data_dir, split_seed: published(name, data_dir, split_seed)


for _name in PUBLISHED:
    DATASETS.register(_name)(_published(_name))
DATASETS.register("tiny_shakespeare")(lambda data_dir, split_seed: tiny_shakespeare(data_dir))
DATASETS.register("shakespeare_excerpt")(lambda data_dir, split_seed: shakespeare_excerpt())


def load(
    name: str = "digits", data_dir: Optional[Union[str, os.PathLike]] = None, split_seed: int = 0
) -> Union[ImageData, TextData]:
    """Loads a data set into memory, its images decoded to uint8. Never downloads.

    Args:
      name: "digits" (comes with the package), "mnist", "fashion_mnist" or "cifar10"; of characters "tiny_shakespeare"
        or "shakespeare_excerpt" (comes with the package).
      data_dir: where TensorFlow Datasets keeps its data sets; by default $RBD_DATA_DIR, else
        $TFDS_DATA_DIR, else ~/tensorflow_datasets. What comes with the package needs no folder.
      split_seed: decides which training images are held out for validation: 10,000 (digits: 300,
        and 300 to test). It is no part of a run's seed, so that runs with other seeds are judged by
        the same images. Of no use for texts.

    Returns:
      An :class:`ImageData`, or for texts a :class:`TextData`.

    Raises:
      ValueError: there is no data set of that name; the message lists the names.
      MissingDataError: it is not in the folder; the message has the command that fetches it.
      DamagedDataError: its files cannot be read in full.
      ImportError: TensorFlow Datasets is not installed.

    Example:
      >>> load("digits").train.images.shape
      (1197, 8, 8, 1)
    """
    return DATASETS.get(name)(data_dir, split_seed)
