"""The embedded data set: 1,797 handwritten digits, 8 by 8 pixels (see NOTICE.md beside the
file)."""

import hashlib
import io
import pkgutil

import numpy as np

from rbd_ipu.data.images import ImageData, Split
from rbd_ipu.data.order import permutation_numpy
from rbd_ipu.seeds import fold_in_numpy

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
