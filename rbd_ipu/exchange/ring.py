"""A ring of processes: each sends to its right neighbour and receives from its left one."""

import select
import socket
import time
from typing import List, Tuple

import numpy as np

from rbd_ipu.workers.errors import WorkersError


class Ring:
    """Collectives over two connections; NumPy only.

    Every result is the same on all workers, bit by bit: each part of a sum is added up once, along the ring.

    Args:
      worker, workers: k and K.
      left, right: connections to the neighbours.
      patience: seconds without a byte from either side before a worker gives up.
    """

    def __init__(self, worker: int, workers: int, left: socket.socket, right: socket.socket, patience: float):
        self.worker, self.workers, self.patience = worker, workers, patience
        self._left, self._right = left, right
        for end in (left, right):
            end.setblocking(False)

    def gather(self, row: np.ndarray) -> np.ndarray:
        """Every worker's array: [...] -> [K, ...]. K - 1 hops; each worker sends K - 1 rows."""
        rows = np.empty((self.workers, *row.shape), row.dtype)
        rows[self.worker] = row
        for hop in range(self.workers - 1):
            mine, theirs = (self.worker - hop) % self.workers, (self.worker - hop - 1) % self.workers
            rows[theirs] = self._swap(rows[mine], rows[theirs].shape)
        return rows

    def total(self, vector: np.ndarray) -> np.ndarray:
        """The sum over the workers: [n] -> [n]. 2 (K - 1) hops of n / K numbers each."""
        parts: List[np.ndarray] = np.array_split(vector.copy(), self.workers)
        for hop in range(self.workers - 1):  # each part travels once round the ring, and grows
            mine, theirs = (self.worker - hop) % self.workers, (self.worker - hop - 1) % self.workers
            parts[theirs] = parts[theirs] + self._swap(parts[mine], parts[theirs].shape)
        for hop in range(self.workers - 1):  # the sums travel round
            mine, theirs = (self.worker + 1 - hop) % self.workers, (self.worker - hop) % self.workers
            parts[theirs] = self._swap(parts[mine], parts[theirs].shape)
        return np.concatenate(parts)

    def _swap(self, array: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
        """Sends to the right and receives from the left at the same time, so that no two wait for each other."""
        received = np.empty(shape, array.dtype)
        out = np.ascontiguousarray(array).reshape(-1).data.cast("B")
        into = received.reshape(-1).data.cast("B")
        deadline = time.monotonic() + self.patience
        while out or into:
            ready, writable, _ = select.select(
                [self._left] if into else [], [self._right] if out else [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready and not writable:
                raise self._lost(-1 if into else 1, f"does not answer within {self.patience:g} s")
            try:
                if writable:
                    out = out[self._right.send(out) :]
                if ready:
                    count = self._left.recv_into(into)
                    if count == 0:
                        raise self._lost(-1, "has ended")
                    into = into[count:]
            except (ConnectionError, BrokenPipeError):
                raise self._lost(-1 if ready else 1, "has ended") from None
            deadline = time.monotonic() + self.patience
        return received

    def _lost(self, side: int, what: str) -> WorkersError:
        neighbour = (self.worker + side) % self.workers
        return WorkersError(
            f"worker {self.worker} of {self.workers}: worker {neighbour} {what}; what was recorded before is kept"
        )
