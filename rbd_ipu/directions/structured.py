"""Structured distributions, whose directions are made as a whole, and the one place where sources are made.

A row of ``DISTRIBUTIONS`` says how bits become an entry, and every source can draw it. A row of ``STRUCTURED`` is
faster than drawing its entries one by one, so it brings sources of its own.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

from rbd_ipu.directions.distributions import DISTRIBUTIONS
from rbd_ipu.directions.sources import SOURCES, Source
from rbd_ipu.registry import Registry

STRUCTURED = Registry("distribution")


class Structure(NamedTuple):
    """One row.

    Attributes:
      name: as users write it; "name:x" where it takes a parameter x.
      make: (source, groups, size, dim, normalize, rows, parameter) -> Source; a ValueError says why not.
      parse: the text of a parameter -> its value, or None if there is no parameter to take.
      about: one line for the documentation.
    """

    name: str
    make: Callable[..., Source]
    parse: Optional[Callable[[str], Any]]
    about: str


def distribution_names() -> Tuple[str, ...]:
    """All distributions, as users write them."""
    return (*DISTRIBUTIONS.names(), *STRUCTURED.names())


def check_distribution(distribution: Any) -> str:
    """``distribution`` if it names one.

    Raises:
      ValueError: it does not, or its parameter is wrong; quotes it and what is accepted.
    """
    if distribution not in DISTRIBUTIONS:
        _structure(distribution)
    return distribution


def _structure(distribution: Any) -> Tuple[Structure, Any]:
    """Row and parameter of a structured distribution."""
    name, colon, text = distribution.partition(":") if isinstance(distribution, str) else ("", "", "")
    if name not in STRUCTURED:
        accepted = ", ".join(repr(row) for row in distribution_names())
        raise ValueError(f"unknown distribution {distribution!r}; accepted: {accepted}")
    row = STRUCTURED.get(name)
    if not colon:
        return row, None
    if row.parse is None:
        raise ValueError(f"distribution {name!r} takes no parameter, got {distribution!r}")
    return row, row.parse(text)


def make_source(
    source: str,
    groups: int,
    size: int,
    dim: int,
    distribution: str,
    normalize: str,
    rows: int = 0,
    orthogonalize: bool = False,
) -> Source:
    """The source of G bases of ``dim`` directions in R^size.

    Args:
      source: a row of ``SOURCES``, or "poprand:B"; a structured distribution runs on what that source runs on.
      rows: directions in a block, 0 for as many as suit.
      orthogonalize: whether the directions of a basis are made orthonormal.

    Raises:
      ValueError: such a basis makes no sense; the message says why.
    """
    if orthogonalize:
        from rbd_ipu.directions.orthogonal import make  # late: it is rarely wanted

        return make(groups, size, dim, distribution, normalize)
    source, _, entries = source.partition(":")
    if distribution in DISTRIBUTIONS:
        parameters = {"entries": int(entries)} if entries else {}
        return SOURCES.get(source)(groups, size, dim, distribution, normalize, rows, **parameters)
    row, parameter = _structure(distribution)
    return row.make(source, groups, size, dim, normalize, rows, parameter)
