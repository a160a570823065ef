"""This process: its cores, and signals that wait for a moment when nothing is half done.

Python raises KeyboardInterrupt between any two operations, in the middle of a line of metrics too, and SIGTERM, which
schedulers send before they kill, ends a process on the spot. Here the first of them is only noted, and the training
stops after the chunk of steps it is in; the second one kills the process as the operating system does, even where
TensorFlow holds the interpreter.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

_HERE = str(Path(__file__).resolve().parents[1])
_MEMORY = 1.5e9  # bytes for a run: TensorFlow, a data set in memory, a network


def usable() -> List[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to(cores: Sequence[int]) -> None:
    """Binds all threads of this process to some cores, where the system can; TensorFlow starts as many threads."""
    if cores and hasattr(os, "sched_setaffinity"):
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.sched_setaffinity(thread, cores)


def for_children() -> Dict[str, str]:
    """This process's environment, in which a child finds the package where this one did, installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([_HERE, *filter(None, sys.path)]))}


def default_jobs() -> int:
    """As many runs as there are cores, and memory: a core each is where small networks lose least."""
    cores = len(usable())
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return cores
    return max(1, min(cores, int(memory / _MEMORY)))


def divided(cores: List[int], parts: int) -> List[List[int]]:
    """The cores in ``parts`` groups, more parts than cores sharing one each.

    All groups are equally large, if one core stays idle for it: the number of threads decides the order of sums, and
    with it the last bits of a run, which must not depend on the place it gets.

    Example:
      >>> divided([0, 1, 2, 3], 3), divided([0, 1, 2, 3], 2), divided([4, 5], 3)
      ([[0], [1], [2]], [[0, 1], [2, 3]], [[4], [5], [4]])
    """
    if parts >= len(cores):
        return [[cores[i % len(cores)]] for i in range(parts)]
    share = len(cores) // parts
    return [cores[part * share : (part + 1) * share] for part in range(parts)]


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


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), as Ctrl-C raises KeyboardInterrupt, in the main thread unless ignored."""

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not main or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
