"""The file: what goes in comes out, and whatever happens to it is noticed before anything in it is believed."""

import contextlib
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from nets import flat

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras
from rbd_ipu.checkpoints import CheckpointError, load, restore
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


def test_what_goes_in_comes_out(path):
    facts, arrays = container.read(path)
    assert facts == FACTS
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("="), name
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert np.signbit(arrays["float32"][1, 0])


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([1j]), np.array([{}], object)])
def test_other_types_are_refused_before_anything_is_written(path, value):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="weird is of type"):
        container.write(path, {}, {"weird": value})
    assert path.read_bytes() == before and os.listdir(path.parent) == ["a"]


def same(found):
    facts, arrays = found
    return facts == FACTS and all(a.tobytes() == arrays[n].astype(a.dtype).tobytes() for n, a in ARRAYS.items())


def test_every_length_that_is_too_short_is_noticed(path):
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="empty|cut short|no checkpoint"):
            container.read(path)


def test_no_altered_byte_alters_what_is_read(path):
    """Of a zip archive some bytes say nothing about its content, as the time of an entry."""
    content, unnoticed = bytearray(path.read_bytes()), 0
    for place in range(len(content)):
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            unnoticed += same(container.read(path)) or pytest.fail(f"byte {place}")
        content[place] ^= 1 << (place % 8)
    assert unnoticed < len(content) / 4


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def _pickled(*_):
    return pickle.dumps(Trap())


def _numpys(*_):
    file = io.BytesIO()
    np.savez(file, w=np.array([Trap()], object), allow_pickle=True)
    return file.getvalue()


def repacked(path, change):
    """Rewrites a file, its zip checksums right, after a change of its header and entries."""
    entries = dict(np.load(path))
    header = json.loads(entries.pop("header").tobytes())
    header = change(header, entries) or header
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(path, "wb") as file:
        np.savez(file, header=np.frombuffer(header, np.uint8), **entries)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (_pickled, "no checkpoint of rbd_ipu"),
        (_numpys, "it has no header"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "no checkpoint of rbd_ipu"),
        (bytes(5000), "no checkpoint of rbd_ipu"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(path, monkeypatch, content, reason):
    monkeypatch.chdir(path.parent)
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    with pytest.raises(CheckpointError, match=reason):
        container.read(path)
    assert os.listdir(path.parent) == ["a"]  # nothing was executed


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda header, entries: {**header, "format": 3}, "of format 3, and this rbd_ipu reads formats 1 and 2"),
        (lambda header, entries: [1], "it is of format None"),
        (lambda header, entries: b"{", "its header is damaged"),
        (lambda header, entries: b"\xff\xfe", "its header is damaged"),
        (lambda header, entries: {**header, "facts": []}, "its header does not list what the file holds"),
        (lambda header, entries: {**header, "arrays": ["bool"]}, "its header does not list what the file holds"),
        (lambda header, entries: entries.pop("bool") is None, "its header does not list what the file holds"),
        (lambda header, entries: entries.update(more=np.ones(1)), "its header does not list what the file holds"),
        (lambda header, entries: entries.update(bool=np.ones(2, bool)), "its bool is damaged"),
        (lambda header, entries: entries.update(bool=np.ones((2, 1), bool)), "its bool is damaged"),
        (lambda header, entries: entries.update(bool=np.ones(2, np.uint8)), "its bool is damaged"),
        (lambda header, entries: entries.update(bool=np.array([Trap()], object)), "its bool is .*allow_pickle"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(path, monkeypatch, change, reason):
    monkeypatch.chdir(path.parent)
    repacked(path, change)
    with pytest.raises(CheckpointError, match=reason):
        container.read(path)
    assert os.listdir(path.parent) == ["a"]  # nothing was executed


OLD = Path(__file__).with_name("format-1.checkpoint")


def test_a_checkpoint_of_the_first_format_still_serves():
    layer = keras.layers.Dense(3)
    trainer = rbd_ipu.Trainer(
        keras.Sequential([keras.layers.InputLayer((6,)), layer]),
        methods.create("rbd", learning_rate=0.25, dim=4),
        "cpu",
    )
    found = load(OLD)
    assert (found.step, found.place, found.about) == (2, "step 2, after 1 epochs", {"note": "größer"})
    restore(trainer, found)
    np.testing.assert_allclose(layer.get_weights()[1], [0.19277288, -0.00126973, 0.25057325], rtol=1e-5)
    assert trainer.step == 2
    np.testing.assert_array_equal(flat(trainer.model), np.concatenate([a.ravel() for a in found.arrays["model"]]))


@pytest.mark.parametrize("length", [-1, 20, 99])
def test_a_damaged_one_is_refused(tmp_path, length):
    (tmp_path / "a").write_bytes(OLD.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="the file is damaged, cut short or altered: its checksum is wrong"):
        container.read(tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        container.read(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
