"""The embedded digits: complete, small, always divided in the same way."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu.data
from rbd_ipu.data import load

FOLDER = Path(rbd_ipu.data.__file__).parent


@pytest.fixture(scope="module")
def digits():
    return load()


def _pixels(*splits):
    images = np.concatenate([split.images for split in splits])
    return {image.tobytes() for image in images}


def test_it_is_the_default_and_says_what_it_is(digits):
    assert digits.name == "digits"
    assert digits.shape == (8, 8, 1)
    assert digits.classes == 10
    assert not digits.standardise
    assert "10.24432/C50P49" in digits.source
    assert digits.licence == "CC BY 4.0"


def test_three_splits_hold_all_images_once(digits):
    splits = digits.train, digits.validation, digits.test
    assert [len(split) for split in splits] == [1197, 300, 300]
    labels = np.concatenate([split.labels for split in splits])
    # The number of each digit as UCI states it for the test set.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    whole = _pixels(*splits)
    assert len(whole) == sum(len(_pixels(split)) for split in splits)


def test_values_reach_from_0_to_16(digits):
    assert digits.train.images.dtype == np.uint8
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 16)
    assert digits.train.peak == 16
    assert digits.train.labels.dtype == np.int32


def test_the_division_is_fixed(digits):
    assert digits.test.labels[:10].tolist() == [3, 2, 6, 5, 2, 8, 6, 8, 9, 8]
    assert int(digits.train.images.sum()) == 373320


def test_another_split_seed_divides_otherwise(digits):
    other = load("digits", split_seed=1)
    assert len(other.test) == len(digits.test)
    assert _pixels(other.test) != _pixels(digits.test)


def test_every_class_is_in_every_split(digits):
    for split in (digits.train, digits.validation, digits.test):
        assert (np.bincount(split.labels, minlength=10) > len(split) / 20).all()


def test_the_file_is_small_and_carries_its_notice():
    assert (FOLDER / "digits.npz").stat().st_size <= 150_000
    notice = (FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    for words in ("10.24432/C50P49", "Alpaydin", "Kaynak", "Attribution 4.0"):
        assert words in notice


def test_the_file_holds_what_scikit_learn_carries():
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    with np.load(FOLDER / "digits.npz") as arrays:
        assert (arrays["images"][..., 0] == raw.images).all()
        assert (arrays["labels"] == raw.target).all()


def test_loading_them_does_not_import_tensorflow():
    code = (
        "import sys, rbd_ipu.data, rbd_ipu.models; rbd_ipu.data.load('digits'); "
        "rbd_ipu.data.DATASETS.names(), rbd_ipu.models.NETWORKS.names(); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="unknown data set 'digit'.*'digits'.*'cifar10'"):
        load("digit")
