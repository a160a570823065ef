"""How directions are made: their distributions, and the sources that draw them.

A *distribution* (``stream.py``) says how 32 random bits become one entry of a direction. A *source* (``source.py``)
says where the bits come from and how the work is done. Both are registry rows. *Structured* distributions, whose
directions are made as a whole, bring sources of their own: ``hadamard.py``, ``sparse.py``, ``groups.py``,
``blocks.py``.
"""

import rbd_ipu.directions.blocks
import rbd_ipu.directions.groups
import rbd_ipu.directions.hadamard
import rbd_ipu.directions.sparse  # noqa: F401
from rbd_ipu.directions.source import (
    SOURCES,
    STRUCTURED,
    Compiled,
    Source,
    check_distribution,
    check_orthogonal,
    distribution_names,
    make_source,
    resolve,
)
from rbd_ipu.directions.stream import DISTRIBUTIONS, Distribution

__all__ = [
    "DISTRIBUTIONS",
    "SOURCES",
    "STRUCTURED",
    "Compiled",
    "Distribution",
    "Source",
    "check_distribution",
    "check_orthogonal",
    "distribution_names",
    "make_source",
    "resolve",
]
