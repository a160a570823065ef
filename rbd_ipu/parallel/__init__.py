"""The exchange between the two halves of a method: what workers tell each other. One file each."""

from rbd_ipu.parallel.exchange import Alone, Collective, Exchange, Mirrored, Simulated
from rbd_ipu.parallel.mpi import MPI
from rbd_ipu.parallel.plan import EXCHANGES, MODES, WIRES, Plan, plan

__all__ = [
    "Alone",
    "Collective",
    "EXCHANGES",
    "Exchange",
    "MODES",
    "MPI",
    "Mirrored",
    "Plan",
    "Simulated",
    "WIRES",
    "plan",
]
