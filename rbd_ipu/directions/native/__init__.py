"""Source ``native``: the counter stream drawn by machine code on all cores of a CPU. Needs Numba.

From the bits up: ``stream.py`` (words, samples, and what vector registers do), ``dense.py`` (one pass over each
direction; tasks and arrays), ``op.py`` (the TensorFlow op). ``threads.py`` lends threads and memory. The Hadamard
basis has ``hadamard_transform.py`` (butterflies) and ``hadamard.py`` (which rows; the kernel and its op). None of
them is imported before a basis asks for this source.
"""

import functools
import logging
from typing import Any, Callable, List, Sequence, Tuple

from rbd_ipu.directions.dense import make as drawn_by_operations
from rbd_ipu.directions.source import Source

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


def make(groups: int, size: int, dim: int, distribution: str, normalize: str, rows: int = 0) -> Source:
    """The source for G bases of ``dim`` directions in R^size. It knows no blocks: ``rows`` is not used.

    A distribution without a kernel is drawn by the source ``counter``, which has the same numbers.

    Raises:
      ImportError: Numba cannot be imported; the message names the extra that brings it.
      ValueError: ``RBD_NUM_THREADS`` is not an integer >= 1.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise ImportError(f"source 'native' needs Numba ({error}): {INSTALL}") from error
    from rbd_ipu.directions.native.dense import KINDS
    from rbd_ipu.directions.native.op import Native

    if distribution not in KINDS:
        return drawn_by_operations(groups, size, dim, distribution, normalize, rows)
    return Native(groups, size, dim, distribution, normalize)


def fused(compartments: Sequence[Any], groups: Sequence[Tuple[List[int], Source]]) -> Any:
    """What runs several groups of equal compartments in one operation of the graph; None where it cannot.

    Args:
      compartments: the cut, with ``start``, ``size`` and ``dim`` of each piece.
      groups: (indices of equal compartments, their source).
    """
    from rbd_ipu.directions.native.op import Fused, Native

    kernels = [(members, source.kernels) for members, source in groups if isinstance(source, Native)]
    return Fused(compartments, kernels) if len(kernels) == len(groups) > 1 else None


def compartment_seeds(members: Sequence[int]) -> Any:
    """What hashes the seeds of these compartments on the host: (seed, step, worker) -> int32 [K, 2]."""
    from rbd_ipu.directions.native.op import CompartmentSeeds

    return CompartmentSeeds(members)


def later(function: Callable, tensors: Sequence[Any]) -> Any:
    """An argument of the kernels' operations that is computed within their call: ``function(*arrays)``."""
    from rbd_ipu.directions.native.op import Later

    return Later(function, tensors)


def block_kernels(layout: Any, signed: bool) -> Any:
    """The kernels of :class:`rbd_ipu.compression.BlockSketch`."""
    from rbd_ipu.directions.native.blocks import BlockKernels

    return BlockKernels(layout, signed)
