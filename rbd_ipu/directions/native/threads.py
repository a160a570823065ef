"""Threads and working memory of the kernels.

Working memory that is kept from one call to the next: fresh pages cost as much as drawing 20 directions.

Threads: how many, and a pool of them that runs kernels which have let go of the GIL.

Numba's own threads are not used: the layer that every installation has (workqueue) aborts the process when two
Python threads enter it at once, as the replicas of a MirroredStrategy do.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, List, Optional

import numba
import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.process import usable

# Larger vectors are not kept: for them the pages are cheap beside the work, and memory is not.
KEPT_FLOATS = 1 << 22
# Floats before and after a vector. A vectorised loop takes its scalar form, which adds in another order, where two of
# its arrays are nearer to each other than a few registers: the last bits of a small direction would depend on where
# the system has put them.
MARGIN = 256


class Buffers:
    """A stack of float32 vectors, each used by one task at a time; appending and popping are atomic in Python."""

    def __init__(self, most: int):
        self._most = most
        self._free: List[np.ndarray] = []

    def take(self, length: int) -> np.ndarray:
        """A vector of ``length`` floats with anything in it."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(0, np.float32)
        whole = length + 2 * MARGIN
        # One that is much too long belongs to a larger model: let it go.
        if not whole <= len(buffer) <= 4 * whole + 4096:
            buffer = np.empty(whole, np.float32)
        return buffer[MARGIN : MARGIN + length]

    def give(self, vector: np.ndarray) -> None:
        """Takes back what ``take`` gave."""
        whole = vector if vector.base is None else vector.base
        if len(whole) <= KEPT_FLOATS and len(self._free) < self._most:
            self._free.append(whole)


VARIABLE = "RBD_NUM_THREADS"


def thread_count() -> int:
    """How many threads a kernel may use.

    ``RBD_NUM_THREADS`` where it is set, else TensorFlow's ``intra_op_parallelism_threads`` where it is not 0, else
    the cores that this process may run on; never more than Numba's own limit, ``NUMBA_NUM_THREADS``.

    Raises:
      ValueError: ``RBD_NUM_THREADS`` is not an integer >= 1.
    """
    asked = os.environ.get(VARIABLE)
    if asked is not None:
        if not (asked.strip().isdigit() and int(asked) >= 1):
            raise ValueError(f"{VARIABLE} must be an integer >= 1, got {asked!r}")
        wanted = int(asked)
    else:
        wanted = tf.config.threading.get_intra_op_parallelism_threads() or len(usable())
    return min(wanted, numba.config.NUMBA_NUM_THREADS)


def run_tasks(tasks: int, threads: int, task: Callable[[int], None]) -> None:
    """Calls ``task(0) ... task(tasks - 1)`` on this thread and on ``threads - 1`` of the pool, and waits for all.

    Whoever is free takes the next task: a core that others use as well does less, and delays no one.
    """
    numbers = iter(range(tasks))  # next() is atomic in Python

    def work() -> None:
        for number in numbers:
            task(number)

    helpers = min(threads, tasks) - 1
    others: List[Future] = [_the_pool().submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        # Also after an error or an interrupt: tasks write to arrays of the caller. A helper that has not begun
        # has nothing left to do.
        for other in others:
            if not other.cancel():
                other.result()


_pool: Optional[ThreadPoolExecutor] = None
_lock = threading.Lock()


def _the_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            size = max(1, numba.config.NUMBA_NUM_THREADS - 1)
            _pool = ThreadPoolExecutor(size, thread_name_prefix="rbd_ipu")
        return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that one of them held."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
