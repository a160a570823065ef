"""Some variables treated otherwise than the rest: the flat vector in two parts, and joined again."""

import fnmatch
from typing import Any, List, Sequence, Tuple

from rbd_ipu._stack import tf
from rbd_ipu.compartments import describe


class Layers:
    """The variables whose name or layer matches one of some patterns, apart from the others.

    Args:
      variables: in the order in which they make the flat vector [D].
      patterns: names or shell patterns of layers or variables, separated by commas: "logits", "conv*/bias, hidden",
        "bias" for all biases.

    Attributes:
      chosen, rest: the variables that match, and the others.

    Raises:
      ValueError: a pattern matches nothing, or nothing is left; the message lists the layers there are.

    Example:
      >>> layers = Layers([(20, 10), (10,), (10, 3)], "layer/1, 2")
      >>> layers.rest, [part.shape.as_list() for part in layers.split(tf.zeros([240]))]
      ([(20, 10)], [[200], [40]])
    """

    def __init__(self, variables: Sequence[Any], patterns: str):
        known = [describe(variable, index) for index, variable in enumerate(variables)]
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        layers = ", ".join(dict.fromkeys(v.layer for v in known))
        for pattern in wanted:
            if not any(_matches(v, pattern) for v in known):
                raise ValueError(f"no layer or variable is called {pattern!r}; the layers are {layers}")
        self._sizes = [v.size for v in known]
        self._marks = [any(_matches(v, pattern) for pattern in wanted) for v in known]
        if all(self._marks):
            raise ValueError(f"{patterns!r} are all variables (of the layers {layers}); none is left for directions")
        self.chosen = [v for v, mark in zip(variables, self._marks) if mark]
        self.rest = [v for v, mark in zip(variables, self._marks) if not mark]

    @property
    def size(self) -> int:
        """How many parameters the chosen variables have."""
        return sum(size for size, mark in zip(self._sizes, self._marks) if mark)

    def split(self, vector: Any) -> Tuple[Any, Any]:
        """(the rest, the chosen): [D] -> [D - n], [n]."""
        pieces = list(zip(tf.split(vector, self._sizes), self._marks))
        return tuple(tf.concat([p for p, mark in pieces if mark is kind], axis=0) for kind in (False, True))

    def join(self, rest: Any, chosen: Any) -> Any:
        """The opposite of :meth:`split`."""
        parts = {}
        for kind, part in ((False, rest), (True, chosen)):
            parts[kind] = iter(tf.split(part, [n for n, mark in zip(self._sizes, self._marks) if mark is kind]))
        pieces: List[Any] = [next(parts[mark]) for mark in self._marks]
        return tf.concat(pieces, axis=0)


def _matches(variable: Any, pattern: str) -> bool:
    """Whether a pattern is a variable's or its layer's name, or the end of one: "bias" of "model/dense/bias"."""
    paths = [name.split("/") for name in (variable.name, variable.layer)]
    ends = ["/".join(path[k:]) for path in paths for k in range(len(path))]
    return any(fnmatch.fnmatchcase(end, pattern) for end in ends)
