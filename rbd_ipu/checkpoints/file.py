"""The file of a checkpoint, what it holds, and the folder of several.

The file of a checkpoint: named arrays and a header, with a checksum over all of it. Data only.

==========  =====================================================================================
16 bytes    ``MAGIC``
4, 8 bytes  format version and length of the header: unsigned, little-endian, as every number here
header      JSON, UTF-8: ``{"facts": {...}, "arrays": [[name, dtype, [length, ...]], ...]}``
arrays      one after the other, in C order, without gaps
32 bytes    SHA-256 of everything before
==========  =====================================================================================

A reader believes nothing before the checksum has been found right, and takes no length on trust.

A checkpoint that has been read: plain numbers and arrays.

A folder of checkpoints: their names, which of them can be used, and which can go.
"""

import contextlib
import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from rbd_ipu import files
from rbd_ipu.files import draft_of

MAGIC = b"\x89rbd-ipu state\r\n"
FORMAT = 1
_NUMBERS = struct.Struct("<IQ")
_HEAD = len(MAGIC) + _NUMBERS.size
_SUM = hashlib.sha256().digest_size
_DTYPES = tuple(
    f"{kind}{bits}" for kind, sizes in (("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64)), ("float", (16, 32, 64)))
    for bits in sizes
) + ("bool",)  # fmt: skip


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
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"{name} is of type {array.dtype.name}; a checkpoint holds {', '.join(_DTYPES)}")
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in plain.items()]
    header = files.line({"facts": facts, "arrays": listed}).encode()
    checksum = hashlib.sha256()
    with files.replacing(path) as draft, open(draft, "wb") as file:
        for part in (MAGIC, _NUMBERS.pack(FORMAT, len(header)), header, *map(_bytes, plain.values())):
            checksum.update(part)
            file.write(part)
        file.write(checksum.digest())


def read(path: Union[str, Path]) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Facts and arrays of a file, once its checksum has been found right; the arrays are read-only.

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
    if content[: len(MAGIC)] != MAGIC[: len(content)]:
        raise CheckpointError(f"it is no checkpoint of rbd_ipu: it begins with {content[: len(MAGIC)]!r}")
    body = memoryview(content)[:-_SUM]
    if len(content) < _HEAD + _SUM or hashlib.sha256(body).digest() != content[-_SUM:]:
        raise CheckpointError("its checksum is wrong: the file has been cut short or altered")
    version, length = _NUMBERS.unpack_from(content, len(MAGIC))
    if version != FORMAT:
        known = "a newer rbd_ipu wrote it" if version > FORMAT else "no rbd_ipu writes that"
        raise CheckpointError(f"it is of format {version}, and this rbd_ipu reads format {FORMAT}: {known}")
    if _HEAD + length > len(body):
        raise CheckpointError("its header is longer than the file")
    facts, listed = _parsed(bytes(body[_HEAD : _HEAD + length]))
    return facts, _cut(body[_HEAD + length :], listed)


def _bytes(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _parsed(header: bytes) -> Tuple[Dict[str, Any], List[Any]]:
    try:
        parsed = json.loads(header)
        facts, listed = parsed["facts"], parsed["arrays"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"its header cannot be read: {error!r}") from None
    if not isinstance(facts, dict) or not isinstance(listed, list):
        raise CheckpointError("its header holds something else than facts and arrays")
    return facts, listed


def _cut(content: memoryview, listed: List[Any]) -> Dict[str, np.ndarray]:
    arrays: Dict[str, np.ndarray] = {}
    start = 0
    for row in listed:
        name, dtype, shape = row if isinstance(row, list) and len(row) == 3 else ("", "", [-1])
        lengths = isinstance(shape, list) and all(type(length) is int and length >= 0 for length in shape)
        if not isinstance(name, str) or name in arrays or dtype not in _DTYPES or not lengths:
            raise CheckpointError(f"its header lists an array that cannot be: {str(row)[:80]}")
        kind = np.dtype(dtype).newbyteorder("<")
        end = start + math.prod(shape) * kind.itemsize
        if end > len(content):
            raise CheckpointError(f"its arrays end before {name} does")
        arrays[name] = np.frombuffer(content[start:end], kind).reshape(shape)
        start = end
    if start != len(content):
        raise CheckpointError(f"it holds {len(content) - start} bytes more than its arrays")
    return arrays


#: Fields of the progress that are float64 arrays: JSON has no NaN, and a sum over steps may be one.
SUMS = "progress/sums"


class Checkpoint(NamedTuple):
    """The state of a training, as :func:`rbd_ipu.checkpoints.save` wrote it.

    Attributes:
      path: the file it is from.
      step: the number of updates.
      progress: a :class:`rbd_ipu.step.step.Progress`, the place in the run.
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
    """Reads a checkpoint, once its checksum has been found right. Nothing in it is executed: there is no pickle.

    Raises:
      CheckpointError: it is damaged, something else, or of a newer format; the message says which.
      OSError: with the path, when the file cannot be read.
    """
    from rbd_ipu.step.step import Progress  # late: it needs TensorFlow

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

    Raises:
      CheckpointError: there are checkpoints, and all are damaged.
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
