"""A subspace in which each direction is drawn anew when its own time has come, and not all at once."""

import functools
from typing import Any, List

from rbd_ipu._stack import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import DISTRIBUTIONS, Source
from rbd_ipu.directions.counter import BLOCK_FLOATS, Keyed
from rbd_ipu.directions.hashing import schedule
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import Subspace


class RedrawnSubspace(Subspace):
    """Takes the numbers of draws of all directions, int32 [d], where :class:`Subspace` takes a step.

    The seed contract, for direction i of compartment k after n draws of it:

        direction key     fold_in(run seed, "redrawn", "worker", w, "compartment", k, i, n)

    Directions are drawn by the source ``counter``, on any device.

    Args:
      compartments, distribution, normalize: as for :class:`Subspace`; the distribution must be drawn entry by entry.

    Example:
      >>> from rbd_ipu.compartments import Compartments
      >>> space = RedrawnSubspace(Compartments.of([(30,)], "global", 2))
      >>> before, after = (space.directions(0, tf.constant(draws)).numpy() for draws in ([0, 0], [0, 1]))
      >>> (before == after).all(axis=1).tolist()
      [True, False]
    """

    def __init__(self, compartments: Compartments, distribution: str = "normal", normalize: str = "unit"):
        super().__init__(compartments, distribution, normalize, "counter")

    def _source_of(self, groups: int, size: int, dim: int) -> Source:
        rows = max(1, min(dim, BLOCK_FLOATS // (groups * size)))
        return Keyed(groups, size, dim, DISTRIBUTIONS.get(self.distribution), self.normalize, rows)

    def _hash_seeds(self, seed: Any, draws: Any, worker: Any) -> List[Any]:
        """Keys of the directions of each group: int32 [G, d, 2]."""
        seed = fold_in(seed, "redrawn", "worker", worker)
        counts = tf.split(draws, [piece.dim for piece in self.compartments])
        keys = []
        for members, _ in self._groups:
            draws_here = tf.stack([counts[k] for k in members])  # [G, d]
            own = fold_in(seed, "compartment", tf.constant(members, tf.int32))[:, tf.newaxis, :]
            keys.append(schedule(fold_in(own, tf.range(draws_here.shape[1]), draws_here)))
        return keys


@functools.lru_cache(maxsize=64)
def redrawn(compartments: Compartments, distribution: str, normalize: str) -> RedrawnSubspace:
    """The subspace with these arguments; equal ones share their compiled programs."""
    return RedrawnSubspace(compartments, distribution, normalize)
