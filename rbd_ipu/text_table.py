"""Tables of results: aligned text for the screen, Markdown for the documentation."""

from typing import Any, Sequence


def figures(value: Any, digits: int = 3) -> str:
    """A number with so many significant figures, without an exponent; "-" for None.

    Example:
      >>> figures(0.012345), figures(2.7183), figures(155.2), figures(11700.0), figures(None)
      ('0.0123', '2.72', '155', '11,700', '-')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    places = digits - 1 - exponent
    return f"{round(value, places):,.{max(0, places)}f}"


def text(lines: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns; the first ``left`` to the left, numbers to the right.

    Example:
      >>> print(text([["case", "ms"], ["sgd", "2.7"], ["rbd", "10.1"]], left=1))
      case    ms
      sgd    2.7
      rbd   10.1
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = (
        "  ".join(f"{cell:<{width}}" if i < left else f"{cell:>{width}}" for i, (cell, width) in enumerate(columns))
        for columns in (list(zip(line, widths)) for line in lines)
    )
    return "\n".join(line.rstrip() for line in aligned)


def markdown(lines: Sequence[Sequence[str]], left: int) -> str:
    """The same as a Markdown table."""
    rule = ["---" if i < left else "--:" for i in range(len(lines[0]))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
