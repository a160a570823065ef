"""The exchange between the two halves of a method: what workers tell each other. One file each."""

from rbd_ipu.exchange.base import Alone, Exchange
from rbd_ipu.exchange.collective import Collective
from rbd_ipu.exchange.mirrored import Mirrored
from rbd_ipu.exchange.modes import MODES
from rbd_ipu.exchange.mpi import MPI
from rbd_ipu.exchange.plan import EXCHANGES, Plan, plan
from rbd_ipu.exchange.simulated import Simulated
from rbd_ipu.exchange.wire import WIRES

__all__ = [
    "EXCHANGES",
    "MODES",
    "MPI",
    "WIRES",
    "Alone",
    "Collective",
    "Exchange",
    "Mirrored",
    "Plan",
    "Simulated",
    "plan",
]
