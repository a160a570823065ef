"""Reading what TensorFlow Datasets prepared: decoded once, and never downloaded."""

import contextlib
import hashlib
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Tuple

import numpy as np

from rbd_ipu.errors import DamagedDataError, MissingDataError


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
