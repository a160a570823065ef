"""How large a random subspace must be: the intrinsic dimension of Li et al. 2018.

``search.py`` says what is measured next, ``report.py`` keeps what was found in a folder, ``keras_model.py`` is the
search for users' own models. The one behind ``rbd-ipu dimension`` is :mod:`rbd_ipu.lab.dimension`.

Importing this package does not import TensorFlow.
"""

from rbd_ipu.dimension.keras_model import intrinsic_dimension
from rbd_ipu.dimension.search import IntrinsicDimension, Point, Run

__all__ = ["IntrinsicDimension", "Point", "Run", "intrinsic_dimension"]
