"""The data sets by name."""

import os
from typing import Any, Optional, Union

from rbd_ipu.data.digits import digits
from rbd_ipu.data.images import ImageData
from rbd_ipu.data.published import PUBLISHED, published
from rbd_ipu.registry import Registry

DATASETS = Registry("data set")  # rows: (data_dir, split_seed) -> ImageData


@DATASETS.register("digits")
def _digits(data_dir: Any, split_seed: int) -> ImageData:
    return digits(split_seed)


def _published(name: str) -> Any:
    return lambda data_dir, split_seed: published(name, data_dir, split_seed)


for _name in PUBLISHED:
    DATASETS.register(_name)(_published(_name))


def load(name: str = "digits", data_dir: Optional[Union[str, os.PathLike]] = None, split_seed: int = 0) -> ImageData:
    """Loads a data set into memory, its images decoded to uint8. Never downloads.

    Args:
      name: "digits" (comes with the package), "mnist", "fashion_mnist" or "cifar10".
      data_dir: where TensorFlow Datasets keeps its data sets; by default $RBD_DATA_DIR, else
        $TFDS_DATA_DIR, else ~/tensorflow_datasets. The digits need no folder.
      split_seed: decides which training images are held out for validation: 10,000 (digits: 300,
        and 300 to test). It is no part of a run's seed, so that runs with other seeds are judged by
        the same images.

    Returns:
      An :class:`ImageData`.

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
