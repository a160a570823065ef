"""The file of a checkpoint: named arrays and a header, with a checksum over all of it. Data only.

==========  =====================================================================================
16 bytes    ``MAGIC``
4, 8 bytes  format version and length of the header: unsigned, little-endian, as every number here
header      JSON, UTF-8: ``{"facts": {...}, "arrays": [[name, dtype, [length, ...]], ...]}``
arrays      one after the other, in C order, without gaps
32 bytes    SHA-256 of everything before
==========  =====================================================================================

A reader believes nothing before the checksum has been found right, and takes no length on trust.
"""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple, Union

import numpy as np

from rbd_ipu.records import atomic, strict_json

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
    header = strict_json.line({"facts": facts, "arrays": listed}).encode()
    checksum = hashlib.sha256()
    with atomic.replacing(path) as draft, open(draft, "wb") as file:
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
    with atomic.naming(path):
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
