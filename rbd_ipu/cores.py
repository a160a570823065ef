"""The cores of this process, and how several processes share them."""

import contextlib
import os
from typing import List, Sequence

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
