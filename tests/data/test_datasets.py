"""The embedded digits: complete, small, always divided in the same way; and data sets of TensorFlow Datasets.

Those are found, read in full, or refused with what to do about it.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu.data
from rbd_ipu._compat import tf
from rbd_ipu.data import DamagedDataError, MissingDataError, datasets, load
from rbd_ipu.data.datasets import _png_chatter_removed, data_folder, read

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


pytest.importorskip("tensorflow_datasets")
PACKAGE = "tensorflow_datasets.core.features"


def _write(root, name="mnist", train=30, test=7, shape=(28, 28, 1), version="3.0.1", classes=10):
    """A small data set as TFDS leaves it on disk; returns its folder and images by split."""
    folder = root / name / version
    folder.mkdir(parents=True)
    image = {"shape": {"dimensions": [str(side) for side in shape]}, "dtype": "uint8"}
    features = {
        "image": {"pythonClassName": f"{PACKAGE}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{PACKAGE}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }
    whole = {
        "pythonClassName": f"{PACKAGE}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(whole), encoding="utf-8")
    splits, arrays = [], {}
    for split, count in (("train", train), ("test", test)):
        arrays[split] = np.random.RandomState(count).randint(0, 256, (count, *shape), np.uint8)
        path = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index, pixels in enumerate(arrays[split]):
                writer.write(_record(tf.io.encode_png(pixels).numpy(), index % classes))
        splits.append(
            {
                "name": split,
                "shardLengths": [str(count)],
                "numBytes": str(path.stat().st_size),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": version, "fileFormat": "tfrecord", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return folder, arrays


def _record(image, label):
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_images_and_labels_come_back_in_order(tmp_path):
    folder, arrays = _write(tmp_path)
    for split, pixels in arrays.items():
        images, labels = read(folder, split)
        assert images.dtype == np.uint8
        assert (images == pixels).all()
        assert labels.tolist() == [index % 10 for index in range(len(pixels))]


def test_a_data_set_says_what_files_it_was_read_from(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "HELD_OUT", 10)
    folder, _ = _write(tmp_path)
    found = load("mnist", tmp_path).files
    assert found == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*tfrecord*")}
    assert len(found) == 2 and load("mnist", tmp_path).joined().files == found
    assert load("mnist", tmp_path, split_seed=1).files == found
    _edit(folder / "dataset_info.json", '["7"]', '["8"]')  # one image more in the test
    with tf.io.TFRecordWriter(str(folder / RECORDS)) as writer:
        for index in range(8):
            writer.write(_record(tf.io.encode_png(np.full((28, 28, 1), index, np.uint8)).numpy(), index))
    other = load("mnist", tmp_path).files
    assert other.keys() == found.keys() and [name for name in found if other[name] != found[name]] == [RECORDS]


def test_colour_images_too(tmp_path):
    folder, arrays = _write(tmp_path, "cifar10", shape=(32, 32, 3))
    assert (read(folder, "test")[0] == arrays["test"]).all()


def test_training_images_are_divided_by_the_split_seed(tmp_path, monkeypatch):
    _, arrays = _write(tmp_path)
    monkeypatch.setattr(datasets, "HELD_OUT", 10)
    data, again, other = (load("mnist", tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 10, 7)
    pixels = sorted(image.tobytes() for part in (data.train, data.validation) for image in part.images)
    assert pixels == sorted(image.tobytes() for image in arrays["train"])
    assert (data.validation.images == again.validation.images).all()
    assert (data.validation.images != other.validation.images).any()
    assert (data.test.images == other.test.images).all()
    assert (data.augment, data.standardise, data.train.peak) == ("pad_crop_brightness", False, 255)


def test_cifar_is_standardised_and_flipped(tmp_path, monkeypatch):
    _write(tmp_path, "cifar10", shape=(32, 32, 3))
    monkeypatch.setattr(datasets, "HELD_OUT", 10)
    data = load("cifar10", tmp_path)
    assert data.standardise and data.test.standardise
    assert data.augment == "pad_crop_flip"


def test_decoding_leaves_stderr_to_others(tmp_path, capfd):
    folder, _ = _write(tmp_path)
    read(folder, "train")
    assert "Cleanup" not in capfd.readouterr().err
    with pytest.raises(ZeroDivisionError), _png_chatter_removed():
        os.write(2, b"during\n")
        raise ZeroDivisionError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "during\nafter\n"


def test_a_missing_data_set_says_where_was_looked_and_how_to_fetch_it(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load("fashion_mnist", tmp_path)
    assert isinstance(caught.value, FileNotFoundError)
    message = str(caught.value)
    assert f"'fashion_mnist' is not in {tmp_path}, the folder that was searched" in message
    command = next(line.strip() for line in message.splitlines() if "python -c" in line)
    assert command == (
        f'python -c \'import tensorflow_datasets as tfds; tfds.load("fashion_mnist", data_dir="{tmp_path}")\''
    )
    assert not list(tmp_path.iterdir())  # nothing was fetched


def test_the_command_that_fetches_runs(tmp_path):
    folder, _ = _write(tmp_path)
    with pytest.raises(MissingDataError) as caught:
        load("cifar10", tmp_path)
    command = next(line for line in str(caught.value).splitlines() if "python -c" in line)
    # With a data set that is there, as nothing may be downloaded here; the last word is the code.
    command = command.replace("cifar10", "mnist").replace("python -c", f"exec {sys.executable} -c")
    environment = {**os.environ, "NO_GCE_CHECK": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"nowhere \(no such folder\)"):
        load("mnist", tmp_path / "nowhere")


def test_where_data_sets_are_looked_for(tmp_path, monkeypatch):
    ours, theirs, home = (_write(tmp_path / name)[0] for name in ("a", "b", "tensorflow_datasets"))
    argument = _write(tmp_path / "c")[0]
    monkeypatch.setenv("RBD_DATA_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("mnist", tmp_path / "c") == argument
    assert data_folder("mnist") == ours
    monkeypatch.delenv("RBD_DATA_DIR")
    assert data_folder("mnist") == theirs
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data_folder("mnist") == home


def test_the_newest_version_is_taken(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9"):
        _write(tmp_path, version=version, train=1, test=1)
    assert data_folder("mnist", tmp_path).name == "3.0.10"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


def _edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


RECORDS = "mnist-test.tfrecord-00000-of-00001"
INFO = "dataset_info.json"


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: _cut(folder / RECORDS), f"{RECORDS}.*truncated record"),
        (lambda folder: _flip(folder / RECORDS), f"{RECORDS}.*corrupted record"),
        (lambda folder: (folder / RECORDS).unlink(), f"{RECORDS}.*No such file"),
        (lambda folder: (folder / RECORDS).write_bytes(b""), f"{RECORDS}.*no image"),
        (lambda folder: _edit(folder / INFO, '["7"]', '["8"]'), f"{RECORDS}.*7 images where.*8"),
        (lambda folder: _edit(folder / INFO, '"test"', '"exam"'), "Unknown split"),
        (lambda folder: _edit(folder / INFO, '"tfrecord"', '"array_record"'), "TFRecord format"),
        (lambda folder: (folder / INFO).write_text("{"), "Failed to load JSON"),
        (lambda folder: (folder / "features.json").unlink(), "Cannot restore"),
    ],
)
def test_damaged_files_are_refused_with_their_folder(tmp_path, monkeypatch, damage, words):
    monkeypatch.setattr(datasets, "HELD_OUT", 10)
    folder, _ = _write(tmp_path)
    damage(folder)
    with pytest.raises(DamagedDataError, match=words) as caught:
        load("mnist", tmp_path)
    assert str(folder) in str(caught.value)
    assert "fetch the data set again" in str(caught.value)


def test_other_data_under_the_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "HELD_OUT", 10)
    _write(tmp_path / "shape", shape=(20, 20, 1))
    with pytest.raises(DamagedDataError, match=r"expected images \[28, 28, 1\].*got images \[20, 20"):
        load("mnist", tmp_path / "shape")
    _write(tmp_path / "label", classes=11)
    with pytest.raises(DamagedDataError, match="labels 0 .. 9.*up to 10"):
        load("mnist", tmp_path / "label")


def test_too_few_images_to_hold_any_out(tmp_path):
    _write(tmp_path)
    with pytest.raises(DamagedDataError, match="30 training images.*10000 are needed"):
        load("mnist", tmp_path)


def test_without_tfds_the_extra_is_named(tmp_path, monkeypatch):
    _write(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "rbd-ipu\[data\]"'):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    "name, held_in, training, test, labels",
    [
        ("mnist", 50_000, 1_567_298_545, 264_923_200, [2, 7, 7, 9, 8, 4, 7, 4]),
        ("fashion_mnist", 50_000, 3_431_114_169, 573_469_082, [2, 0, 0, 0, 6, 4, 1, 0]),
        ("cifar10", 40_000, 18_540_682_003, 3_733_375_634, [2, 9, 3, 9, 2, 8, 1, 7]),
    ],
)
def test_the_real_ones(tfds_dir, name, held_in, training, test, labels):
    if not (tfds_dir / name).is_dir():
        pytest.skip(f"no {name} in {tfds_dir}")
    data = load(name, tfds_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == (held_in, 10_000, 10_000)
    for split in (data.train, data.validation, data.test):
        assert (np.bincount(split.labels) > len(split) * 0.08).all()
    # The sum of all bytes of all images, whatever their order: of copies that lost nothing.
    sums = [int(split.images.sum(dtype=np.int64)) for split in (data.train, data.validation, data.test)]
    assert (sums[0] + sums[1], sums[2]) == (training, test)
    if tfds_dir.name == "tfds":  # the order is that of a copy
        assert data.validation.labels[:8].tolist() == labels
