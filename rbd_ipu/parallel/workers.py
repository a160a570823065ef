"""The workers: which of them this process is, by the environment of its launcher; and their groups, who leads whom.

The environment is read without MPI.

With groups of G and L levels of leaders, worker k is a leader of level l = 1 ... L if G^l divides k. It takes the
messages of the G workers (from level 2 on: leaders of level l - 1) that begin with itself, and passes on one. So
R = K / G^L messages are left, which all workers receive. Groups are pure functions of the index of a worker.
"""

import dataclasses
import importlib
import json
import os
import re
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

from rbd_ipu import checks
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
            f"{by_mpi.source} makes this process one of {by_mpi.workers} that communicate by MPI, and TF_CONFIG one "
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


class Groups(NamedTuple):
    """How K workers are divided.

    Attributes:
      size: G; 1 is no groups.
      levels: L, of leaders.

    Example:
      >>> groups = Groups(4, 2)
      >>> groups.together, groups.messages(32), groups.leads(16), groups.leads(20), groups.leads(21)
      (16, 2, 2, 1, 0)
    """

    size: int = 1
    levels: int = 1

    @property
    def together(self) -> int:
        """G^L: of how many workers the gradients become one message."""
        return self.size**self.levels

    def messages(self, workers: int) -> int:
        """R: how many messages reach every worker."""
        return workers // self.together

    def leads(self, worker: int) -> int:
        """The levels at which a worker is a leader: 1 to this."""
        return sum(worker % self.size**level == 0 for level in range(1, self.levels + 1))

    def members(self, leader: int, level: int) -> List[int]:
        """The workers whose messages a leader of a level takes; itself is the first.

        Example:
          >>> Groups(4, 2).members(16, 1), Groups(4, 2).members(16, 2)
          ([16, 17, 18, 19], [16, 20, 24, 28])
        """
        return [leader + i * self.size ** (level - 1) for i in range(self.size)]

    def leader(self, worker: int) -> Optional[int]:
        """Who takes the message of a worker; None for a leader of the last level.

        Example:
          >>> [Groups(4, 2).leader(worker) for worker in (21, 20, 16)]
          [20, 16, None]
        """
        leads = self.leads(worker)
        return None if leads == self.levels else worker - worker % self.size ** (leads + 1)

    def check(self, workers: int) -> None:
        """Refuses another number of workers than whole groups have.

        Raises:
          ValueError: quotes both numbers.
        """
        if workers % self.together:
            of_levels = f" with group_levels={self.levels}" if self.levels > 1 else ""
            raise ValueError(
                f"group_size={self.size}{of_levels} needs a number of workers that is a multiple of {self.together}, "
                f"got {workers}"
            )


def groups(size: int, levels: int) -> Groups:
    """Checked :class:`Groups`.

    Raises:
      TypeError, ValueError: not integers from 1, or levels without groups; quotes what came.

    Example:
      >>> groups(1, 2)
      Traceback (most recent call last):
      ...
      ValueError: group_levels=2 is for groups, of a group_size of 2 and more; got group_size=1
    """
    made = Groups(checks.positive_int("group_size", size), checks.positive_int("group_levels", levels))
    if made.size == 1 and made.levels > 1:
        raise ValueError(f"group_levels={levels} is for groups, of a group_size of 2 and more; got group_size={size}")
    return made


def tree(index: int, size: int) -> Tuple[Optional[int], List[int]]:
    """(parent, children) in a binomial tree over 0 ... size - 1: its root is 0, and log2(size) hops reach all.

    Example:
      >>> tree(0, 8), tree(4, 8), tree(5, 8)
      ((None, [4, 2, 1]), (0, [6, 5]), (4, []))
    """
    step, children = 1, []
    while step < size and index % (2 * step) == 0:
        if index + step < size:
            children.append(index + step)
        step *= 2
    return None if index == 0 else index - step, children[::-1]
