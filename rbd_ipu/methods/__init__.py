"""Training methods: what one worker sends, and what everybody subtracts. A registry row each.

    message(state, batch, step, worker) -> [m]     local
    update(messages [K, m], step)       -> [D]     everywhere, the same

These are the two halves of Algorithm 1 of the paper; between them stands one exchange of K messages.
"""

from rbd_ipu.methods.base import METHODS, SGD, Method, create
from rbd_ipu.methods.compressed import Compressed
from rbd_ipu.methods.forward import NES, Hybrid
from rbd_ipu.methods.gradients import Gradients
from rbd_ipu.methods.rbd import FPD, RBD
from rbd_ipu.methods.switch import Switch, Switched

__all__ = [
    "Compressed",
    "FPD",
    "METHODS",
    "NES",
    "RBD",
    "SGD",
    "Gradients",
    "Hybrid",
    "Method",
    "Switch",
    "Switched",
    "create",
]
