"""Working memory that is kept from one call to the next: fresh pages cost as much as drawing 20 directions."""

from typing import List

import numpy as np

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
