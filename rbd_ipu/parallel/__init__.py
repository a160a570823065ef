"""Several workers: what they exchange in a step, who they are, and how they are started.

===============  ===========================================================================================
plan.py          how workers share a step: modes, wire formats, a checked Plan
wire.py          how coordinates become bits
round.py         a step of K workers: what each one sends, and the update that follows
exchange.py      who sends to whom: one worker, simulated ones, replicas, TensorFlow's collectives, ranks of MPI
cost_model.py    how long a step takes, behind ``exchange="auto"``
workers.py       who this process is, by its launcher; who leads whom in groups
ranks.py         ranks of MPI: what they say to each other, with deadlines
launch.py        ranks on this machine, started and watched
===============  ===========================================================================================

Importing this package imports none of its modules, and no TensorFlow.
"""
