"""Algorithm 1 of the paper in NumPy, with the directions of a method and gradients of a plain eager tape."""

import numpy as np
from nets import flat, gradient, set_flat

from rbd_ipu._compat import tf


def run(model, method, batches, replicas=1, shared=False, momentum=0.0):
    """theta after every step, float64: theta <- theta - lr (1/R) sum_r P_t^r (P_t^r)^T g_t^r (Algorithm 1, right).

    ``batches`` are those of replica 0, 1, ... R - 1 of step 0, then of step 1, and so on.
    """
    velocity, thetas = 0.0, []
    for t in range(len(batches) // replicas):
        update = 0.0
        for r in range(replicas):
            x, y = batches[t * replicas + r]
            index = int(method.basis_index(tf.constant(t)))
            P = method.subspace.directions(method.seed, index, 0 if shared else r).numpy().astype(np.float64)
            update += P.T @ (P @ gradient(model, x, y)) / replicas
        velocity = momentum * velocity - method.learning_rate * update
        set_flat(model, flat(model) + velocity)
        thetas.append(flat(model))
    return thetas
