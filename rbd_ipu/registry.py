"""Named rows: one table drives the API, the command line's choices and the conformance tests."""

from typing import Any, Callable, Dict, Iterator, Tuple, TypeVar

Row = TypeVar("Row")


class Registry:
    """A table from names to objects that refuses unknown and doubled names.

    Args:
      kind: what a row is, for the messages ("distribution", "method", ...).

    Example:
      >>> colours = Registry("colour")
      >>> colours.register("red")("#f00")
      '#f00'
      >>> colours.get("red")
      '#f00'
      >>> colours.get("blue")
      Traceback (most recent call last):
      ...
      ValueError: unknown colour 'blue'; accepted: 'red'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._rows: Dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Row], Row]:
        """Returns a decorator that adds a row called ``name``."""
        if name in self._rows:
            raise ValueError(f"{self.kind} {name!r} is already registered")

        def add(row: Row) -> Row:
            self._rows[name] = row
            return row

        return add

    def get(self, name: str) -> Any:
        """Returns the row called ``name``; a ValueError quotes what came and what is accepted."""
        if not isinstance(name, str) or name not in self._rows:
            accepted = ", ".join(repr(row) for row in self._rows)
            raise ValueError(f"unknown {self.kind} {name!r}; accepted: {accepted}")
        return self._rows[name]

    def names(self) -> Tuple[str, ...]:
        return tuple(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
