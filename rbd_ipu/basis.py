"""RandomBasis: d random directions in R^n that are a pure function of a seed.

The projection of Section 3.1 of the paper: coordinates c_i = <v, phi_i>, and back, sum_i c_i phi_i. It is a view of a
:class:`rbd_ipu.subspace.Subspace` with one compartment, whose methods can be differentiated: each one's gradient is
the other, regenerated from the seed. P is linear: d(P c)/dc = P and d(P^T v)/dv = P^T.
"""

import functools
from typing import Any, List, Optional, Tuple

from rbd_ipu._compat import tf
from rbd_ipu.checks import flag, positive_int
from rbd_ipu.compartments import Compartment, Compartments
from rbd_ipu.directions import Compiled, Source, check_distribution, make_source, resolve
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import NORMALIZATIONS, BasisSpec, Subspace, check_normalize

__all__ = ["NORMALIZATIONS", "BasisSpec", "RandomBasis"]


class OneBasis(Subspace):
    """A basis with a seed of its own, which no step, worker or compartment is folded into.

    Args:
      size, dim, distribution, normalize, source, orthogonalize: as for :class:`RandomBasis`.
      rows: directions in a block, 0 for as many as suit.
    """

    def __init__(
        self, size: int, dim: int, distribution: str, normalize: str, source: str, orthogonalize: bool, rows: int
    ):
        self._rows = rows
        cut = Compartments([Compartment("global", 0, size, dim)])
        super().__init__(cut, distribution, normalize, source, orthogonalize)
        self._seeds = self._own
        self._seeds_or_later = self._own  # type: ignore[method-assign, assignment]

    def _source_of(self, groups: int, size: int, dim: int) -> Source:
        kind = (self.distribution, self.normalize, self._rows, self.orthogonalize)
        source = make_source(self.source, groups, size, dim, *kind)
        return Compiled(source) if source.jit else source  # by itself: what is around it may change how XLA rounds

    def _key(self, seed: Any, step: Any, worker: Any) -> Tuple[Any, ...]:
        return (tf.reshape(seed, [1, 2]),)

    def _own(self, seeds: Any) -> List[Any]:
        return [seeds]

    def some(self, seed: Any, start: int, count: int) -> Any:
        """phi_start ... phi_{start + count - 1}: [count, n]."""
        return self._groups[0][1].directions(tf.reshape(seed, [1, 2]), start, count)[0]


#: Equal arguments share one compiled program.
_shared = functools.lru_cache(maxsize=256)(OneBasis)


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
        size, dim = positive_int("size", size), positive_int("dim", dim)
        kind = check_distribution(distribution), check_normalize(normalize), resolve(source)
        orthonormal = flag("orthogonalize", orthogonalize)
        rows = 0 if block is None else min(positive_int("block", block), dim)
        self._space = _shared(size, dim, *kind, orthonormal, rows)

    size = property(lambda self: self._space.size, doc="n, the dimension of the full space.")
    dim = property(lambda self: self._space.dim, doc="d, the number of directions.")
    distribution = property(lambda self: self._space.distribution, doc="Name of the entries' distribution.")
    normalize = property(lambda self: self._space.normalize, doc="How directions are scaled.")
    orthogonalize = property(
        lambda self: self._space.orthogonalize, doc="Whether directions are orthonormal by construction."
    )
    source = property(lambda self: self._space.source, doc="Who draws the directions; never 'auto'.")

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
        return self._space.some(_words(seed), start, count)

    def project(self, vector: Any, seed: Any) -> Any:
        """Coordinates c_i = <vector, phi_i>: vector [size] -> [dim]. Differentiable in the vector.

        Raises:
          ValueError: the vector is not of shape [size].
        """
        words = _words(seed)

        @tf.custom_gradient
        def apply(v: Any) -> Tuple[Any, Any]:
            return self._space.project(_cut_off(v), words), lambda dc: self.expand(dc, words)

        return apply(_vector("vector", vector, self.size))

    def expand(self, coordinates: Any, seed: Any) -> Any:
        """The vector sum_i c_i phi_i: coordinates [dim] -> [size].

        Differentiable in the coordinates: the gradient is :meth:`project`, with the directions drawn again from
        the seed. So ``L(theta + expand(c))`` can be differentiated at c = 0, which is how Section 3.1 of the
        paper defines the coordinates of a step.

        Raises:
          ValueError: the coordinates are not of shape [dim].
        """
        words = _words(seed)

        @tf.custom_gradient
        def apply(c: Any) -> Tuple[Any, Any]:
            return self._space.expand(_cut_off(c), words), lambda dv: self.project(dv, words)

        return apply(_vector("coordinates", coordinates, self.dim))

    def sketch(self, vector: Any, seed: Any) -> Tuple[Any, Any]:
        """``(project(vector), expand(project(vector)))`` in one pass over each direction: [dim], [size].

        Raises:
          ValueError: the vector is not of shape [size].
        """
        words = _words(seed)

        @tf.custom_gradient
        def apply(v: Any) -> Tuple[Any, Any]:
            def gradient(dc: Any, du: Any) -> Any:
                return self.expand(dc + self.project(du, words), words)

            return tuple(self._space.sketch(_cut_off(v), words)), gradient

        return apply(_vector("vector", vector, self.size))


def _cut_off(x: Any) -> Any:
    """x, for a source that no tape may look into: its gradient is known, and XLA cannot differentiate its loops.

    By way of int32, which no tape follows; TensorFlow 2.6 records even tf.stop_gradient.
    """
    return tf.bitcast(tf.bitcast(x, tf.int32), tf.float32)


def _words(seed: Any) -> Any:
    """One seed as int32 [2]."""
    words = fold_in(seed)
    if not words.shape.is_compatible_with([2]):
        raise TypeError(f"a seed must be an int or int32 [2], got shape {words.shape.as_list()}")
    return words


def _vector(name: str, value: Any, length: int) -> Any:
    """A vector of the wanted length as float32 [length]."""
    tensor = tf.convert_to_tensor(value)
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(f"{name} must be real numbers of shape [{length}], got {tensor.dtype.name}")
    if not tensor.shape.is_compatible_with([length]):
        raise ValueError(f"{name} must have shape [{length}], got {tensor.shape.as_list()}")
    return tf.reshape(tf.cast(tensor, tf.float32), [length])
