"""The file: what goes in comes out, and whatever happens to it is noticed before anything in it is believed."""

import hashlib
import io
import json
import os
import pickle
import struct

import numpy as np
import pytest

from rbd_ipu.checkpoints import CheckpointError
from rbd_ipu.checkpoints import file as container

FACTS = {"step": 7, "words": "größer", "none": None, "list": [1, 0.1, True]}
ARRAYS = {
    "float32": np.float32([[1.5, np.nan], [-0.0, np.inf]]),
    "float64": np.array(0.1),
    "int64": np.array([[-(2**63), 2**63 - 1]]),
    "uint8": np.arange(5, dtype=np.uint8)[::2],  # not contiguous
    "bool": np.array([True, False]),
    "float16": np.ones((2, 3), np.float16).T,
    "empty": np.zeros((0, 4), np.float32),
    "big-endian": np.array([1, 2], ">i4"),
}


@pytest.fixture
def path(tmp_path):
    container.write(tmp_path / "a", FACTS, ARRAYS)
    return tmp_path / "a"


def sealed(header, payload=b"", version=container.FORMAT, length=None):
    """A file whose checksum is right, whatever it holds."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    numbers = struct.pack("<IQ", version, len(header) if length is None else length)
    body = container.MAGIC + numbers + header + payload
    return body + hashlib.sha256(body).digest()


def listing(*rows):
    return {"facts": {}, "arrays": list(rows)}


def test_what_goes_in_comes_out(path):
    facts, arrays = container.read(path)
    assert facts == FACTS
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("="), name
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert np.signbit(arrays["float32"][1, 0])


def test_the_same_content_is_the_same_file(path, tmp_path):
    container.write(tmp_path / "b", FACTS, ARRAYS)
    assert path.read_bytes() == (tmp_path / "b").read_bytes()


def test_it_is_as_long_as_its_arrays_and_a_header(path):
    assert path.stat().st_size < sum(array.nbytes for array in ARRAYS.values()) + 600


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([1j]), np.array([{}], object)])
def test_other_types_are_refused_before_anything_is_written(path, value):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="weird is of type"):
        container.write(path, {}, {"weird": value})
    assert path.read_bytes() == before and os.listdir(path.parent) == ["a"]


def test_every_length_that_is_too_short_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="empty" if not length else "cut short"):
            container.read(path)


def test_every_altered_byte_is_noticed(path):
    content = bytearray(path.read_bytes())
    for place in range(len(content)):
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="checksum is wrong|no checkpoint of rbd_ipu"):
            container.read(path)
        content[place] ^= 1 << (place % 8)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def _pickled(*_):
    return pickle.dumps(Trap())


def _numpys(*_):
    file = io.BytesIO()
    np.savez(file, w=np.array([Trap()], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (_pickled, "no checkpoint of rbd_ipu"),
        (_numpys, "no checkpoint of rbd_ipu"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "no checkpoint of rbd_ipu"),
        (bytes(5000), "no checkpoint of rbd_ipu"),
        (lambda whole: whole + b"\0", "checksum is wrong"),
        (lambda whole: whole + whole, "checksum is wrong"),
        (sealed({}, version=2), "format 2, and this rbd_ipu reads format 1: a newer"),
        (sealed({}, version=0), "format 0, .* no rbd_ipu writes that"),
        (sealed({}, length=2**63), "header is longer than the file"),
        (sealed(b"{"), "header cannot be read"),
        (sealed(b"\xff\xfe"), "header cannot be read"),
        (sealed([]), "header cannot be read"),
        (sealed({"facts": {}}), "header cannot be read"),
        (sealed({"facts": [], "arrays": []}), "something else than facts and arrays"),
        (sealed(listing(["w", "object", [1]]), bytes(8)), "an array that cannot be"),
        (sealed(listing(["w", "float128", [1]]), bytes(16)), "an array that cannot be"),
        (sealed(listing(["w", "float32", [-1]])), "an array that cannot be"),
        (sealed(listing(["w", "float32", [True]]), bytes(4)), "an array that cannot be"),
        (sealed(listing(["w", "float32", 1]), bytes(4)), "an array that cannot be"),
        (sealed(listing(["w", ["float32"], [1]]), bytes(4)), "an array that cannot be"),
        (sealed(listing(["w", "float32"]), bytes(4)), "an array that cannot be"),
        (sealed(listing(["w", "int8", [1]], ["w", "int8", [1]]), bytes(2)), "an array that cannot be"),
        (sealed(listing(["w", "float32", [2]]), bytes(4)), "its arrays end before w does"),
        (sealed(listing(["w", "float32", [2**40, 2**40]])), "its arrays end before w does"),
        (sealed(listing(["w", "float32", [1]]), bytes(5)), "holds 1 bytes more"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(path, monkeypatch, content, reason):
    monkeypatch.chdir(path.parent)
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    with pytest.raises(CheckpointError, match=reason):
        container.read(path)
    assert os.listdir(path.parent) == ["a"]  # nothing was executed


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        container.read(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
