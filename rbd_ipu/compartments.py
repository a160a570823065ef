"""Compartments: the parameter vector cut into pieces with a basis of their own (Section 3.1.1 of the paper).

Each scheme is a pure function from the variables and d to pieces; a row of ``SCHEMES`` makes it public.
"""

import math
import re
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.checks import Registry, positive_int

SCHEMES = Registry("compartment scheme")


class Variable(NamedTuple):
    """What a scheme needs to know of a variable: its name, its layer, and its number of entries."""

    name: str
    layer: str
    size: int


class Compartment(NamedTuple):
    """Entries start ... start + size - 1 of the flat parameter vector, with ``dim`` directions of their own."""

    name: str
    start: int
    size: int
    dim: int


class Compartments(Tuple[Compartment, ...]):
    """A cut of the flat parameter vector: a tuple of :class:`Compartment`, in order, without gaps.

    Attributes:
      size: D, the number of parameters.
      dim: d, the number of coordinates of all compartments together.

    Example:
      >>> cut = Compartments.of([(784, 128), (128,)], "even:2", 10)
      >>> len(cut), cut.size, cut.dim
      (2, 100480, 10)
    """

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self)

    @property
    def dim(self) -> int:
        return sum(piece.dim for piece in self)

    @classmethod
    def of(cls, variables: Iterable[Any], scheme: str = "global", dim: Optional[int] = None) -> "Compartments":
        """Cuts the parameter vector of ``variables``, flattened one after the other, into compartments.

        Args:
          variables: Keras variables, tf.Variables or arrays (anything with a static ``shape``), or plain shapes.
          scheme: one of

            * ``"global"``: one compartment, d directions in R^D.
            * ``"even:K"``: K slices of the flat vector whose sizes differ by at most one, with d / K directions
              each (Fig. 4, B.9).
            * ``"layer"``: one for each layer, d / L directions each (Fig. B.10: five layers with 250 each against
              a global 1250). A layer is told by its path, which is what the names of its variables begin with.
            * ``"variable"``: one for each variable, with equal shares of d.
            * ``"factor:f"``: one for each variable of n entries, with max(ceil(n / f), 10) directions, rounded up
              to an even number (Table 3). d follows from f.

            Where d does not divide evenly, the first compartments get one direction more. Variables without entries
            take no part.
          dim: d, the total number of directions; None (or the very number that follows) for ``"factor:f"``.

        Raises:
          ValueError: no variables, an unknown scheme, fewer directions or parameters than compartments, a d that
            contradicts the scheme, or two layers of one path.
          TypeError: d is missing or not an integer; a variable is not of a real floating type or has no static
            shape, quoted by name.

        Example:
          >>> Compartments.of([(784, 128), (128,), (128, 10), (10,)], "layer", 250)
          Compartments(d=250, D=101770)
            layer/0      start=0       size=100352  dim=63
            layer/1      start=100352  size=128     dim=63
            layer/2      start=100480  size=1280    dim=62
            layer/3      start=101760  size=10      dim=62
        """
        known = [describe(variable, index) for index, variable in enumerate(variables)]
        if not known:
            raise ValueError("there are no trainable variables to cut into compartments")
        if not any(variable.size for variable in known):
            raise ValueError(f"variable {known[0].name!r} has no entries, nor has any other")
        cut, argument = parse_scheme(scheme)
        pieces = cut([variable for variable in known if variable.size], argument, dim)
        starts = [0]
        for _, size, _ in pieces:
            starts.append(starts[-1] + size)
        return cls(Compartment(name, start, size, d) for start, (name, size, d) in zip(starts, pieces))

    def groups(self) -> Dict[Tuple[int, int], List[int]]:
        """Indices of the compartments by (size, dim): equal ones can be worked on together."""
        groups: Dict[Tuple[int, int], List[int]] = {}
        for index, piece in enumerate(self):
            groups.setdefault((piece.size, piece.dim), []).append(index)
        return groups

    def __repr__(self) -> str:
        rows = [f"Compartments(d={self.dim}, D={self.size})"]
        for piece in self:
            rows.append(f"  {piece.name:<12} start={piece.start:<7} size={piece.size:<7} dim={piece.dim}")
        return "\n".join(rows)


Piece = Tuple[str, int, int]  # name, size, dim


@SCHEMES.register("global")
def _global(variables: Sequence[Variable], _: None, dim: Optional[int]) -> List[Piece]:
    return [("global", sum(v.size for v in variables), _total(dim, "global"))]


@SCHEMES.register("even:K")
def _even(variables: Sequence[Variable], count: int, dim: Optional[int]) -> List[Piece]:
    size = sum(v.size for v in variables)
    if count > size:
        raise ValueError(f"'even:{count}' asks for more compartments than the {size} parameters there are")
    sizes, dims = _shares(size, count), _shares(_total(dim, f"even:{count}"), count)
    return [(f"even/{k}", n, d) for k, (n, d) in enumerate(zip(sizes, dims))]


@SCHEMES.register("layer")
def _layer(variables: Sequence[Variable], _: None, dim: Optional[int]) -> List[Piece]:
    sizes: Dict[str, int] = {}
    seen, last = set(), None
    for variable in variables:
        known = "/" in variable.name and variable.name in seen  # others are layers of their own, whatever their names
        if known or variable.layer in sizes and variable.layer != last:
            raise ValueError(
                f"compartments 'layer' tell layers apart by their paths, and there are two of {variable.layer!r} "
                f"(variable {variable.name!r}): give the layers, the models they are in, or the weights in a "
                "layer names of their own"
            )
        seen.add(variable.name)
        sizes[variable.layer] = sizes.get(variable.layer, 0) + variable.size
        last = variable.layer
    dims = _shares(_total(dim, "layer"), len(sizes))
    return [(name, n, d) for (name, n), d in zip(sizes.items(), dims)]


@SCHEMES.register("variable")
def _variable(variables: Sequence[Variable], _: None, dim: Optional[int]) -> List[Piece]:
    dims = _shares(_total(dim, "variable"), len(variables))
    return [(v.name, v.size, d) for v, d in zip(variables, dims)]


@SCHEMES.register("factor:f")
def _factor(variables: Sequence[Variable], factor: int, dim: Optional[int]) -> List[Piece]:
    pieces = []
    for v in variables:
        d = max(math.ceil(v.size / factor), 10)
        pieces.append((v.name, v.size, d + d % 2))
    total = sum(d for _, _, d in pieces)
    if dim is not None and dim != total:
        raise ValueError(
            f"'factor:{factor}' fixes the number of directions at {total}, so dim={dim!r} contradicts it; "
            "leave dim out"
        )
    return pieces


def parse_scheme(scheme: Any) -> Tuple[Callable, Optional[int]]:
    """The scheme's function and its argument: "even:4" -> (_even, 4)."""
    if isinstance(scheme, str):
        if scheme in SCHEMES and ":" not in scheme:
            return SCHEMES.get(scheme), None
        match = re.fullmatch(r"(even|factor):([1-9][0-9]{0,8})", scheme)
        if match:
            row = {"even": "even:K", "factor": "factor:f"}[match.group(1)]
            return SCHEMES.get(row), int(match.group(2))
    accepted = ", ".join(repr(name) for name in SCHEMES)
    raise ValueError(f"unknown compartment scheme {scheme!r}; accepted: {accepted}, with K and f integers >= 1")


def _total(dim: Any, scheme: str) -> int:
    if dim is None:
        raise TypeError(f"compartments {scheme!r} need dim, the total number of directions; got None")
    return positive_int("dim", dim)


def _shares(total: int, count: int) -> List[int]:
    """``total`` in ``count`` shares that differ by at most one, the larger first."""
    if total < count:
        raise ValueError(f"dim={total} is less than the {count} compartments; each needs at least 1")
    share, rest = divmod(total, count)
    return [share + (k < rest) for k in range(count)]


def name_of(variable: Any, index: int) -> str:
    """The path of a variable of either Keras, or its name; its index if it has none."""
    return str(getattr(variable, "path", None) or getattr(variable, "name", None) or index).split(":")[0]


def describe(variable: Any, index: int) -> Variable:
    """Name, layer and size of a variable of either Keras, an array, or a shape."""
    name = name_of(variable, index)
    dtype = getattr(variable, "dtype", "float32")
    dtype = str(getattr(dtype, "name", dtype))
    if "float" not in dtype:
        raise TypeError(f"variable {name!r} is of type {dtype}; random bases are drawn for floating types")
    shape = getattr(variable, "shape", variable)
    dimensions = [shape] if isinstance(shape, int) else list(shape)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in dimensions):
        raise TypeError(f"variable {name!r} needs a static shape, got {shape!r}")
    size = int(math.prod(dimensions))
    # A variable is called <layer>/<weight> by both Keras versions; one that is not is a layer of its own.
    layer, slash, _ = name.rpartition("/")
    return Variable(name, layer if slash else f"layer/{index}", size)
