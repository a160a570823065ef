"""The file of a checkpoint, what it holds, and the folder of several.

A file is an ``.npz`` of NumPy: the arrays by name, and ``header``, JSON as bytes of UTF-8:
``{"format": 2, "facts": {...}, "arrays": {name: {"dtype": ..., "shape": [...], "sha256": ...}}}``.
Nothing in it is pickled, and no array is believed that is not what the header says.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu import files
from rbd_ipu.files import draft_of

FORMAT = 2
HEADER = "header"
_OF_ZIP = b"PK\x03\x04"
_DTYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_DTYPES += ("float16", "float32", "float64")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why. Nothing has been changed."""


def write(path: Union[str, Path], facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes a file that is whole or, if this fails, as it was before.

    Args:
      path: of the file.
      facts: what JSON can hold.
      arrays: by name; of booleans, integers, or floats of 16, 32 or 64 bits.

    Raises:
      OSError: with the path, when the file cannot be written.
      TypeError: an array is of another type.
    """
    plain: Dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"{name} is of type {array.dtype.name}; a checkpoint holds {', '.join(_DTYPES)}")
    plain = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in plain.items()}
    listed = {name: _described(array) for name, array in plain.items()}
    header = np.frombuffer(files.line({"format": FORMAT, "facts": facts, "arrays": listed}).encode(), np.uint8)
    content = io.BytesIO()  # not the file itself: where the disk is full, zipfile raises again as it is closed
    np.savez(content, **{HEADER: header, **plain})
    with files.replacing(path) as draft:
        draft.write_bytes(content.getbuffer())


def _described(array: np.ndarray) -> Dict[str, Any]:
    checksum = hashlib.sha256(array.tobytes()).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": checksum}


def read(path: Union[str, Path]) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Facts and arrays of a file, once all arrays have been found to be those of its header.

    Raises:
      CheckpointError: it is no such file, damaged, or of a newer format.
      OSError: with the path, when the file cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write(Path(folder) / "a", {"step": 7}, {"w": np.float32([1, 2])})
      ...     read(Path(folder) / "a")
      ({'step': 7}, {'w': array([1., 2.], dtype=float32)})
    """
    with files.naming(path):
        content = Path(path).read_bytes()
    if not content:
        raise CheckpointError("the file is empty")
    if content[: len(_OLD)] == _OLD:
        return _unpacked("the file", lambda: _read_format_1(content))
    if content[: len(_OF_ZIP)] != _OF_ZIP:
        raise CheckpointError(f"it is no checkpoint of rbd_ipu: it begins with {content[:16]!r}")
    archive = _unpacked("the file", lambda: zipfile.ZipFile(io.BytesIO(content)))
    names = [name[: -len(".npy")] for name in archive.namelist()]
    if HEADER not in names:
        raise CheckpointError(f"it is no checkpoint of rbd_ipu: it has no {HEADER}, only {names[:4]}")
    header = _unpacked(f"its {HEADER}", lambda: json.loads(_entry(archive, HEADER).tobytes()))
    version = header.get("format") if isinstance(header, dict) else None
    if version != FORMAT:
        raise CheckpointError(f"it is of format {version}, and this rbd_ipu reads formats 1 and {FORMAT}")
    facts, listed = header.get("facts"), header.get("arrays")
    if not isinstance(facts, dict) or not isinstance(listed, dict) or sorted([HEADER, *listed]) != sorted(names):
        raise CheckpointError(f"its {HEADER} does not list what the file holds")
    arrays = {name: _unpacked(f"its {name}", functools.partial(_entry, archive, name)) for name in listed}
    for name, array in arrays.items():
        found = _described(array)
        if found != listed[name]:
            raise CheckpointError(f"its {name} is damaged: the {HEADER} says {listed[name]}, and it is {found}")
    return facts, arrays


def _entry(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _unpacked(what: str, unpack: Callable[[], Any]) -> Any:
    """What ``unpack`` gives. zipfile, NumPy and JSON have a dozen errors for what has been cut short or altered."""
    try:
        return unpack()
    except Exception as error:
        raise CheckpointError(f"{what} is damaged, cut short or altered: {error}") from None


_OLD = b"\x89rbd-ipu state\r\n"  # begins a file of format 1


def _read_format_1(content: bytes) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Of a file as it was before: format (1) and length of the header, the header, the arrays, SHA-256 of it all."""
    body = memoryview(content)[:-32]
    if hashlib.sha256(body).digest() != content[-32:]:
        raise ValueError("its checksum is wrong")
    (length,) = struct.unpack_from("<Q", content, len(_OLD) + 4)
    start = len(_OLD) + 12 + length
    header = json.loads(bytes(body[start - length : start]))
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        kind = np.dtype(dtype).newbyteorder("<")
        end = start + math.prod(shape) * kind.itemsize
        arrays[name] = np.frombuffer(body[start:end], kind).reshape(shape)
        start = end
    return header["facts"], arrays


#: Fields of the progress that are float64 arrays: JSON has no NaN, and a sum over steps may be one.
SUMS = "progress/sums"


class Checkpoint(NamedTuple):
    """The state of a training, as :func:`rbd_ipu.checkpoints.save` wrote it.

    Attributes:
      path: the file it is from.
      step: the number of updates.
      progress: a :class:`rbd_ipu.step.Progress`, the place in the run.
      method: name, d, D and hyper-parameters.
      variables: for each group ("model", "optimizer", "method") the (name, dtype, shape) of its arrays.
      arrays: for each group the values, in that order.
      versions, machine, saved: with what, where and when it was written.
      about: what the user put beside it.
    """

    path: Path
    step: int
    progress: Any
    method: Dict[str, Any]
    variables: Dict[str, List[List[Any]]]
    arrays: Dict[str, List[np.ndarray]]
    versions: Dict[str, Any]
    machine: Dict[str, Any]
    saved: str
    about: Dict[str, Any]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        within = f", {self.progress.step} steps into the next" if self.progress.step else ""
        return f"step {self.step}, after {self.progress.epoch} epochs{within}"


def key(group: str, index: int) -> str:
    """The name of a variable's array: names of variables need not be unique."""
    return f"{group}/{index}"


def load(path: Union[str, Path]) -> Checkpoint:
    """Reads a checkpoint, once its checksums have been found right. Nothing in it is executed: there is no pickle.

    Args:
      path: of the file.

    Raises:
      CheckpointError: it is damaged, something else, or of a newer format; the message says which.
      OSError: with the path, when the file cannot be read.

    Example:
      >>> import tempfile, rbd_ipu
      >>> from rbd_ipu import checkpoints, methods, models
      >>> trainer = rbd_ipu.Trainer(models.build("fc", (8, 8, 1)), methods.create("sgd", learning_rate=1.0), "cpu")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoints.save(f"{folder}/a", trainer)
      ...     load(f"{folder}/a").place
      'step 0, after 0 epochs'
    """
    from rbd_ipu.step import Progress  # late: it needs TensorFlow

    facts, arrays = read(path)
    try:
        listed = facts["variables"]
        sums = tuple(float(value) for value in arrays[SUMS])
        return Checkpoint(
            path=Path(path),
            step=int(facts["step"]),
            progress=Progress(**facts["progress"], sums=sums),
            method=dict(facts["method"]),
            variables=listed,
            arrays={group: [arrays[key(group, i)] for i in range(len(listed[group]))] for group in listed},
            versions=dict(facts["versions"]),
            machine=dict(facts["machine"]),
            saved=str(facts["saved"]),
            about=dict(facts["about"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"it does not hold the state of a training: {error!r}") from None


_NAME = re.compile(r"step-(\d{9,})\.checkpoint")


class Found(NamedTuple):
    """What a search of a folder gave.

    Attributes:
      checkpoint: the latest that can be used; None where there never was one.
      refused: (path, reason) of those that are later and cannot be used.
    """

    checkpoint: Optional[Checkpoint]
    refused: Tuple[Tuple[Path, str], ...] = ()


def path_for(folder: Union[str, Path], step: int) -> Path:
    """The file for the state after so many steps.

    Example:
      >>> path_for("checkpoints", 370).name
      'step-000000370.checkpoint'
    """
    return Path(folder) / f"step-{step:09d}.checkpoint"


def listed(folder: Union[str, Path]) -> List[Path]:
    """The checkpoints in a folder, the latest first, by their names; unread."""
    found = [(match, path) for path in Path(folder).glob("step-*") for match in [_NAME.fullmatch(path.name)] if match]
    return [path for _, path in sorted(((int(match.group(1)), path) for match, path in found), reverse=True)]


def search(folder: Union[str, Path], check: Callable[[Checkpoint], Any] = lambda checkpoint: None) -> Found:
    """The latest checkpoint that is whole and passes ``check``; files that are refused stay where they are.

    Args:
      folder: may be missing: there is no checkpoint in it then.
      check: raises CheckpointError to refuse one.

    Raises:
      CheckpointError: there are checkpoints, and none of them can be used; with the reason for each.
    """
    refused = []
    for path in listed(folder):
        try:
            checkpoint = load(path)
            check(checkpoint)
        except CheckpointError as error:
            refused.append((path, str(error)))
        except OSError as error:
            refused.append((path, f"it cannot be read: {error.strerror or error}"))
        else:
            return Found(checkpoint, tuple(refused))
    if refused:
        reasons = "\n".join(f"  {path.name}: {reason}" for path, reason in refused)
        raise CheckpointError(f"none of the checkpoints in {folder} can be used:\n{reasons}")
    return Found(None)


def newest(folder: Union[str, Path]) -> Optional[Checkpoint]:
    """The latest checkpoint of a folder that is not damaged; None if the folder has none.

    Args:
      folder: may be missing.

    Raises:
      CheckpointError: there are checkpoints, and all are damaged.

    Example:
      >>> newest("nowhere") is None
      True
    """
    return search(folder).checkpoint


def clean(folder: Union[str, Path]) -> None:
    """Removes the drafts of checkpoints during whose writing a run was killed."""
    for path in Path(folder).glob(draft_of("step-*.checkpoint").name):
        _remove(path)


def prune(paths: List[Path], keep: int) -> List[Path]:
    """Removes all but the last ``keep`` of these files, oldest first; gives those that stay.

    A file that cannot be removed is in nobody's way: the run goes on.
    """
    for path in paths[:-keep]:
        _remove(path)
    return paths[-keep:]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
