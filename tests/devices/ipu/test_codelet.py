"""The codelet of the integer hash: its C++ on a stub of Poplar, bit for bit NumPy; and in a stand-in's program."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ipu_algorithm import run as algorithm
from nets import blobs, dense, flat
from reference import close, hash32, schedule, threefry

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu import program

STUB = Path(__file__).resolve().parents[2] / "poplar"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++, which the C++ is compiled with")
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared"]


def compiled(path, source, *options):
    command = ["g++", *STRICT, source, f"-I{STUB}/include", f"-I{program.SOURCES}", "-o", str(path), *options]
    subprocess.run(list(map(str, command)), check=True)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run(name, heads [n, 2], tail [m], tiles) -> (result, items of the fullest tile)``."""
    call = ctypes.CDLL(str(compiled(tmp_path_factory.mktemp("stub") / "run.so", STUB / "run.cpp"))).run

    def made(name, heads, tail, tiles=1472):
        heads, tail = np.ascontiguousarray(heads, np.int32), np.ascontiguousarray(tail, np.int32)
        out = np.zeros([len(heads), len(tail)] + ([2] if name == "Keys" else []), np.int32)
        fullest, sizes = ctypes.c_uint(0), [ctypes.c_size_t(len(x)) for x in (heads, tail)]
        pointers = [x.ctypes.data_as(ctypes.POINTER(ctypes.c_int)) for x in (heads, tail, out)]
        a, b, result = pointers
        status = call(name.encode(), a, sizes[0], b, sizes[1], result, tiles, ctypes.byref(fullest))
        assert status == 0, status
        return out, fullest.value

    return made


EDGES = np.array([0, 1, 2**31 - 1, -(2**31), -1, 12345], np.int32)


def words_of(x):
    """uint64 below 2^32 -> int32 with the same bits."""
    return np.asarray(x, np.uint64).astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("n, m, tiles", [(6, 6, 1472), (3, 1000, 4), (5, 777, 1216), (1, 1, 1472)])
def test_words_are_those_of_numpy(run, n, m, tiles):
    rng = np.random.default_rng(n)
    pairs = rng.integers(-(2**31), 2**31, [n, 2]).astype(np.int32)
    places = rng.integers(-(2**31), 2**31, m).astype(np.int32)
    if n == len(EDGES):
        pairs, places = np.stack([EDGES, EDGES[::-1]], axis=1), EDGES
    found, fullest = run("Words", pairs, places, tiles)
    u = pairs.astype(np.int64).astype(np.uint64)
    expected = hash32(u[:, :1] + places.astype(np.int64).astype(np.uint64) * u[:, 1:])
    np.testing.assert_array_equal(found, words_of(expected))
    assert fullest <= -(-n * m // tiles)  # spread evenly


@pytest.mark.parametrize("n, m", [(6, 6), (2, 500)])
def test_keys_are_those_of_numpy(run, n, m):
    seeds = np.random.default_rng(n).integers(-(2**31), 2**31, [n, 2]).astype(np.int32)
    parts = EDGES if m == len(EDGES) else np.arange(m, dtype=np.int32)
    found, _ = run("Keys", seeds, parts)
    for seed, rows in zip(seeds, found):
        expected = [schedule(*threefry(seed, (0, part))) for part in parts]
        np.testing.assert_array_equal(rows, words_of(expected))


def test_they_are_those_of_the_package(run):
    """The words of source "counter" on a CPU, from the seed of a basis on."""
    from rbd_ipu.directions.stream import schedule as scheduled
    from rbd_ipu.directions.stream import word_at

    seeds, places = rbd_ipu.fold_in(3, tf.range(4)), tf.range(50)
    keys = scheduled(rbd_ipu.fold_in(seeds[:, tf.newaxis], tf.range(7)))
    found, _ = run("Keys", seeds.numpy(), np.arange(7))
    np.testing.assert_array_equal(found, keys.numpy())
    words, _ = run("Words", found.reshape(-1, 2), np.arange(50))
    np.testing.assert_array_equal(words, word_at(keys, places).numpy().reshape(28, 50))


@pytest.fixture
def sdk(tmp_path, monkeypatch):
    """The stub where the Poplar SDK would be."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "include").symlink_to(STUB / "include")
    (tmp_path / "empty.cpp").write_text("")
    compiled(tmp_path / "lib" / "libpoplar.so", tmp_path / "empty.cpp")
    monkeypatch.setenv("POPLAR_SDK_ENABLED", str(tmp_path))
    monkeypatch.setenv("RBD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    return tmp_path


def test_the_library_is_made_once_with_the_sdk(sdk, monkeypatch):
    made = program.library()
    assert made.is_file() and str(made).startswith(str(sdk / "cache" / "codelets"))
    monkeypatch.setenv("PATH", str(sdk / "nothing"))
    assert program.library() == made
    (sdk / "lib" / "libpoplar.so").unlink()
    made.unlink()
    with pytest.raises(RuntimeError, match="needs g.. once, and there is none"):
        program.library()
    monkeypatch.undo()
    monkeypatch.delenv("POPLAR_SDK_ENABLED", raising=False)
    with pytest.raises(RuntimeError, match="source its enable script first"):
        program.library()


def test_a_library_that_cannot_be_made_says_why(sdk):
    (sdk / "include").unlink()
    with pytest.raises(RuntimeError, match="poplar/Graph.hpp"):
        program.library()


def test_replicas_take_the_steps_of_algorithm_1_with_directions_of_this_cpu(open_ipu, sdk):
    """Source "counter": the same directions on an IPU (here: the stand-in) and on a CPU, replica by replica."""
    device, _ = open_ipu(2)
    x, y = blobs(2 * 32 * 2)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32, drop_remainder=True)
    options = {"learning_rate": 2.0, "dim": 6, "seed": 7, "distribution": "uniform", "source": "counter"}
    with device:
        model = dense()
    there = rbd_ipu.Trainer(model, methods.create("rbd", **options), device)
    there.fit(data, epochs=1, verbose=0)
    here, method = dense(), methods.create("rbd", **options)  # outside of the device: those of this CPU
    method.build(here.trainable_variables)
    expected = algorithm(here, method, [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)], replicas=2)[-1]
    close(flat(there.model) - flat(dense()), expected - flat(dense()), 1e-4)
    assert list((sdk / "cache" / "codelets").glob("*/librbd_hash.so"))
