"""The task of this process: which of how many workers it is, by the environment of its launcher; read without MPI."""

import dataclasses
import importlib
import json
import os
import re
from typing import Any, List, Mapping, Optional

from rbd_ipu.errors import ConfigError

#: (rank, size) as launchers of MPI say it: MPICH's and Intel's (and Slurm's pmi2), Open MPI's, Slurm's srun. A
#: process that srun has not started, such as a batch script, has SLURM_PROCID too, but no SLURM_STEP_NUM_TASKS.
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_ADDRESS = re.compile(r".+:\d+$")
FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Task:
    """Which worker this process is.

    Attributes:
      index: 0 to K - 1.
      workers: K.
      source: the variable that says so: ``TF_CONFIG``, or the first one of a row of LAUNCHERS.
    """

    index: int
    workers: int
    source: str

    @property
    def mpi(self) -> bool:
        """Whether a launcher of MPI has started this process; otherwise it is one of ``TF_CONFIG``'s."""
        return self.source != "TF_CONFIG"


def tf_config(index: int, addresses: List[str]) -> str:
    """The text of ``TF_CONFIG`` for worker ``index`` of those at these addresses.

    Example:
      >>> task({"TF_CONFIG": tf_config(1, ["a:1", "b:1"])})
      Task(index=1, workers=2, source='TF_CONFIG')
    """
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def task(environment: Optional[Mapping[str, str]] = None) -> Optional[Task]:
    """The task of this process; None for one that no launcher has started, and for the instances of poprun.

    Raises:
      ConfigError: ``TF_CONFIG`` is not of the form that is accepted; or a launcher of MPI and ``TF_CONFIG`` both make
        this process one of several.

    Example:
      >>> task({}) is None
      True
      >>> task({"PMI_RANK": "2", "PMI_SIZE": "4"})
      Task(index=2, workers=4, source='PMI_RANK')
      >>> task({"TF_CONFIG": tf_config(1, ["a:1"])})
      Traceback (most recent call last):
      ...
      rbd_ipu.errors.ConfigError: TF_CONFIG: the task's index 1 is not below the number of workers, 1
    """
    here = os.environ if environment is None else environment
    text = here.get("TF_CONFIG", "")
    of_cluster = _of_tf_config(text) if text else None
    by_mpi = launched(here)
    if by_mpi and by_mpi.workers > 1 and of_cluster and of_cluster.workers > 1:
        raise ConfigError(
            f"{by_mpi.source} makes this process one of {by_mpi.workers} that talk through MPI, and TF_CONFIG one "
            f"of {of_cluster.workers} of a TensorFlow cluster: unset TF_CONFIG, or start it without an MPI launcher"
        )
    if by_mpi and by_mpi.workers > 1 and not _of_poprun(environment):
        return by_mpi
    return of_cluster


def launched(environment: Mapping[str, str]) -> Optional[Task]:
    """What a launcher of MPI has put into an environment, be it for one process alone."""
    for rank, size in LAUNCHERS:
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            return Task(int(environment[rank]), int(environment[size]), rank)
    return None


def running() -> Optional[Any]:
    """The module ``popdist`` in a process that poprun has started, ready for use; elsewhere None."""
    try:
        popdist = importlib.import_module("popdist")
    except ModuleNotFoundError as error:
        if error.name != "popdist":
            raise
        return None
    if not popdist.isPopdistEnvSet():
        return None
    popdist.init()
    return popdist


def _of_poprun(environment: Optional[Mapping[str, str]]) -> bool:
    """Whether poprun has started this process: it does so by Open MPI, and PopDist connects its instances."""
    if environment is not None:
        return False
    return running() is not None


def _of_tf_config(text: str) -> Task:
    try:
        facts = json.loads(text)
        cluster, own = facts["cluster"], facts["task"]
        addresses, kind, index = cluster["worker"], own["type"], own["index"]
    except (ValueError, KeyError, TypeError):
        raise _refused(text) from None
    index = int(index) if isinstance(index, str) and index.isdigit() else index
    if set(cluster) != {"worker"} or kind != "worker" or not _are_addresses(addresses):
        raise _refused(text)
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise _refused(text)
    if index >= len(addresses):
        raise ConfigError(f"TF_CONFIG: the task's index {index} is not below the number of workers, {len(addresses)}")
    return Task(index, len(addresses), "TF_CONFIG")


def _are_addresses(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(a, str) and _ADDRESS.match(a) for a in value)


def _refused(text: str) -> ConfigError:
    return ConfigError(f"TF_CONFIG must be of the form {FORM}, got {text}")
