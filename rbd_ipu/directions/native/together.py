"""Compartments of many shapes in one operation of the graph: a network's variables, each with a basis of its own.

An operation of the graph costs about as much as a small compartment, and cutting a vector up and joining it again
takes several for each. Here one call from the graph walks over all of them, on slices of the flat vectors.
"""

from typing import Any, Callable, List, Sequence, Tuple

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.directions.native.launch import Launcher, empty
from rbd_ipu.directions.native.source import call_from_graph


class Together:
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
        """One operation that calls a method below: tensors [D] or [d], int32 [K, 2] -> list of tensors."""
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
