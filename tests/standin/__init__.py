"""A stand-in for the part of ``tensorflow.python.ipu`` and ``popdist`` that the package calls, for the tests alone.

It runs on stock TensorFlow 2.6 and a CPU. What it knows of the real thing it takes from the record
(``rbd_ipu/devices/record``): a name or an argument that is not recorded fails. It is as strict as the real thing
where that is recorded: programs are compiled functions with static shapes and constant loops of recorded operations,
infeeds need batches of one shape, outfeeds take one enqueue, ``train_step`` cannot be overridden, options have strict
types.

A program is traced once, as a POD would trace it; only XLA is left out, which has no infeed on a CPU. Then R threads
run the very same traced graph, each with variables, queues and an index of its own, and meet in its collectives:

=================  ================================================================================
modules.py         modules made from the record, which know its names and signatures and nothing else
options.py         IPUConfig
machine.py         the replicas: what each of them has, and how a program is run on all of them
collectives.py     replication_index, all_gather, cross_replica_sum, cross_replica_mean
queues.py          infeeds and outfeeds
strategy.py        IPUStrategy and PopDistStrategy
strict.py          what is refused in a traced program
fitting.py         what Graphcore's Keras does in ``fit``
processes.py       popdist
=================  ================================================================================

What it cannot show: anything about Poplar, memory, speed, or the numbers that an IPU draws.
"""

import contextlib
import sys

from standin import machine, modules


@contextlib.contextmanager
def installed(popdist_replicas=None, index=0, count=1):
    """Puts the stand-in where ``tensorflow.python.ipu`` would be; yields the :class:`standin.machine.Machine`.

    Args:
      popdist_replicas: as if poprun had started this process with so many replicas, over all instances.
      index, count: as instance ``index`` of so many. Only this one is played: what it exchanges with others hangs.
    """
    from standin import fitting, processes, queues

    made = modules.make()
    if popdist_replicas is not None:
        made.update(processes.make(popdist_replicas, index, count))
    taken = [name for name in made if name in sys.modules]
    assert not taken, f"there is something real, or another stand-in: {taken}"
    sys.modules.update(made)
    present = machine.begin()
    try:
        with queues.patched_datasets(), fitting.patched_keras():
            yield present
    finally:
        machine.end()
        for name in made:
            del sys.modules[name]
