"""popdist, as a process of one instance finds it that poprun has started."""

import types


def make(replicas):
    popdist, inside = types.ModuleType("popdist"), types.ModuleType("popdist.tensorflow")
    popdist.isPopdistEnvSet = lambda: True
    popdist.init = lambda: None
    popdist.getNumInstances = lambda: 1
    popdist.getInstanceIndex = lambda: 0
    popdist.getNumTotalReplicas = lambda: replicas
    popdist.getNumLocalReplicas = lambda: replicas
    popdist.getNumIpusPerReplica = lambda: 1
    popdist.tensorflow = inside

    def set_ipu_config(config, ipus_per_replica=1, configure_device=True):
        assert not config.auto_select_ipus, "PopDist chooses the IPUs"
        config.auto_select_ipus = replicas * ipus_per_replica

    inside.set_ipu_config = set_ipu_config
    return {"popdist": popdist, "popdist.tensorflow": inside}
