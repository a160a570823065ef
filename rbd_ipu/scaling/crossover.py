"""Where random bases are faster than data-parallel SGD, as the model has it."""

import math
from typing import Dict

from rbd_ipu.scaling.machine import Machine
from rbd_ipu.scaling.step import Work, sent, step_time


def throughput(work: Work, machine: Machine, batch_size: int, tree: bool = False) -> float:
    """Images a second of all workers."""
    return work.workers * batch_size / step_time(work, machine, tree).total


def least_bandwidth(work: Work, machine: Machine, tree: bool = False) -> float:
    """The bandwidth, bytes a second, from which on plain SGD has the shorter step; below it the method has.

    Infinite where the method is the faster one at every bandwidth, 0 where it never is.

    With S the bytes, t the seconds without them::

        t_rbd + S_rbd / b = t_sgd + S_sgd / b   <=>   b = (S_sgd - S_rbd) / (t_rbd - t_sgd)
    """
    endless = machine._replace(bandwidth=math.inf)
    sgd = work._replace(dim=None)
    more_time = step_time(work, endless, tree).total - step_time(sgd, endless, tree).total
    fewer_bytes = sent(sgd) - sent(work)
    if more_time <= 0:
        return math.inf if fewer_bytes >= 0 else 0.0
    return max(0.0, fewer_bytes / more_time)


def contenders(size: int, dim: int, workers: int) -> Dict[str, Work]:
    """The ways to train that are compared, by name."""
    return {
        "SGD": Work(size, None, workers),
        "RBD own": Work(size, dim, workers),
        "RBD shared": Work(size, dim, workers, "shared"),
        "RBD split": Work(size, dim, workers, "split"),
        "RBD update": Work(size, dim, workers, exchange="update"),
        "RBD hadamard": Work(size, dim, workers, structured=True),
        "RBD hadamard shared": Work(size, dim, workers, "shared", structured=True),
    }


def fastest(size: int, dim: int, workers: int, machine: Machine, tree: bool = False) -> str:
    """The name of the contender with the shortest step."""
    times = {name: step_time(work, machine, tree).total for name, work in contenders(size, dim, workers).items()}
    return min(times, key=lambda name: times[name])
