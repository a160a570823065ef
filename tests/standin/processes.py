"""popdist, as a process finds it that poprun has started: alone, or one of several whose others are not played."""

import types

import numpy as np

from rbd_ipu._compat import tf

SAID = []  # what instance 0 tells the others, in order; empty where this is instance 0
OTHERS = []  # what the other instances put into the next gatherings, in order: a list each time
TOLD = []  # what this one has put into them


def broadcast(value, root_rank=0, tensor_name=None):
    assert root_rank == 0, "only instance 0 is played"
    return SAID.pop(0) if SAID else value


def allgather(value, tensor_name=None):
    """[n] of every instance -> [count, n]; the order of the instances is not recorded, this one comes first."""
    TOLD.append(np.asarray(value).tolist())
    return tf.stack([value, *(tf.constant(other, value.dtype) for other in OTHERS.pop(0))])


def make(replicas, index=0, count=1):
    popdist, inside = types.ModuleType("popdist"), types.ModuleType("popdist.tensorflow")
    popdist.isPopdistEnvSet = lambda: True
    popdist.init = lambda: None
    popdist.getNumInstances = lambda: count
    popdist.getInstanceIndex = lambda: index
    popdist.getNumTotalReplicas = lambda: replicas
    popdist.getNumLocalReplicas = lambda: replicas // count
    popdist.getNumIpusPerReplica = lambda: 1
    popdist.tensorflow = inside

    def set_ipu_config(config, ipus_per_replica=1, configure_device=True):
        assert not config.auto_select_ipus, "PopDist chooses the IPUs"
        config.auto_select_ipus = replicas // count * ipus_per_replica

    inside.set_ipu_config = set_ipu_config
    return {"popdist": popdist, "popdist.tensorflow": inside}
