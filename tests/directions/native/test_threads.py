"""Source native and its host: threads, memory, and machines without Numba."""

import os
import subprocess
import sys

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import tf
from rbd_ipu.directions import resolve


def python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def numba():
    return pytest.importorskip("numba", reason="Numba is not installed: no source native")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_thread_count_is_quoted(numba, monkeypatch, text):
    from rbd_ipu.directions.native.op import Native

    monkeypatch.setenv("RBD_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"RBD_NUM_THREADS must be an integer >= 1, got {text!r}"):
        Native(1, 5, 2, "normal", "unit")


def test_thread_count(numba, monkeypatch):
    from rbd_ipu.directions.native import threads

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 64)
    monkeypatch.delenv("RBD_NUM_THREADS", raising=False)
    setting = "get_intra_op_parallelism_threads"
    monkeypatch.setattr(tf.config.threading, setting, lambda: 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads.thread_count() == cores
    monkeypatch.setattr(tf.config.threading, setting, lambda: 3)
    assert threads.thread_count() == 3
    monkeypatch.setenv("RBD_NUM_THREADS", "5")
    assert threads.thread_count() == 5
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    assert threads.thread_count() == 2


def test_errors_of_a_task_reach_the_caller(numba):
    from rbd_ipu.directions.native.threads import run_tasks

    done = []

    def task(number):
        if number == 5:
            raise KeyError("five")
        done.append(number)

    with pytest.raises(KeyError, match="five"):
        run_tasks(8, 3, task)
    done.clear()
    run_tasks(5, 3, task)
    assert sorted(done) == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_threads_of_its_own(numba):
    program = """
import os, numpy as np
from rbd_ipu.directions.native.dense import Launcher
kernels = Launcher(1, 1000, 8, "normal", True, 1.0, tasks=2)
v, seeds = np.ones((1, 1000), np.float32), np.ones((1, 2), np.int32)
expected = kernels.sketch(v, seeds)[1]
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(kernels.sketch(v, seeds)[1], expected) else 1)
assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
print("same")
"""
    done = python(program)
    assert done.stdout == "same\n", done.stderr


def test_auto_is_native_on_a_cpu(numba):
    if tf.config.get_visible_devices("GPU"):
        pytest.skip("TensorFlow sees a GPU here")
    assert resolve("auto") == "native" and rbd_ipu.RandomBasis(3, 2).source == "native"


def test_auto_is_counter_beside_a_gpu(monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda *_: [gpu])
    assert resolve("auto") == "counter"


def test_without_numba_auto_is_counter_and_says_so_once():
    program = """
import sys
sys.modules["numba"] = None
import rbd_ipu
for _ in range(3):
    assert rbd_ipu.RandomBasis(5, 2).source == "counter"
try:
    rbd_ipu.RandomBasis(5, 2, source="native")
except ImportError as error:
    print(error)
"""
    done = python(program, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    assert done.stdout.startswith("source 'native' needs Numba"), done.stderr
    assert 'pip install "rbd-ipu[native]"' in done.stdout
    assert done.stderr.count("drawn by source 'counter'") == 1, done.stderr


def test_kernels_compile_without_a_folder_for_the_cache(numba):
    """As in a read-only installation of a user without a home; any folder is writeable to root."""
    program = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
from rbd_ipu.directions.native.dense import Launcher
import numpy as np
c = Launcher(1, 9, 2, "normal", True, 1.0).project(np.ones((1, 9), np.float32), np.ones((1, 2), np.int32))
print(c.shape)
"""
    done = python(program, NUMBA_OPT="0")  # half the time
    assert done.stdout == "(1, 2)\n", done.stderr


def test_the_second_process_finds_the_kernels_compiled_and_gets_the_same_bits(numba, tmp_path):
    program = """
import hashlib, numpy as np
from rbd_ipu.directions.native import dense
from rbd_ipu.directions.native.dense import Launcher
found, seeds = hashlib.sha256(), np.ones((1, 2), np.int32)
for distribution in ("normal", "uniform", "rademacher"):
    for n in (1, 2, 3, 7, 31, 999, 16385):
        launcher = Launcher(1, n, 5, distribution, True, 1.0)
        v = np.random.default_rng(n).standard_normal((1, n)).astype(np.float32)
        for array in (*launcher.sketch(v, seeds), launcher.project(v, seeds), launcher.directions(seeds, 0, 5)):
            found.update(array.tobytes())
print(sum(dense.sweep.stats.cache_hits.values()), sum(dense.sweep.stats.cache_misses.values()))
print(found.hexdigest())
"""
    results = [python(program, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    counts, digests = zip(*(done.stdout.splitlines() for done in results))
    assert counts == ("0 1", "1 0"), results[-1].stderr
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_memory_does_not_grow_with_the_dimension(numba):
    """d = 10,000 directions of the CIFAR-10 CNN are 4.9 GB."""
    program = """
import resource, sys, numpy as np, rbd_ipu
basis = rbd_ipu.RandomBasis(122570, {dim}, source="native")
basis.sketch(np.ones(122570, np.float32), 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = [int(python(program.format(dim=dim)).stdout) for dim in (250, 10_000)]
    assert peaks[1] - peaks[0] < 64 * 1024, peaks


def test_buffers_are_used_again_and_not_hoarded(numba):
    from rbd_ipu.directions.native.threads import KEPT_FLOATS, Buffers

    buffers = Buffers(most=2)
    first = buffers.take(100)
    assert first.dtype == np.float32 and len(first) == 100
    buffers.give(first)
    again = buffers.take(60)
    assert len(again) == 60 and np.shares_memory(again, first)
    buffers.give(again)
    assert len(buffers.take(200)) == 200
    large = buffers.take(KEPT_FLOATS + 1)
    buffers.give(large)
    assert not np.shares_memory(buffers.take(KEPT_FLOATS + 1), large)
    taken = [buffers.take(10) for _ in range(5)]
    for one in taken:
        buffers.give(one)
    assert len(buffers._free) == 2
