"""Subspace: the bases of all compartments, applied to flat parameter vectors in one go.

The seed contract, from the seed of a run to an entry of a direction:

    step seed         fold_in(run seed, "step", t, "worker", w)
    compartment seed  fold_in(step seed, "compartment", k)
    direction key     fold_in(compartment seed, i)
    entry             hash(j, direction key)

t counts the bases drawn so far (0 for ever where the basis is fixed), w workers, k compartments, i directions of
the compartment, j parameters of it.
"""

import functools
from typing import Any, Callable, List, Tuple

from rbd_ipu._stack import inside_xla, tf
from rbd_ipu.basis import check_normalize
from rbd_ipu.compartments import Compartments, parse_scheme
from rbd_ipu.directions import Source, check_distribution, make_source, resolve
from rbd_ipu.seeds import fold_in


class Subspace:
    """P = diag(P_1 ... P_K): an independent random basis for each compartment, drawn anew at each step.

    Every method takes the run's seed, the step and the worker whose basis is meant; all three are traced, so that
    no number of them compiles anything again.

    Args:
      compartments: the cut of the parameter vector; D = compartments.size, d = compartments.dim.
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.

    Raises:
      ValueError: an unknown distribution, normalisation or source, or one that does not fit a compartment.

    Example:
      >>> from rbd_ipu.compartments import Compartments
      >>> subspace = Subspace(Compartments.of([(30, 20), (20,)], "variable", 8))
      >>> subspace.dim, subspace.size, subspace.directions(seed=0, step=3).shape.as_list()
      (8, 620, [8, 620])
    """

    def __init__(
        self,
        compartments: Compartments,
        distribution: str = "normal",
        normalize: str = "unit",
        source: str = "auto",
        orthogonalize: bool = False,
    ):
        self.compartments = compartments
        self.size = compartments.size
        self.dim = compartments.dim
        self.distribution = check_distribution(distribution)
        self.normalize = check_normalize(normalize)
        self.source = resolve(source)
        # Compartments of one size and dimension share a source, and with it every operation.
        self._groups: List[Tuple[List[int], Source]] = [
            (
                members,
                make_source(self.source, len(members), size, dim, distribution, normalize, 0, orthogonalize),
            )
            for (size, dim), members in compartments.groups().items()
        ]
        # Seeds are hashed under XLA, inside the compiled program or in one of their own: as single operations, the
        # rounds of Threefry would take longer than a network.
        jit = all(source.jit for _, source in self._groups)
        self._together = _together(self.source, compartments, self._groups)
        self._seeds = _compile(self._hash_seeds, not jit)
        self._project = _compile(self._project_pieces, jit)
        self._expand = _compile(self._expand_pieces, jit)
        self._sketch = _compile(self._sketch_pieces, jit)
        self._filter = _compile(self._filter_pieces, jit)

    def project(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """c = P^T v: float32 [D] -> [d]."""
        return self._project(vector, *_tensors(seed, step, worker))

    def expand(self, coordinates: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """u = P c: float32 [d] -> [D]."""
        return self._expand(coordinates, *_tensors(seed, step, worker))

    def sketch(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Tuple[Any, Any]:
        """(c, P c) with c = P^T v, in one pass over each direction: [D] -> [d], [D]."""
        return self._sketch(vector, *_tensors(seed, step, worker))

    def filter(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """P P^T v, for those who do not need the coordinates: [D] -> [D]."""
        return self._filter(vector, *_tensors(seed, step, worker))

    def directions(self, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """P^T, dense, zeros outside the compartments: [d, D]. For tests and analysis only."""
        rows: List[Any] = [None] * len(self.compartments)
        seeds = self._seeds(*_tensors(seed, step, worker))
        for (members, source), own in zip(self._groups, seeds):
            drawn = source.directions(own, 0, self.compartments[members[0]].dim)
            for k, block in zip(members, tf.unstack(drawn)):
                piece = self.compartments[k]
                rows[k] = tf.pad(block, [[0, 0], [piece.start, self.size - piece.start - piece.size]])
        return tf.concat(rows, axis=0)

    def _hash_seeds(self, seed: Any, step: Any, worker: Any) -> List[Any]:
        """Seeds of the compartments of each group: int32 [G, 2]."""
        seed = fold_in(seed, "step", step, "worker", worker)
        order = [k for members, _ in self._groups for k in members]
        seeds = fold_in(seed, "compartment", tf.constant(order, tf.int32))
        return tf.split(seeds, [len(members) for members, _ in self._groups])

    def _project_pieces(self, vector: Any, *key: Any) -> Any:
        if self._together and not inside_xla():
            return self._together.run("project", vector, tf.concat(self._seeds(*key), axis=0))[0]
        pieces = _cut(vector, [piece.size for piece in self.compartments])
        return self._each(lambda s, v, seeds: (s.project(v, seeds),), pieces, self._seeds(*key))[0]

    def _expand_pieces(self, coordinates: Any, *key: Any) -> Any:
        if self._together and not inside_xla():
            return self._together.run("expand", coordinates, tf.concat(self._seeds(*key), axis=0))[0]
        pieces = _cut(coordinates, [piece.dim for piece in self.compartments])
        return self._each(lambda s, c, seeds: (s.expand(c, seeds),), pieces, self._seeds(*key))[0]

    def _sketch_pieces(self, vector: Any, *key: Any) -> Tuple[Any, Any]:
        if self._together and not inside_xla():
            c, u = self._together.run("sketch", vector, tf.concat(self._seeds(*key), axis=0))
            return c, u
        pieces = _cut(vector, [piece.size for piece in self.compartments])
        c, u = self._each(lambda s, v, seeds: s.sketch(v, seeds), pieces, self._seeds(*key))
        return c, u

    def _filter_pieces(self, vector: Any, *key: Any) -> Any:
        if self._together and not inside_xla():
            return self._sketch_pieces(vector, *key)[1]
        pieces = _cut(vector, [piece.size for piece in self.compartments])
        return self._each(lambda s, v, seeds: (s.filter(v, seeds),), pieces, self._seeds(*key))[0]

    def _each(self, apply: Callable, pieces: List[Any], seeds: List[Any]) -> List[Any]:
        """Applies a function to every group's stacked pieces; joins each result in compartment order."""
        results: List[List[Any]] = []
        for (members, source), own in zip(self._groups, seeds):
            outputs = apply(source, tf.stack([pieces[k] for k in members]), own)
            results = results or [[None] * len(pieces) for _ in outputs]
            for slot, output in zip(results, outputs):
                for k, row in zip(members, tf.unstack(output)):
                    slot[k] = row
        return [tf.concat(slot, axis=0) for slot in results]


@functools.lru_cache(maxsize=64)
def subspace(
    compartments: Compartments,
    distribution: str,
    normalize: str,
    source: str,
    orthogonalize: bool = False,
) -> Subspace:
    """The subspace with these arguments; equal ones share their compiled programs."""
    return Subspace(compartments, distribution, normalize, source, orthogonalize)


def check_names(distribution: str, scheme: str, normalize: str, source: str) -> None:
    """Refuses unknown names before there are variables to cut up.

    Raises:
      ValueError: quotes the name and the accepted ones.
    """
    check_distribution(distribution)
    parse_scheme(scheme)
    check_normalize(normalize)
    resolve(source)


def _together(name: str, compartments: Compartments, groups: List[Tuple[List[int], Source]]) -> Any:
    """What runs several groups in one operation, where all of them are Numba's; otherwise None."""
    if name != "native" or len(groups) < 2:
        return None
    from rbd_ipu.directions.native.source import Native  # late: it needs Numba
    from rbd_ipu.directions.native.together import Together

    kernels = [(members, source.kernels) for members, source in groups if isinstance(source, Native)]
    return Together(compartments, kernels) if len(kernels) == len(groups) else None


def _compile(function: Callable, jit: bool) -> Callable:
    return tf.function(function, jit_compile=True) if jit else function


def _tensors(seed: Any, step: Any, worker: Any) -> Tuple[Any, Any, Any]:
    """Seed, step and worker as int32 tensors: a Python number would be a constant, and compile anew."""
    return fold_in(seed), tf.cast(step, tf.int32), tf.cast(worker, tf.int32)


def _cut(vector: Any, sizes: List[int]) -> List[Any]:
    return tf.split(vector, sizes) if len(sizes) > 1 else [vector]
