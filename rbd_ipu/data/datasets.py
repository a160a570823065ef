"""The data sets by name: digits (embedded), MNIST, Fashion-MNIST and CIFAR-10; texts of Shakespeare.

The embedded data sets: 1,797 handwritten digits, 8 by 8 pixels, and the beginning of a play (see NOTICE.md beside the
files).

The paper's three data sets: what is known of each, and how the training images are divided. They are read from what
TensorFlow Datasets prepared: decoded once, and never downloaded.
"""

import contextlib
import hashlib
import io
import os
import pkgutil
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu.checks import Registry
from rbd_ipu.data.images import WHICH, ImageData, Split
from rbd_ipu.data.text import TextData
from rbd_ipu.errors import DamagedDataError, MissingDataError
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


def default_dir() -> str:
    """The folder that is searched when none is named."""
    home = os.path.join(os.path.expanduser("~"), "tensorflow_datasets")
    return os.environ.get("RBD_DATA_DIR") or os.environ.get("TFDS_DATA_DIR") or home


def data_folder(name: str, data_dir: Any = None) -> Path:
    """The folder of the newest version of a data set.

    Args:
      name: as TensorFlow Datasets calls it.
      data_dir: the folder that holds all data sets; None for :func:`default_dir`.

    Raises:
      MissingDataError: there is none; the message has the folder that was searched and the command
        that fetches the data set.
    """
    root = Path(default_dir() if data_dir is None else data_dir).expanduser().absolute()
    found = [info.parent for info in (root / name).glob("*.*.*/dataset_info.json")]
    if not found:
        fetch = f'import tensorflow_datasets as tfds; tfds.load("{name}", data_dir="{root}")'
        state = "" if root.is_dir() else " (no such folder)"
        raise MissingDataError(
            f"data set {name!r} is not in {root}{state}, the folder that was searched. "
            f"To fetch it:\n    python -c {shlex.quote(fetch)}\n"
            "or name the folder that has it: data_dir, or the environment variable RBD_DATA_DIR"
        )
    return max(found, key=_version)


def _version(folder: Path) -> Tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) if part.isdigit() else -1 for part in parts)


def read(folder: Path, split: str) -> Tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, height, width, channels] and labels int64 [n] of a split, as on disk.

    Records are parsed and decoded by the batch, which is four times as fast as one by one.

    Raises:
      DamagedDataError: the files are missing, cut short, or hold something else.
      ImportError: TensorFlow Datasets is not installed.
    """
    with _opened(folder, split) as (builder, info):
        if not all("tfrecord" in name for name in info.filenames):
            raise ValueError("only files in TFRecord format, the default of TFDS, are read")
        images, labels = _decode(info.filepaths, builder.info.features["image"].shape)
    if len(images) != info.num_examples:
        said = f"{len(images)} images where dataset_info.json says {info.num_examples}"
        raise _damaged(folder, ", ".join(info.filenames), said)
    return images, labels


@contextlib.contextmanager
def _opened(folder: Path, split: str) -> Iterator[Tuple[Any, Any]]:
    """The builder of a folder, and what it knows of a split; what cannot be read there is a DamagedDataError."""
    tfds = _tfds()
    files = f"{split} files"
    try:
        builder = tfds.builder_from_directory(str(folder))
        info = builder.info.splits[split]
        files = ", ".join(info.filenames)
        yield builder, info
    except ImportError:
        raise
    except Exception as error:  # TFDS and TensorFlow raise a dozen types for broken files
        raise _damaged(folder, files, f"{type(error).__name__}: {_first_line(error)}") from error


def read_text(folder: Path, split: str) -> str:
    """The text of a split, which is its only example, as on disk.

    Raises:
      DamagedDataError: the files are missing, cut short, or hold something else.
      ImportError: TensorFlow Datasets is not installed.
    """
    with _opened(folder, split) as (_, info):
        return _decode_text(info.filepaths)


def _decode_text(paths: Iterable[Any]) -> str:
    from rbd_ipu._compat import tf

    features = {"text": tf.io.FixedLenFeature([], tf.string)}
    with tf.device("/CPU:0"):
        records = tf.data.TFRecordDataset([str(path) for path in paths])
        texts = [tf.io.parse_single_example(record, features)["text"].numpy() for record in records]
    if len(texts) != 1:
        raise ValueError(f"there are {len(texts)} texts where one is expected")
    return texts[0].decode("utf-8")


def sums(folder: Path) -> Dict[str, str]:
    """SHA-256 of every record file in a data set's folder, by file name."""
    found = {}
    for path in sorted(folder.glob("*tfrecord*")):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        found[path.name] = digest.hexdigest()
    return found


def _decode(paths: Iterable[Any], shape: Tuple[int, ...]) -> Tuple[np.ndarray, np.ndarray]:
    from rbd_ipu._compat import tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def decode_one(encoded: Any) -> Any:
        image = tf.io.decode_image(encoded, shape[-1], expand_animations=False)
        return tf.ensure_shape(image, shape)

    def decode(records: Any) -> Any:
        examples = tf.io.parse_example(records, features)
        images = tf.map_fn(decode_one, examples["image"], fn_output_signature=tf.uint8)
        return images, examples["label"]

    with tf.device("/CPU:0"), _png_chatter_removed():
        records = tf.data.TFRecordDataset([str(path) for path in paths]).batch(1000)
        batches = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        decoded = [(x.numpy(), y.numpy()) for x, y in batches]
    if not decoded:
        raise ValueError("there is no image in it")
    images, labels = zip(*decoded)
    return np.concatenate(images), np.concatenate(labels)


def _damaged(folder: Path, files: str, what: str) -> DamagedDataError:
    return DamagedDataError(
        f"cannot read {files} in {folder}: {what}. Remove the folder and fetch the data set again"
    )


def _first_line(error: Exception) -> str:
    # Without the names of graph nodes that TensorFlow puts around its messages.
    text = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", str(error), flags=re.DOTALL).strip()
    return (text or "no message").splitlines()[0].rstrip(".")


def _tfds() -> Any:
    # Without this, the first look at a file may wait for the metadata server of a cloud machine.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError('this data set needs TensorFlow Datasets: pip install "rbd-ipu[data]"') from error
    return tensorflow_datasets


@contextlib.contextmanager
def _png_chatter_removed() -> Iterator[None]:
    """Drops the line that TensorFlow 2.6 writes to stderr for every PNG; keeps the others."""
    from rbd_ipu._compat import KERAS_3

    if KERAS_3:
        yield
        return
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if line.strip() != b"Cleanup called...":
                    os.write(2, line)
