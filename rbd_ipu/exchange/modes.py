"""Modes: which basis and which data each of K workers has. Pure functions of the worker's index."""

from typing import Any, NamedTuple, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.registry import Registry

MODES = Registry("parallel mode")


class Mode(NamedTuple):
    """A way to share the work of a step.

    Attributes:
      own_basis: each worker draws directions of its own; otherwise all draw those of worker 0.
      own_data: each worker reads batches of its own; otherwise all read the same ones.
      adds: the workers' parts are added up, being parts of one step; otherwise their mean is taken.
    """

    own_basis: bool
    own_data: bool
    adds: bool = False


# Algorithm 1 of the paper, right: (1/K) sum_k P_k P_k^T g_k.
MODES.register("own")(Mode(own_basis=True, own_data=True))
# One basis, coordinates averaged: P P^T (1/K) sum_k g_k, the step of one worker on a batch K times as large.
MODES.register("shared")(Mode(own_basis=False, own_data=True))
# K bases for one gradient: (1/K) sum_k P_k P_k^T g.
MODES.register("same-data")(Mode(own_basis=True, own_data=False))
# One basis of d directions, d/K of them drawn by each worker: sum_k P_k P_k^T g_k with P = [P_1 ... P_K].
MODES.register("split")(Mode(own_basis=True, own_data=True, adds=True))


def basis_of(mode: Mode, worker: Any) -> Any:
    """The index that the seed of a worker's directions sees: int32 scalar."""
    return worker if mode.own_basis else tf.zeros_like(worker)


def shard_of(mode: Mode, worker: int, workers: int) -> Tuple[int, int]:
    """(i, n): the worker reads the i-th of n equal parts of the batches.

    Example:
      >>> shard_of(MODES.get("own"), 1, 4), shard_of(MODES.get("same-data"), 1, 4)
      ((1, 4), (0, 1))
    """
    return (worker, workers) if mode.own_data else (0, 1)


def weight_of(mode: Mode, workers: int) -> float:
    """What the mean of the workers' parts is multiplied by."""
    return float(workers) if mode.adds else 1.0
