"""rbd_ipu: train Keras models in random subspaces, on IPUs and everywhere TensorFlow runs.

At every step the gradient is projected on d random directions that are a pure function of a seed: drawn
when needed, never stored. "Improving Neural Network Training in Low Dimensional Random Bases" (Gressmann,
Eaton-Rosen and Luschi, NeurIPS 2020) calls this random bases descent (RBD).

Importing the package does not import TensorFlow; the first use of a name below does. It is enough for
``keras.models.load_model`` to know the optimizers.
"""

import importlib
from typing import Any, List

from rbd_ipu import _imports

__version__ = "0.1.0"

# Each public name and the module that holds it: the promise of the library, in one place.
_HOME = {
    "fold_in": "seeds",
    "RandomBasis": "basis",
    "Compartments": "compartments",
    "RandomBasesDescent": "optimizers",
    "FixedProjectionDescent": "optimizers",
    "SubspaceOptimizer": "optimizers",
    "Trainer": "training",
    "save_delta": "delta",
    "apply_delta": "delta",
    "intrinsic_dimension": "dimension",
    "ReplayLog": "replay",
    "replay_weights": "replay",
    "NonFiniteError": "errors",
    "open_device": "devices",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "presets":  # a module that users name without importing it
        return importlib.import_module("rbd_ipu.presets")
    if name not in _HOME:
        raise AttributeError(f"module 'rbd_ipu' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"rbd_ipu.{_HOME[name]}"), name)


def __dir__() -> List[str]:
    return sorted([*globals(), *_HOME])


_imports.announce()
