"""Optimizers that train any Keras model in a random subspace, by one line.

``random_bases.py`` holds the optimizers; ``keras_2.py`` and ``keras_3.py`` adapt them to the two Keras versions.
"""

from rbd_ipu.optimizers.random_bases import OPTIMIZERS, FixedProjectionDescent, RandomBasesDescent
from rbd_ipu.optimizers.subspace_optimizer import SubspaceOptimizer

__all__ = ["FixedProjectionDescent", "OPTIMIZERS", "RandomBasesDescent", "SubspaceOptimizer"]
