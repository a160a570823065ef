"""Training methods: what one worker has to tell, and what everybody subtracts. A registry row each.

    message(state, batch, step, worker) -> [m]     local
    update(messages [K, m], step)       -> [D]     everywhere, the same

These are the two halves of Algorithm 1 of the paper; between them stands one exchange of K messages.
"""

from rbd_ipu.methods.base import METHODS, Method, create
from rbd_ipu.methods.fpd import FPD
from rbd_ipu.methods.rbd import RBD
from rbd_ipu.methods.sgd import SGD

__all__ = ["FPD", "METHODS", "RBD", "SGD", "Method", "create"]
