"""Sources of directions: what each one computes, their registries, and the one place where they are made.

A row of ``DISTRIBUTIONS`` says how bits become an entry, and every source can draw it. A row of ``STRUCTURED`` is
faster than drawing its entries one by one, so it brings sources of its own.
"""

import importlib
from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu._compat import as_it_is, only_cpus, program, tf
from rbd_ipu.checks import Registry
from rbd_ipu.directions.stream import DISTRIBUTIONS
from rbd_ipu.placement import on_ipu

#: A row: the module that draws, by its path. It is imported when a basis asks for it, so that a CPU needs nothing of
#: an IPU, and a machine without Numba nothing of Numba. It has ``make(groups, size, dim, distribution, normalize,
#: rows)``.
SOURCES = Registry("source")
SOURCES.register("counter")("rbd_ipu.directions.dense")
SOURCES.register("native")("rbd_ipu.directions.native")
SOURCES.register("poprand")("rbd_ipu.directions.poprand")
ORTHOGONAL = "rbd_ipu.directions.orthogonal"


@as_it_is
def imported(path: str) -> Any:
    """The module with this path, also where a function is being traced: AutoGraph would try to rewrite the import."""
    return importlib.import_module(path)


def module_of(source: str) -> Any:
    """The module of a row of ``SOURCES``.

    Raises:
      ValueError: there is no such row.
    """
    return imported(SOURCES.get(source))


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
      takes_later: whether outside XLA its seeds may be a :class:`rbd_ipu.directions.native.op.Later`.
    """

    jit = False
    one_draw = False
    block_rows = 0
    takes_later = False

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

    def __init__(self, source: Source, beside_others: bool = False):
        def compiled(function: Callable) -> Any:
            return program(function, jit=True, beside_others=beside_others)

        self.directions = source.directions  # type: ignore[method-assign]
        self.project = compiled(source.project)  # type: ignore[method-assign]
        self.expand = compiled(source.expand)  # type: ignore[method-assign]
        self.sketch = compiled(source.sketch)  # type: ignore[method-assign]


def resolve(source: str) -> str:
    """The name of the source that ``source`` stands for here.

    ``"auto"`` is ``"poprand"`` under a strategy of Graphcore's; elsewhere ``"native"`` where TensorFlow sees CPUs
    only and Numba can be imported, else ``"counter"``, and these two draw the same numbers. Where only Numba is
    missing, a warning in the log says so, once. ``"poprand"`` becomes ``"poprand:B"`` on a device whose memory asks
    for it.

    Raises:
      ValueError: an unknown name, quoted with the accepted ones.
    """
    if source == "poprand" or (source == "auto" and on_ipu()):
        return module_of("poprand").name_here()
    if source == "auto":
        return "native" if only_cpus() and module_of("native").available() else "counter"
    name, colon, parameter = source.partition(":") if isinstance(source, str) else ("", "", "")
    if name == "poprand" and colon:
        module_of(name).parse(parameter)
    elif source not in SOURCES:
        accepted = ", ".join(repr(name) for name in ("auto", *SOURCES.names()))
        raise ValueError(f"unknown source {source!r}; accepted: {accepted}")
    return source


STRUCTURED = Registry("distribution")


class Structure(NamedTuple):
    """One row.

    Attributes:
      name: as users write it; "name:x" where it takes a parameter x.
      make: (source, groups, size, dim, normalize, rows, parameter) -> Source; a ValueError says why not.
      parse: the text of a parameter -> its value, or None if there is no parameter to take.
      about: one line for the documentation.
    """

    name: str
    make: Callable[..., Source]
    parse: Optional[Callable[[str], Any]]
    about: str


def distribution_names() -> Tuple[str, ...]:
    """All distributions, as users write them."""
    return (*DISTRIBUTIONS.names(), *STRUCTURED.names())


def check_distribution(distribution: Any) -> str:
    """``distribution`` if it names one.

    Raises:
      ValueError: it does not, or its parameter is wrong; quotes it and what is accepted.
    """
    if distribution not in DISTRIBUTIONS:
        _structure(distribution)
    return distribution


def _structure(distribution: Any) -> Tuple[Structure, Any]:
    """Row and parameter of a structured distribution."""
    name, colon, text = distribution.partition(":") if isinstance(distribution, str) else ("", "", "")
    if name not in STRUCTURED:
        accepted = ", ".join(repr(row) for row in distribution_names())
        raise ValueError(f"unknown distribution {distribution!r}; accepted: {accepted}")
    row = STRUCTURED.get(name)
    if not colon:
        return row, None
    if row.parse is None:
        raise ValueError(f"distribution {name!r} takes no parameter, got {distribution!r}")
    return row, row.parse(text)


def check_orthogonal(distribution: str, normalize: str) -> None:
    """Refuses directions that cannot be made orthonormal, or already are.

    Args:
      distribution, normalize: as for :class:`rbd_ipu.RandomBasis`.

    Raises:
      ValueError: the message says why.

    Example:
      >>> check_orthogonal("normal", "unit")
    """
    imported(ORTHOGONAL).check(distribution, normalize)


def make_source(
    source: str,
    groups: int,
    size: int,
    dim: int,
    distribution: str,
    normalize: str,
    rows: int = 0,
    orthogonalize: bool = False,
) -> Source:
    """The source of G bases of ``dim`` directions in R^size.

    Args:
      source: a row of ``SOURCES``, or "poprand:B"; a structured distribution runs on what that source runs on.
      rows: directions in a block, 0 for as many as suit.
      orthogonalize: whether the directions of a basis are made orthonormal.

    Raises:
      ValueError: such a basis makes no sense; the message says why.
    """
    if orthogonalize:
        return imported(ORTHOGONAL).make(groups, size, dim, distribution, normalize)
    source, _, entries = source.partition(":")
    if distribution in DISTRIBUTIONS:
        parameters = {"entries": int(entries)} if entries else {}
        return module_of(source).make(groups, size, dim, distribution, normalize, rows, **parameters)
    row, parameter = _structure(distribution)
    return row.make(source, groups, size, dim, normalize, rows, parameter)


def repeat(
    trips: int, step: Callable[..., Tuple[Any, ...]], shapes: Sequence[Sequence[int]], *carry: Any
) -> Tuple[Any, ...]:
    """Runs ``step(i, *carry) -> (*outputs, *carry)`` for i = 0 ... trips - 1.

    Poplar makes a Repeat of a loop whose length is a Python int and whose condition is a bare comparison; others are
    simulated by the compiler, or evaluated on the device. What the body holds is compiled once.

    Args:
      trips: how often, an int >= 1; one trip makes no loop.
      step: a traced function; i is an int32 scalar.
      shapes: of the outputs of a trip, which are float32.
      *carry: what the first trip is given; shapes and types stay.

    Returns:
      The outputs stacked, [trips, ...] each, and the carry of the last trip.

    Example:
      >>> squares, total = repeat(4, lambda i, t: (tf.cast(i * i, tf.float32), t + i), [[]], tf.constant(0))
      >>> squares.numpy().tolist(), int(total)
      ([0.0, 1.0, 4.0, 9.0], 6)
    """
    kept = len(shapes)
    if trips == 1:
        results = step(tf.constant(0), *carry)
        return (*(x[tf.newaxis] for x in results[:kept]), *results[kept:])
    stacks = tuple(tf.TensorArray(tf.float32, trips, element_shape=shape) for shape in shapes)

    def body(i: Any, stacks: Any, carry: Any) -> Tuple[Any, Any, Any]:
        results = step(i, *carry)
        return i + 1, tuple(stack.write(i, x) for stack, x in zip(stacks, results)), tuple(results[kept:])

    _, stacks, carry = tf.while_loop(
        lambda i, *_: i < trips, body, (tf.constant(0), stacks, carry), parallel_iterations=1
    )
    return (*(stack.stack() for stack in stacks), *carry)
