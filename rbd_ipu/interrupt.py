"""Ctrl-C at a moment when nothing is half done.

Python raises KeyboardInterrupt between any two operations, in the middle of a line of metrics too.
Here the first Ctrl-C is only noted, and the training stops after the chunk of steps it is in; the
second one kills the process as the operating system does, even where TensorFlow holds the
interpreter.
"""

import contextlib
import os
import signal
import threading
from typing import Any, Iterator


class Interrupt:
    """Whether Ctrl-C has been pressed."""

    requested = False

    def request(self, *_: Any) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # print() is not safe in a signal handler that may have interrupted a print().
        os.write(2, b"\nrbd-ipu: Ctrl-C: stopping and writing the results; once more aborts\n")


@contextlib.contextmanager
def deferred() -> Iterator[Interrupt]:
    """Notes Ctrl-C instead of raising it (in the main thread, unless Ctrl-C is ignored)."""
    interrupt = Interrupt()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt.request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
