"""Ctrl-C and SIGTERM at a moment when nothing is half done.

Python raises KeyboardInterrupt between any two operations, in the middle of a line of metrics too, and SIGTERM, which
schedulers send before they kill, ends a process on the spot. Here the first of them is only noted, and the training
stops after the chunk of steps it is in; the second one kills the process as the operating system does, even where
TensorFlow holds the interpreter.
"""

import contextlib
import os
import signal
import threading
from typing import Any, Dict, Iterator

#: What asks a run to stop, and what is said of it.
SIGNALS: Dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupt:
    """Whether the run has been asked to stop, and by which signal (0: not yet)."""

    number = 0

    @property
    def requested(self) -> bool:
        return self.number != 0

    def request(self, number: int, *_: Any) -> None:
        self.number = self.number or number
        signal.signal(number, signal.SIG_DFL)
        # print() is not safe in a signal handler that may have interrupted a print().
        said = f"\nrbd-ipu: {SIGNALS[number]}: stopping and writing the results; once more aborts\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode())


@contextlib.contextmanager
def deferred() -> Iterator[Interrupt]:
    """Notes these signals instead of obeying them (in the main thread; those that are ignored stay so)."""
    interrupt = Interrupt()
    before: Dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, interrupt.request)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
