"""Splits and data sets refuse what does not fit."""

import dataclasses

import numpy as np
import pytest

from rbd_ipu.data import ImageData, Split, load

IMAGES = np.zeros([4, 5, 6, 3], np.uint8)


def test_a_split_keeps_bytes_and_int32():
    split = Split(IMAGES, np.array([0, 1, 2, 3], np.uint8))
    assert len(split) == 4
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES[0], IMAGES[:0], np.zeros([2, 0, 3, 1], np.uint8), [[1]]],
)
def test_unfit_images_are_refused(images):
    with pytest.raises(TypeError, match=r"uint8 \[n, height, width, channels\].*got "):
        Split(images, np.arange(len(images)))


@pytest.mark.parametrize(
    "labels, error, words",
    [
        (np.arange(3), ValueError, "4 inputs but 3 labels"),
        (np.arange(4.0), TypeError, r"whole numbers.*got float64 \[4\]"),
        (np.eye(4, dtype=np.int64), TypeError, r"not one-hot.*\[4, 4\]"),
        (np.array([True, False, True, True]), TypeError, "got bool"),
        (np.array([0, 1, -1, 2]), ValueError, "got -1 .. 2"),
        (np.array([0, 1, 2, 2**31]), ValueError, "got 0 .. 2147483648"),
    ],
)
def test_unfit_labels_are_refused(labels, error, words):
    with pytest.raises(error, match=words):
        Split(IMAGES, labels)


@pytest.mark.parametrize("peak", [0, -1.0, float("nan"), float("inf")])
def test_unfit_peaks_are_refused(peak):
    with pytest.raises(ValueError, match="peak must be a positive number"):
        Split(IMAGES, np.arange(4), peak=peak)


def test_take_keeps_the_rest():
    split = Split(IMAGES, np.arange(4), peak=16, standardise=True).take(np.array([2, 0]))
    assert split.labels.tolist() == [2, 0]
    assert (split.peak, split.standardise) == (16, True)


def test_nothing_can_be_set_afterwards():
    split = Split(IMAGES, np.arange(4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.labels = np.zeros(4)


def test_batches_augment_as_the_data_set_says_unless_told_otherwise():
    split = Split(np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1), np.arange(4))
    data = ImageData("name", split, split, split, 4, "pad_crop", "source", "licence")

    def first(**options):
        return next(iter(data.batches(4, **options).dataset()))[0].numpy()

    assert (first() == first(augment=True)).all()
    assert (first() == first(augment="pad_crop")).all()
    assert (first(augment=False) == first(augment=None)).all()
    assert (first() != first(augment=False)).any()
    assert (first(augment=lambda images, seed: images * 2) == 2 * first(augment=None)).all()


def test_evaluation_by_the_name_of_the_split():
    digits = load()
    images, labels = next(iter(digits.evaluation("validation", 16)))
    assert (images.numpy() * 16 == digits.validation.images[:16]).all()
    assert (labels.numpy() == digits.validation.labels[:16]).all()
    with pytest.raises(ValueError, match="unknown split 'valid'; accepted: 'train', 'validation'"):
        digits.evaluation("valid", 16)


def test_joined_data_hold_nothing_out():
    from rbd_ipu.data import load

    digits = load("digits")
    joined = digits.joined()
    assert len(joined.train) == len(digits.train) + len(digits.validation)
    np.testing.assert_array_equal(joined.train.images[len(digits.train) :], digits.validation.images)
    np.testing.assert_array_equal(joined.validation.labels, digits.test.labels)
    assert joined.train.peak == digits.train.peak and len(digits.train) == 1197
