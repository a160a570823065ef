"""Sources: who draws the directions, and with what arithmetic."""

import importlib.util
from typing import Any

from rbd_ipu._stack import tf
from rbd_ipu.place import on_ipu
from rbd_ipu.registry import Registry

SOURCES = Registry("source")


class Source:
    """Draws the directions of ``groups`` bases of one size and dimension, and projects with them.

    Every method takes one seed for each group, ``seeds: int32 [G, 2]``; the groups are independent bases, worked
    on together so that equal compartments cost one operation and not G. With ``phi_i`` the i-th normalised
    direction of a group, the methods compute::

        directions(seeds, start, count)   [G, count, n]   phi_start ... phi_{start + count - 1}
        project(vectors [G, n], seeds)    [G, d]          c_i = <v, phi_i>
        expand(coordinates [G, d], seeds) [G, n]          sum_i c_i phi_i
        sketch(vectors [G, n], seeds)     [G, d], [G, n]  both, in one pass over each direction
        filter(vectors [G, n], seeds)     [G, n]          the second of sketch alone, for those who need no more

    A source is a pure function of its arguments: the same seeds give the same directions in every method.

    Where ``one_draw``, the bases of all workers come of one draw, and what tells them apart is made of a seed that
    they share: the methods then take ``worker_keys(seeds, worker)`` as well, and :meth:`join` serves all of them at
    once.

    Attributes:
      jit: whether its arithmetic is TensorFlow ops that XLA should compile, on a device that has XLA.
      one_draw: see above.
      block_rows: directions of the blocks that its stream is cut into; 0 where it is not, and any are drawn alike.
    """

    jit = False
    one_draw = False
    block_rows = 0

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        raise NotImplementedError

    def block_at(self, seeds: Any, start: Any, count: int) -> Any:
        """Directions of the one block that begins at ``start``: :meth:`directions`, for a stream that is cut up."""
        return self.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        raise NotImplementedError

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        raise NotImplementedError

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        coordinates = self.project(vectors, seeds)
        return coordinates, self.expand(coordinates, seeds)

    def filter(self, vectors: Any, seeds: Any) -> Any:
        return self.sketch(vectors, seeds)[1]

    def worker_keys(self, seeds: Any, worker: Any) -> Any:
        """What stands for the seeds where the directions of this worker are meant: [G, 2], int32 scalar -> [G, k]."""
        raise NotImplementedError

    def join(self, messages: Any, seeds: Any) -> Any:
        """sum_k P_k c_k of the workers k = 0 ... K - 1: float32 [G, K, d], seeds -> [G, n]."""
        raise NotImplementedError


class Compiled(Source):
    """A source whose methods are compiled by XLA: blocks stay in the cache, temporaries are fused away."""

    def __init__(self, source: Source):
        self.directions = source.directions  # type: ignore[method-assign]
        self.project = tf.function(source.project, jit_compile=True)  # type: ignore[method-assign]
        self.expand = tf.function(source.expand, jit_compile=True)  # type: ignore[method-assign]
        self.sketch = tf.function(source.sketch, jit_compile=True)  # type: ignore[method-assign]


def resolve(source: str) -> str:
    """The name of the source that ``source`` stands for here.

    ``"auto"`` is ``"poprand"`` under a strategy of Graphcore's; elsewhere ``"native"`` where TensorFlow sees CPUs
    only and Numba can be imported, else ``"counter"``, and these two draw the same numbers. Where only Numba is
    missing, a warning in the log says so, once. ``"poprand"`` becomes ``"poprand:B"`` on a device whose memory asks
    for it.

    Raises:
      ValueError: an unknown name, quoted with the accepted ones.
    """
    from rbd_ipu.directions import native, poprand  # late: they import this module

    if source == "poprand" or (source == "auto" and on_ipu()):
        return poprand.name_here()
    if source == "auto":
        return "native" if only_cpus() and native.available() else "counter"
    name, colon, parameter = source.partition(":") if isinstance(source, str) else ("", "", "")
    if name == "poprand" and colon:
        poprand.parse(parameter)
    elif source not in SOURCES:
        accepted = ", ".join(repr(name) for name in ("auto", *SOURCES.names()))
        raise ValueError(f"unknown source {source!r}; accepted: {accepted}")
    return source


def only_cpus() -> bool:
    """Whether a CPU is all there is. Asks for visible devices: listing logical ones would fix their number."""
    # Graphcore's TensorFlow shows its devices only once they are configured.
    if importlib.util.find_spec("tensorflow.python.ipu") is not None:
        return False
    return {device.device_type for device in tf.config.get_visible_devices()} <= {"CPU", "XLA_CPU"}
