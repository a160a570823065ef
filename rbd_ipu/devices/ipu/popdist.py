"""One process among several, started by ``poprun``: who it is, whether it writes files, which seed all share.

PopDist is a closed part of the Poplar SDK; it is imported here when it is asked for, and where there is none, or
poprun has not started this process, there is one instance: this one. The replicas of instance i are the global
replicas i L ... (i + 1) L - 1, with L local replicas.
"""

import dataclasses
import importlib
from typing import Any, List, Optional

import numpy as np

from rbd_ipu.devices.ipu.description import WITHOUT_DEVICE, Description
from rbd_ipu.errors import ConfigError, Dismissed


@dataclasses.dataclass(frozen=True)
class Instance:
    """This process and its replicas.

    Attributes:
      index: which process this is, from 0.
      count: how many there are.
      local_replicas: replicas of each.
    """

    index: int = 0
    count: int = 1
    local_replicas: int = 1

    @property
    def replicas(self) -> int:
        """Replicas of all processes."""
        return self.count * self.local_replicas

    @property
    def writes_files(self) -> bool:
        """Whether this is the one process that writes checkpoints, metrics and messages."""
        return self.index == 0


def instance(description: Description, popdist: Optional[Any] = None) -> Instance:
    """This process' part of a description.

    Args:
      description: of an IPU.
      popdist: what :func:`running` gave.

    Raises:
      ConfigError: poprun was told other numbers than the description has, or is needed and did not start this
        process.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> instance(description.check({"device": "ipu", "replicas": 4}))
      Instance(index=0, count=1, local_replicas=4)
    """
    if popdist is None:
        if description.instances > 1:
            raise ConfigError(
                f"instances: {description.instances} processes are started by poprun, and this one was not; use "
                "scripts/poprun.sh, or give instances 1"
            )
        return Instance(0, 1, description.local_replicas)
    told = {
        "instances": popdist.getNumInstances(),
        "replicas": popdist.getNumTotalReplicas(),
        "ipus_per_replica": popdist.getNumIpusPerReplica(),
    }
    for key, value in told.items():
        wanted = getattr(description, key)
        if value != wanted:
            raise ConfigError(f"{key}: the description has {wanted}, but poprun was started with {value}")
    return Instance(popdist.getInstanceIndex(), told["instances"], popdist.getNumLocalReplicas())


def poprun_arguments(description: Description) -> List[str]:
    """The counts that poprun must be started with, so that :func:`instance` finds what the description says.

    Raises:
      ConfigError: poprun starts processes on IPUs; the description is for something else.

    Example:
      >>> from rbd_ipu.devices.ipu import description
      >>> poprun_arguments(description.check({"device": "ipu", "replicas": 16, "instances": 2}))
      ['--num-instances=2', '--num-replicas=16', '--ipus-per-replica=1']
    """
    if description.device != "ipu" or description.emulator:
        what = "the emulator" if description.emulator else description.device
        raise ConfigError(f"device: poprun starts processes on IPUs, not on {what}")
    counts = {
        "num-instances": description.instances,
        "num-replicas": description.replicas,
        "ipus-per-replica": description.ipus_per_replica,
    }
    words = [f"--{name}={count}" for name, count in counts.items()]
    return words + (["--offline-mode=yes"] if description.connection in WITHOUT_DEVICE else [])


def configure(config: Any, description: Description) -> None:
    """Tells an ``IPUConfig`` which IPUs and which part of the replicas are this process'; only under poprun."""
    module = importlib.import_module("popdist.tensorflow")
    module.set_ipu_config(config, ipus_per_replica=description.ipus_per_replica, configure_device=True)


def broadcast_seed(seed: int, collectives: Any, here: Instance) -> int:
    """The seed of instance 0, in all of them.

    Two int32 words are sent, the only integers that every part of the IPU stack knows.

    Args:
      seed: an int from 0 of at most 64 bits; only that of instance 0 counts.
      collectives: the module ``tensorflow.python.ipu.distributed.host_collective_ops``, which the package ``ipu``
        does not import by itself; one instance alone does not look at it.
      here: this process.

    Example:
      >>> broadcast_seed(5, None, Instance())
      5
    """
    if here.count == 1:
        return seed
    from rbd_ipu._compat import tf

    words = np.array([seed], np.uint64).view(np.int32)
    told = np.asarray(collectives.broadcast(tf.constant(words), root_rank=0), dtype=np.int32)
    return int(told.view(np.uint64)[0])


class Stopped(KeyboardInterrupt):
    """Another instance was asked to stop, by Ctrl-C or SIGTERM, and this one stops at the same step."""

    agreed = True


#: What an instance that leaves proposes in place of a number of steps.
FAILED, ASKED = -1, -2


def agree(n: int, collectives: Any, here: Instance) -> int:
    """The least of what all instances propose: how many steps the next call runs, 0 to stop.

    Host collectives are the SDK's (``host_collective_ops.allgather``, SDK 3.4); an instance that has gone without
    :func:`leave`, killed for one, is for poprun's MPI to notice.

    Args:
      n: what this one proposes.
      collectives, here: as for :func:`broadcast_seed`.

    Raises:
      Stopped: another instance was asked to stop.
      Dismissed: another instance has stopped, because of an error.

    Example:
      >>> agree(7, None, Instance())
      7
    """
    if here.count == 1:
        return n
    least = _least(n, collectives)
    if least == ASKED:
        raise Stopped
    if least == FAILED:
        raise Dismissed(f"instance {here.index} of {here.count}: another one has stopped, and this one with it")
    return least


def leave(error: BaseException, collectives: Any, here: Instance) -> None:
    """Lets the other instances know, where they next :func:`agree`, that this one stops because of ``error``.

    They are told nothing of an error that they have met as well, nor of one of TensorFlow's: then a program may have
    died in the middle of a collective that the others wait in, which only the end of this process can end.
    """
    from rbd_ipu._compat import tf

    if here.count > 1 and not getattr(error, "agreed", False) and not isinstance(error, tf.errors.OpError):
        _least(ASKED if isinstance(error, KeyboardInterrupt) else FAILED, collectives)


def _least(n: int, collectives: Any) -> int:
    from rbd_ipu._compat import tf

    return int(np.min(np.asarray(collectives.allgather(tf.constant([n], tf.int32)))))
