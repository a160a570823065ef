"""The paper's three data sets: what is known of each, and how the training images are divided."""

from typing import Any, NamedTuple, Tuple

import numpy as np

from rbd_ipu.data.errors import DamagedDataError
from rbd_ipu.data.images import ImageData, Split
from rbd_ipu.data.order import permutation_numpy
from rbd_ipu.data.tfds import data_folder, read, sums
from rbd_ipu.seeds import fold_in_numpy

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
