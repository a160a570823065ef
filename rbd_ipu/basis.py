"""RandomBasis: d random directions in R^n that are a pure function of a seed.

The projection of Section 3.1 of the paper: coordinates c_i = <v, phi_i>, and back, sum_i c_i phi_i. The n x d
matrix P = [phi_1 ... phi_d] is never stored; directions are drawn block by block and drawn again when they are
needed again.
"""

import dataclasses
import functools
from typing import Any, Dict, Optional, Tuple

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.checks import flag, positive_int
from rbd_ipu.compartments import parse_scheme
from rbd_ipu.directions import Compiled, check_distribution, make_source, resolve
from rbd_ipu.seeds import fold_in

NORMALIZATIONS = ("unit", "expected", "none")


def check_normalize(normalize: Any) -> str:
    """Refuses unknown normalisations, quoting the accepted ones."""
    if normalize not in NORMALIZATIONS:
        accepted = ", ".join(repr(name) for name in NORMALIZATIONS)
        raise ValueError(f"unknown normalize {normalize!r}; accepted: {accepted}")
    return normalize


@dataclasses.dataclass(frozen=True)
class BasisSpec:
    """Which random bases: the one list of what configs, optimizers, methods and the command line pass on.

    Attributes:
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      distribution: what directions are drawn from, see :class:`rbd_ipu.RandomBasis`.
      compartments: how the parameters are cut up, a scheme of :meth:`rbd_ipu.Compartments.of`.
      normalize: "unit", "expected" or "none".
      source: who draws them.
      orthogonalize: whether the directions of a basis are made orthonormal.
      redraw_every: how many steps a basis serves.
      seed: an int of at most 64 bits; the bases are a pure function of it.

    Raises:
      TypeError, ValueError: one of them is wrong; quotes it and what is accepted. Whether the scheme and d fit a
        model is seen when there is one.

    Example:
      >>> spec = BasisSpec(dim=250, distribution="hadamard")
      >>> spec.redraw_every, spec.compartments
      (1, 'global')
    """

    dim: Optional[int] = None
    distribution: str = "normal"
    compartments: str = "global"
    normalize: str = "unit"
    source: str = "auto"
    orthogonalize: bool = False
    redraw_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        keep = functools.partial(object.__setattr__, self)  # as plain ints: it goes into files
        if self.dim is not None:
            keep("dim", checks.positive_int("dim", self.dim))
        keep("redraw_every", checks.positive_int("redraw_every", self.redraw_every))
        keep("seed", checks.seed(self.seed))
        keep("orthogonalize", checks.flag("orthogonalize", self.orthogonalize))
        check_distribution(self.distribution)
        parse_scheme(self.compartments)
        check_normalize(self.normalize)
        resolve(self.source)

    @classmethod
    def names(cls) -> Tuple[str, ...]:
        """The names of all attributes, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def as_dict(self) -> Dict[str, Any]:
        """All attributes by name."""
        return dataclasses.asdict(self)

    def index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return step // self.redraw_every


@functools.lru_cache(maxsize=256)
def _source(name: str, *arguments: Any) -> Any:
    """A source, compiled where it wants to be; equal arguments share one compiled program."""
    source = make_source(name, *arguments)
    return Compiled(source) if source.jit else source


class BasisGroup:
    """G independent bases of one size and dimension, worked on as one; the batched core of RandomBasis.

    ``project`` and ``expand`` are differentiable, each one's gradient being the other, regenerated from the
    seeds: P is linear, d(P c)/dc = P and d(P^T v)/dv = P^T.

    Shapes: vectors [G, n], coordinates [G, d], seeds int32 [G, 2].
    """

    def __init__(
        self,
        groups: int,
        size: int,
        dim: int,
        distribution: str = "normal",
        normalize: str = "unit",
        source: str = "auto",
        block: Optional[int] = None,
        orthogonalize: bool = False,
    ):
        self.groups = groups
        self.size = positive_int("size", size)
        self.dim = positive_int("dim", dim)
        self.distribution = check_distribution(distribution)
        self.normalize = check_normalize(normalize)
        self.source = resolve(source)
        self.orthogonalize = flag("orthogonalize", orthogonalize)
        rows = 0 if block is None else min(positive_int("block", block), self.dim)
        self._source = _source(
            self.source, groups, self.size, self.dim, self.distribution, normalize, rows, orthogonalize
        )

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        """phi_start ... phi_{start + count - 1} of every group: [G, count, n]."""
        return self._source.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        """c_i = <v, phi_i>: [G, d]."""

        @tf.custom_gradient
        def apply(v: Any) -> Tuple[Any, Any]:
            return self._source.project(_cut_off(v), seeds), lambda dc: self.expand(dc, seeds)

        return apply(vectors)

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        """sum_i c_i phi_i: [G, n]."""

        @tf.custom_gradient
        def apply(c: Any) -> Tuple[Any, Any]:
            return self._source.expand(_cut_off(c), seeds), lambda dv: self.project(dv, seeds)

        return apply(coordinates)

    def sketch(self, vectors: Any, seeds: Any) -> Tuple[Any, Any]:
        """c = P^T v and P c, in one pass over each direction."""

        @tf.custom_gradient
        def apply(v: Any) -> Tuple[Any, Any]:
            def gradient(dc: Any, du: Any) -> Any:
                return self.expand(dc + self.project(du, seeds), seeds)

            return self._source.sketch(_cut_off(v), seeds), gradient

        return apply(vectors)


class RandomBasis:
    """d random directions phi_1 ... phi_d in R^n, regenerated from a seed whenever they are used.

    Args:
      size: n, the dimension of the full space; an integer >= 1.
      dim: d, the number of directions; an integer >= 1, which may exceed n.
      distribution: of the entries: "normal", "uniform", "rademacher" or "bernoulli-0.5"; or one whose directions
        are made as a whole: "hadamard" (orthogonal directions, at a cost that does not depend on d; d up to the
        padded size, see ``directions/hadamard``) or "sparse", "sparse:s" (one entry in s is not 0).
      normalize: "unit": each direction is divided by its norm. "expected": by its root mean square norm
        sqrt(n E[x^2]), one constant, so that E[P P^T] = (d / n) I exactly. "none": not at all; then a learning
        rate divided by n is what the first public implementation calls normalised.
      source: "counter": integer TensorFlow operations, on any device. "native": machine code on all cores of a
        CPU, which needs Numba (extra ``native``); RBD_NUM_THREADS limits its threads. "auto": "native" where
        TensorFlow sees CPUs only and Numba can be imported, else "counter". The two draw the same numbers. "poprand":
        the random generator of the device, with numbers of its own; on an IPU it is what "auto" stands for.
      block: how many directions "counter" draws at a time; chosen by size where it is None. Memory is
        O(block * size); results do not depend on it but for rounding. "native" draws one by one.
      orthogonalize: make the directions orthonormal, so that P P^T is the orthogonal projection onto their span;
        for normal, uniform and rademacher entries of unit norm, d <= min(n, 1024). Costs d^2 n operations.

    Raises:
      TypeError, ValueError: an argument is not as above; the message quotes it and what is accepted.

    Example:
      >>> import numpy as np, rbd_ipu
      >>> basis = rbd_ipu.RandomBasis(size=1000, dim=10)
      >>> gradient = np.ones(1000, np.float32)
      >>> coordinates, update = basis.sketch(gradient, seed=rbd_ipu.fold_in(0, "step", 7))
      >>> coordinates.shape.as_list(), update.shape.as_list()
      ([10], [1000])
      >>> P = basis.directions(rbd_ipu.fold_in(0, "step", 7)).numpy()      # [10, 1000], the same directions
      >>> bool(np.allclose(P @ gradient, coordinates, atol=1e-4))
      True
    """

    def __init__(
        self,
        size: int,
        dim: int,
        distribution: str = "normal",
        normalize: str = "unit",
        source: str = "auto",
        block: Optional[int] = None,
        orthogonalize: bool = False,
    ):
        self._group = BasisGroup(1, size, dim, distribution, normalize, source, block, orthogonalize)

    size = property(lambda self: self._group.size, doc="n, the dimension of the full space.")
    dim = property(lambda self: self._group.dim, doc="d, the number of directions.")
    distribution = property(lambda self: self._group.distribution, doc="Name of the entries' distribution.")
    normalize = property(lambda self: self._group.normalize, doc="How directions are scaled.")
    orthogonalize = property(
        lambda self: self._group.orthogonalize, doc="Whether directions are orthonormal by construction."
    )
    source = property(lambda self: self._group.source, doc="Who draws the directions; never 'auto'.")

    def __repr__(self) -> str:
        return (
            f"RandomBasis(size={self.size}, dim={self.dim}, distribution={self.distribution!r}, "
            f"normalize={self.normalize!r}, source={self.source!r})"
        )

    def directions(self, seed: Any, start: int = 0, count: Optional[int] = None) -> Any:
        """phi_start ... phi_{start + count - 1} as the rows of a [count, size] tensor.

        For tests and analysis: this is the only method that holds more than a block in memory.

        Raises:
          ValueError: the range does not lie in 0 ... dim.
        """
        count = self.dim - start if count is None else count
        if start < 0 or count < 1 or start + count > self.dim:
            raise ValueError(f"directions {start} to {start + count} asked for, but the basis has 0 to {self.dim}")
        return self._group.directions(_seeds(seed), start, count)[0]

    def project(self, vector: Any, seed: Any) -> Any:
        """Coordinates c_i = <vector, phi_i>: vector [size] -> [dim]. Differentiable in the vector.

        Raises:
          ValueError: the vector is not of shape [size].
        """
        return self._group.project(_row("vector", vector, self.size), _seeds(seed))[0]

    def expand(self, coordinates: Any, seed: Any) -> Any:
        """The vector sum_i c_i phi_i: coordinates [dim] -> [size].

        Differentiable in the coordinates: the gradient is :meth:`project`, with the directions drawn again from
        the seed. So ``L(theta + expand(c))`` can be differentiated at c = 0, which is how Section 3.1 of the
        paper defines the coordinates of a step.

        Raises:
          ValueError: the coordinates are not of shape [dim].
        """
        return self._group.expand(_row("coordinates", coordinates, self.dim), _seeds(seed))[0]

    def sketch(self, vector: Any, seed: Any) -> Tuple[Any, Any]:
        """``(project(vector), expand(project(vector)))`` in one pass over each direction: [dim], [size].

        Raises:
          ValueError: the vector is not of shape [size].
        """
        coordinates, update = self._group.sketch(_row("vector", vector, self.size), _seeds(seed))
        return coordinates[0], update[0]


def _cut_off(x: Any) -> Any:
    """x, for a source that no tape may look into: its gradient is known, and XLA cannot differentiate its loops.

    By way of int32, which no tape follows; TensorFlow 2.6 records even tf.stop_gradient.
    """
    return tf.bitcast(tf.bitcast(x, tf.int32), tf.float32)


def _seeds(seed: Any) -> Any:
    """One seed as [1, 2]."""
    words = fold_in(seed)
    if not words.shape.is_compatible_with([2]):
        raise TypeError(f"a seed must be an int or int32 [2], got shape {words.shape.as_list()}")
    return tf.reshape(words, [1, 2])


def _row(name: str, value: Any, length: int) -> Any:
    """A vector of the wanted length as float32 [1, length]."""
    tensor = tf.convert_to_tensor(value)
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(f"{name} must be real numbers of shape [{length}], got {tensor.dtype.name}")
    if not tensor.shape.is_compatible_with([length]):
        raise ValueError(f"{name} must have shape [{length}], got {tensor.shape.as_list()}")
    return tf.reshape(tf.cast(tensor, tf.float32), [1, length])
