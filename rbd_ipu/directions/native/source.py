"""The TensorFlow op around the kernels, and what stands in for it where an op in Python cannot run."""

import math
from typing import Any, Callable, Dict, Sequence

import numpy as np

from rbd_ipu._stack import inside_xla, tf
from rbd_ipu.directions import counter
from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.native.kernels import compartment_seeds
from rbd_ipu.directions.native.launch import Launcher, plain
from rbd_ipu.directions.native.threads import thread_count
from rbd_ipu.directions.sources import Source
from rbd_ipu.seeds import _string_words


class Native(Source):
    """Calls the kernels by ``tf.numpy_function``, in eager mode and in graphs.

    Inside a function that XLA compiles (as Keras 3's ``fit`` does unless told not to) it draws the same numbers by
    the operations of source ``counter``, at their speed. Which of the two a function holds is settled when it is
    traced: a ``tf.function`` traced for a plain graph cannot be called again inside one that XLA compiles.
    """

    jit = False

    def __init__(self, groups: int, size: int, dim: int, distribution: str, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = counter.make(groups, size, dim, distribution, normalize)
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


class CompartmentSeeds:
    """The seeds of the compartments of a step, hashed by machine code: int32 [K, 2], in the order of ``members``.

    A program of XLA's would do as well, but TensorFlow 2.6 keeps one for each model that it is a part of.
    """

    def __init__(self, members: Sequence[int]):
        self._members = np.asarray(members, np.int32)
        self._names = np.array([_string_words(name) for name in ("step", "worker", "compartment")], np.int32)

    def __call__(self, seed: Any, step: Any, worker: Any) -> Any:
        """Of int32 tensors: the words of the run's seed [2], step and worker."""
        return call_from_graph(self._hash, [seed, step, worker], [[len(self._members), 2]], tf.int32)[0]

    def _hash(self, seed: np.ndarray, step: np.ndarray, worker: np.ndarray) -> np.ndarray:
        out = np.empty((len(self._members), 2), np.int32)
        compartment_seeds(plain(seed), np.int32(step), np.int32(worker), self._names, self._members, out)
        return out


def call_from_graph(function: Callable, arguments: Any, shapes: Any, dtype: Any = tf.float32) -> Any:
    """Applies a function of NumPy arrays to tensors; its results are tensors of these shapes."""
    results = tf.numpy_function(function, arguments, [dtype] * len(shapes))
    if not isinstance(results, (list, tuple)):  # one result, in eager mode
        results = [results]
    for result, shape in zip(results, shapes):
        result.set_shape(shape)
    return results
