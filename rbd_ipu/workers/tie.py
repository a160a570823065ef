"""Ties a worker to the process that started it: it ends when that one does, however that ends."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from typing import IO

_PR_SET_PDEATHSIG = 1


def tie(life: IO) -> None:
    """Ends this process once ``life``, a pipe whose other end the parent holds, is closed by the parent's death.

    On Linux the kernel does it as well, which also ends a worker that has been stopped.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        life.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="tie").start()
