"""The TensorFlow operations around the kernels of Numba.

An operation of the graph costs about as much as a small compartment, and cutting a vector up and joining it again
takes several for each. Here one call from the graph walks over all of them, on slices of the flat vectors.
"""

import math
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import inside_xla, tf
from rbd_ipu.directions import dense
from rbd_ipu.directions.native.dense import Launcher, compartment_seeds, empty, plain
from rbd_ipu.directions.native.threads import thread_count
from rbd_ipu.directions.source import Source
from rbd_ipu.directions.stream import DISTRIBUTIONS
from rbd_ipu.seeds import _string_words


class Native(Source):
    """Calls the kernels by ``tf.numpy_function``, in eager mode and in graphs.

    Inside a function that XLA compiles (as Keras 3's ``fit`` does unless told not to) it draws the same numbers by
    the operations of source ``counter``, at their speed. Which of the two a function holds is settled when it is
    traced: a ``tf.function`` traced for a plain graph cannot be called again inside one that XLA compiles.
    """

    jit = False
    takes_later = True

    def __init__(self, groups: int, size: int, dim: int, distribution: str, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = dense.make(groups, size, dim, distribution, normalize)
        self._shapes: Dict[str, Any] = {"coordinates": [groups, dim], "vectors": [groups, size]}
        scale = 1.0
        if normalize == "expected":
            scale = 1.0 / math.sqrt(size * DISTRIBUTIONS.get(distribution).second_moment)
        self.kernels = Launcher(groups, size, dim, distribution, normalize == "unit", scale)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        def draw(seeds: Any, start: Any) -> Any:
            return self.kernels.directions(seeds, int(start), count)

        if inside_xla():
            return self._ops.directions(seeds, start, count)
        groups, size = self._shapes["vectors"]
        return call_from_graph(draw, [seeds, start], [[groups, count, size]])[0]

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.project(vectors, seeds)
        return call_from_graph(self.kernels.project, [vectors, seeds], [self._shapes["coordinates"]])[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.expand(coordinates, seeds)
        return call_from_graph(self.kernels.expand, [coordinates, seeds], [self._shapes["vectors"]])[0]

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.sketch(vectors, seeds)
        shapes = [self._shapes["coordinates"], self._shapes["vectors"]]
        return tuple(call_from_graph(self.kernels.sketch, [vectors, seeds], shapes))


class Later(NamedTuple):
    """An argument of :func:`numpy_call` that is computed within the call: ``function(*arrays)``.

    A call of its own would cost as much as a small basis.
    """

    function: Callable
    tensors: Sequence[Any]


class CompartmentSeeds:
    """The seeds of the compartments of a step, hashed by machine code: int32 [K, 2], in the order of ``members``.

    A program of XLA's would do as well, but TensorFlow 2.6 keeps one for each model that it is a part of.
    """

    def __init__(self, members: Sequence[int]):
        self._members = np.asarray(members, np.int32)
        self._names = np.array([_string_words(name) for name in ("step", "worker", "compartment")], np.int32)

    def __call__(self, seed: Any, step: Any, worker: Any) -> Any:
        """Of int32 tensors: the words of the run's seed [2], step and worker."""
        return call_from_graph(self.hashed, [seed, step, worker], [[len(self._members), 2]], tf.int32)[0]

    def hashed(self, seed: np.ndarray, step: np.ndarray, worker: np.ndarray) -> np.ndarray:
        out = np.empty((len(self._members), 2), np.int32)
        compartment_seeds(plain(seed), np.int32(step), np.int32(worker), self._names, self._members, out)
        return out


def call_from_graph(function: Callable, arguments: Any, shapes: Any, dtype: Any = tf.float32) -> Any:
    """Applies a function of NumPy arrays to tensors; its results are tensors of these shapes."""
    results = numpy_call(function, arguments, [dtype] * len(shapes))
    for result, shape in zip(results, shapes):
        result.set_shape(shape)
    return results


def numpy_call(function: Callable, arguments: Sequence[Any], dtypes: Sequence[Any]) -> List[Any]:
    """``tf.numpy_function`` of tensors and of what is computed from tensors :class:`Later`; a list of results."""
    tensors = [tensor for own in arguments for tensor in (own.tensors if isinstance(own, Later) else [own])]

    def from_arrays(*arrays: np.ndarray) -> Any:
        rest = iter(arrays)
        return function(
            *[a.function(*[next(rest) for _ in a.tensors]) if isinstance(a, Later) else next(rest) for a in arguments]
        )

    plain = not any(isinstance(own, Later) for own in arguments)
    results = tf.numpy_function(function if plain else from_arrays, tensors, dtypes)
    return list(results) if isinstance(results, (list, tuple)) else [results]  # one alone, in eager mode


class Fused:
    """The kernels of all groups of equal compartments, applied to flat vectors in NumPy.

    Args:
      compartments: the cut, with ``start``, ``size`` and ``dim`` of each piece.
      groups: (indices of equal compartments, their launcher); seeds come in this order, [K, 2].
    """

    in_xla = False

    def __init__(self, compartments: Sequence[Any], groups: Sequence[Tuple[List[int], Launcher]]):
        ends = np.cumsum([0] + [piece.dim for piece in compartments])
        self._groups = [
            (
                [slice(compartments[k].start, compartments[k].start + compartments[k].size) for k in members],
                [slice(ends[k], ends[k + 1]) for k in members],
                launcher,
            )
            for members, launcher in groups
        ]
        self.size = sum(piece.size for piece in compartments)
        self.dim = int(ends[-1])

    def run(self, method: str, operand: Any, seeds: Any) -> List[Any]:
        """One operation that calls a method below: tensors [D] or [d], int32 [K, 2] or ``Later`` -> tensors."""
        shapes = {"project": [[self.dim]], "expand": [[self.size]], "sketch": [[self.dim], [self.size]]}[method]
        operand = tf.cast(tf.convert_to_tensor(operand), tf.float32)
        return call_from_graph(getattr(self, method), [operand, seeds], shapes)

    def project(self, vector: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        coordinates = empty(1, self.dim)[0]
        self._each(lambda launcher, v, own: [launcher.project(v, own)], vector, True, seeds, [(coordinates, False)])
        return coordinates

    def expand(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        update = empty(1, self.size)[0]
        self._each(lambda launcher, c, own: [launcher.expand(c, own)], coordinates, False, seeds, [(update, True)])
        return update

    def sketch(self, vector: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, update = empty(1, self.dim)[0], empty(1, self.size)[0]
        results = [(coordinates, False), (update, True)]
        self._each(lambda launcher, v, own: launcher.sketch(v, own), vector, True, seeds, results)
        return coordinates, update

    def _each(
        self,
        apply: Callable,
        operand: np.ndarray,
        full: bool,
        seeds: np.ndarray,
        results: List[Tuple[np.ndarray, bool]],
    ) -> None:
        """Fills ``results`` group by group; a flag beside a vector says whether it is of the full space."""
        first = 0
        for places, ranks, launcher in self._groups:
            stacked = np.stack([operand[piece] for piece in (places if full else ranks)])
            outputs = apply(launcher, stacked, seeds[first : first + len(places)])
            first += len(places)
            for (result, in_full), output in zip(results, outputs):
                for piece, row in zip(places if in_full else ranks, output):
                    result[piece] = row
