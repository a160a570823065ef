"""A grid as aligned text, Markdown, CSV or LaTeX."""

import csv
import io
import re
import textwrap
from typing import Callable, Dict, List

from rbd_ipu.bench import table as tables
from rbd_ipu.paper.table import Grid


def text(grid: Grid) -> str:
    """For the screen."""
    notes = [textwrap.fill(note, 110, subsequent_indent="  ") for note in grid.notes]
    return "\n".join([grid.title, "", tables.text(grid.lines, left=1), "", *notes])


def markdown(grid: Grid) -> str:
    """A heading, a table and a list of notes."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in grid.lines]
    notes = [f"- {note}" for note in grid.notes]
    return "\n".join([f"### {grid.title}", "", tables.markdown(lines, left=1), "", *notes])


def comma_separated(grid: Grid) -> str:
    """The long form: a line for each cell and value, numbers unrounded, nothing where nothing is known."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(grid.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(grid.records)
    return out.getvalue().rstrip("\n")


_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_ESCAPES.update({character: "\\" + character for character in "&%$#_{}"})
_SPECIAL = re.compile("[" + re.escape("".join(_ESCAPES)) + "]")


def _escaped(words: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPES[match.group()], words)


def latex(grid: Grid) -> str:
    """A table environment in plain LaTeX, notes below."""
    lines: List[List[str]] = [[_escaped(cell) for cell in line] for line in grid.lines]
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(grid.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_escaped(note)}" for note in grid.notes),
            r"\end{table}",
        ]
    )


#: By the name that ``--format`` takes: the writer, and the ending of a file.
FORMATS: Dict[str, Callable[[Grid], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}
ENDINGS = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}
