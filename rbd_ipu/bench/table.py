"""Tables of results: aligned text for the screen, Markdown for the documentation."""

from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from rbd_ipu.bench.cases import KERAS, KERAS_JIT

_LOOPS = {KERAS: " (Keras fit)", KERAS_JIT: " (Keras fit, XLA)"}
Column = Tuple[str, Callable[[Mapping[str, Any]], str]]


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


def _between(pair: Any) -> str:
    return "-" if pair is None else f"{figures(pair[0])} .. {figures(pair[1])}"


def _times(row: Mapping[str, Any]) -> str:
    return "-" if row["ratio_to_sgd"] is None else f"{row['ratio_to_sgd']:.2f}"


def _share(row: Mapping[str, Any]) -> str:
    share = row["share_of_ceiling"]
    return "-" if share is None else f"{100 * share:.0f} %"


def _giga(value: Any) -> str:
    return "-" if value is None else figures(value / 1e9)


def _signed(value: Any) -> str:
    return "-" if value is None else f"{value:+.0f}"


COLUMNS: Dict[str, Column] = {
    "network": ("network", lambda row: row["network"]),
    "method": ("method", lambda row: row["method"] + _LOOPS.get(row["loop"], "")),
    "distribution": ("distribution", lambda row: row["distribution"] or "-"),
    "source": ("source", lambda row: row["source"] or "-"),
    "compartments": ("compartments", lambda row: row["compartments"] or "-"),
    "d": ("d", lambda row: "-" if row["d"] is None else f"{row['d']:,}"),
    "ms": ("ms a step", lambda row: figures(row["ms"])),
    "quartiles": ("quartiles", lambda row: _between(row["ms_quartiles"])),
    "images": ("images/s", lambda row: figures(row["images_per_second"])),
    "sgd": ("x SGD", _times),
    "samples": ("G samples/s", lambda row: _giga(row["samples_per_second"])),
    "share": ("of ceiling", _share),
    "memory": ("MB over SGD", lambda row: _signed(row["peak_mb_over_sgd"])),
}
_WORDS = ("network", "method", "distribution", "source", "compartments")


def columns_for(rows: Sequence[Mapping[str, Any]]) -> List[str]:
    """All columns but those that say nothing here."""
    idle = {
        "distribution": all(row["distribution"] is None for row in rows),
        "source": all(row["source"] is None for row in rows),
        "compartments": all(row["compartments"] in (None, "global") for row in rows),
        "d": all(row["d"] is None for row in rows),
        "samples": all(row["samples_per_second"] is None for row in rows),
        "share": all(row["share_of_ceiling"] is None for row in rows),
        "memory": all(row["peak_mb"] is None for row in rows),
    }
    return [name for name in COLUMNS if not idle.get(name, False)]


def cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> List[List[str]]:
    """A line of headings, then a line for each row."""
    return [[COLUMNS[name][0] for name in names], *([COLUMNS[name][1](row) for name in names] for row in rows)]


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


def render(rows: Sequence[Mapping[str, Any]], style: Callable[..., str] = text) -> str:
    """The table of these rows."""
    names = columns_for(rows)
    return style(cells(rows, names), left=sum(name in _WORDS for name in names))
