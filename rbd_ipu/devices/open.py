"""The devices by name: a registry of functions that open one."""

import importlib
import os
from pathlib import Path
from typing import Any, Optional, Union

from rbd_ipu import checks
from rbd_ipu.checks import Registry
from rbd_ipu.config.schema import WEEK, counted
from rbd_ipu.devices.local import Device, processor
from rbd_ipu.parallel.exchange import Simulated
from rbd_ipu.parallel.plan import Plan, plan
from rbd_ipu.parallel.ranks import TIMEOUT
from rbd_ipu.parallel.workers import task

IPU = "rbd_ipu.devices.ipu"  # imported where an IPU is asked for, and not before

DEVICES = Registry("device")  # rows: name -> Device
DEVICES.register("cpu")(processor)
DEVICES.register("gpu")(processor)


@DEVICES.register("ipu")
def ipu(description: Any, plan: Optional[Plan] = None) -> Device:
    """One or more IPUs, by a description; "ipu" is one IPU.

    Raises:
      RuntimeError: this TensorFlow is not Graphcore's.
    """
    return importlib.import_module(f"{IPU}.device").IPUDevice(description, plan)


def open_device(
    name: Union[str, Path] = "cpu",
    workers: Optional[int] = None,
    simulate_workers: int = 1,
    worker_timeout: float = TIMEOUT,
    **choices: Any,
) -> Device:
    """The device called ``name``, for one worker, for one of several, or for all of several in turn.

    Args:
      name: a row of DEVICES; ``gpu:4``, a worker on each of four GPUs, all in this process (``cpu:2`` for trying it
        out: parts of the CPU); or the path of a description such as ``ipu_configs/pod16.yaml``.
      workers: K, how many processes train together, this being one of them: the launcher of MPI (``mpiexec -n K``,
        ``srun -n K``) or ``TF_CONFIG`` says which. None: as many as there are.
      simulate_workers: K, all played by this process, in turn.
      worker_timeout: seconds that a worker waits for the others before it gives up, a week at most.
      **choices: how workers share a step: ``parallel``, ``exchange`` and ``wire``, see
        :class:`rbd_ipu.parallel.plan.Plan`.

    Raises:
      ValueError: an unknown name or choice; a description that is wrong (a ConfigError); workers that are both real
        and simulated, or of another number than there are.
      RuntimeError: TensorFlow sees no such device here; the message lists those it sees.
      WorkersError: a worker does not answer within ``worker_timeout`` seconds.

    Example:
      >>> import rbd_ipu
      >>> with rbd_ipu.open_device("cpu") as device:
      ...     print(device.strategy.num_replicas_in_sync)
      1
      >>> rbd_ipu.open_device("cpu", simulate_workers=4, parallel="shared").exchange.workers
      4
    """
    described = _described(name)
    kind, count = counted(str(name)) if described is None else (described.device, 1)
    open_one = DEVICES.get(kind)
    simulated = checks.positive_int("simulate_workers", simulate_workers)
    worker_timeout = checks.finite_float("worker_timeout", worker_timeout, high=WEEK)
    chosen, own = plan(**choices), task() if kind != "ipu" or "TF_CONFIG" in os.environ else None
    named = own.workers if own else 1
    if count > 1:
        return _several(kind, count, chosen, workers=max(workers or 1, named), simulate_workers=simulated)
    if workers is not None and checks.positive_int("workers", workers) != named:
        there = f"there are {named}" if own else "this process was started alone"
        raise ValueError(
            f"workers={workers}, but {there}; `mpiexec -n {workers}` starts so many, and for a run of this machine "
            f"`rbd-ipu train --workers {workers}`"
        )
    if kind == "ipu":
        if simulated > 1 or named > 1:
            given = f"simulate_workers={simulated}" if simulated > 1 else f"{named} workers"
            raise ValueError(f"the workers of an IPU are its replicas: give replicas in a description, not {given}")
        return open_one(described or kind, chosen)
    if own is not None and own.workers > 1:
        if simulated > 1:
            raise ValueError(f"simulate_workers={simulated} is for one process; this is one of {own.workers}")
        from rbd_ipu.devices.cluster import Cluster  # late: most runs are of one worker

        return Cluster(kind, own, chosen, worker_timeout)
    device = open_one(kind)
    if simulated > 1:
        device.exchange = Simulated(simulated, chosen)
    return device


def _several(kind: str, count: int, chosen: Plan, **others: int) -> Device:
    """A worker on each of several devices; ``others`` are the numbers of workers of other kinds."""
    if kind == "ipu":
        raise ValueError(f"the workers of an IPU are its replicas: give replicas in a description, not ipu:{count}")
    for key, value in others.items():
        if value > 1:
            raise ValueError(f"{kind}:{count} is {count} workers, one on each device; {key} must be 1, not {value}")
    from rbd_ipu.devices.mirrored import MirroredDevices  # late: most runs are of one worker

    return MirroredDevices(kind, count, chosen)


def _described(name: Any) -> Optional[Any]:
    """The Description in the file that a name is the path of; None for the name of a row."""
    if not isinstance(name, Path) and not str(name).endswith((".yaml", ".yml")):
        return None
    return importlib.import_module(f"{IPU}.description").load(name)
