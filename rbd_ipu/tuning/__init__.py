"""Choosing the learning rate: powers of two, lowest loss on a quarter of the training images (Section C.1).

======================  =================================================================
``grid``                the powers of two, and how they are read and written
``trial``               one rate: what was measured, and when nothing more is to be hoped for
``search``              which rates come next, and which one is chosen: pure functions
``training``            trains one rate
``workers``             trains several at once, each in a process of its own
``record``              the folder: nothing finished is lost or done twice
``report``              the table, and the row for ``learning_rates.yaml``
======================  =================================================================

Importing this package does not import TensorFlow.
"""

from rbd_ipu.tuning.grid import exponents, read_exponent, written
from rbd_ipu.tuning.search import best, following
from rbd_ipu.tuning.trial import Trial, hopeless, reach

__all__ = ["Trial", "best", "exponents", "following", "hopeless", "reach", "read_exponent", "written"]
