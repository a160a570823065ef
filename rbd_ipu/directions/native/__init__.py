"""Source ``native``: the counter stream drawn by machine code on all cores of a CPU. Needs Numba.

From the bits up: ``stream.py`` (words and samples), ``loops.py`` (what vector registers do), ``kernels.py`` (one
pass over each direction), ``launch.py`` (tasks and arrays), ``source.py`` (the TensorFlow op). ``threads.py`` and
``buffers.py`` lend threads and memory. None of them is imported before a basis asks for this source.
"""

import functools
import logging

from rbd_ipu.directions import dense  # noqa: F401  (its row comes first; it stands in under XLA)
from rbd_ipu.directions.source import SOURCES, Source

INSTALL = 'pip install "rbd-ipu[native]"'


@functools.lru_cache(maxsize=None)
def available() -> bool:
    """Whether Numba can be imported; where it cannot, the log says so, once."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "Numba cannot be imported (%s): on this CPU, directions are drawn by source 'counter', which is several "
            "times slower than 'native'. To have it: %s",
            error,
            INSTALL,
        )
        return False
    return True


@SOURCES.register("native")
def make(groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int = 0) -> Source:
    """The source for G bases of ``dim`` directions in R^size. It knows no blocks: ``rows`` is not used.

    Raises:
      ImportError: Numba cannot be imported; the message names the extra that brings it.
      ValueError: ``RBD_NUM_THREADS`` is not an integer >= 1.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise ImportError(f"source 'native' needs Numba ({error}): {INSTALL}") from error
    from rbd_ipu.directions.native.op import Native

    return Native(groups, size, dim, distribution, normalize)
