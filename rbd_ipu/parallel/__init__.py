"""Several workers: what they exchange in a step, who they are, and how they are started.

===============  ===========================================================================================
plan.py          how workers share a step: modes, wire formats, a checked Plan
round.py         a step of K workers: what each one sends, and the update that follows
exchange.py      who sends to whom: one worker, simulated ones, replicas, TensorFlow's collectives
mpi.py           the same between ranks of MPI
meter.py         seconds and bytes of an exchange
cost_model.py    how long a step takes, behind ``exchange="auto"``
ranks.py         ranks of MPI: who this process is, what they say to each other, deadlines
launch.py        ranks on this machine, started and watched
===============  ===========================================================================================

Importing this package imports none of its modules, and no TensorFlow.
"""
