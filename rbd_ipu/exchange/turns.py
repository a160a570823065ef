"""Workers that take turns with one model, without one finding what another has left in it."""

import contextlib
from typing import Any, Iterator, List, Sequence

from rbd_ipu._stack import tf


class Turns:
    """What a model keeps beside its weights, such as the moving statistics of batch normalisation.

    Every worker finds what the first one found, and in the end what the first one left is there: so it is with real
    workers, who all take over worker 0's.

    Args:
      variables: all of it, at the beginning of the step.
    """

    def __init__(self, variables: Sequence[Any]):
        self._variables = list(variables)
        self._found = [tf.identity(variable) for variable in self._variables]
        self._left: List[Any] = []

    @contextlib.contextmanager
    def turn(self, i: int) -> Iterator[None]:
        """The time in which the i-th worker has the model, in a traced function."""
        if i:
            self._assign(self._found)
        yield
        if i:
            self._assign(self._left)
        else:
            self._left = [tf.identity(variable) for variable in self._variables]

    def _assign(self, values: Sequence[Any]) -> None:
        for variable, value in zip(self._variables, values):
            variable.assign(value)
