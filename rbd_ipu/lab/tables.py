"""Tables and figures of the paper: numbers beside ours, as text, Markdown, LaTeX and CSV, and in panels of curves.

A figure shows a value by epoch, or by a setting on the axis, with the deviation of the seeds. One table is of this
package alone: what RBD is, SGD at the rate lr d/D, less what the noise of the projection costs.
"""

import csv
import io
import math
import re
import textwrap
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import text_table as tables
from rbd_ipu.config.resolve import rates_on_record
from rbd_ipu.lab import presets
from rbd_ipu.lab.measures import Index, Measured, brackets, measure
from rbd_ipu.lab.presets import NAMED, Cell, Preset, cells
from rbd_ipu.lab.results import VALUES, Mean, Row, merge, ours, parameters, printed
from rbd_ipu.lab.tuning import Search
from rbd_ipu.plots import PAPER, Line, Panel, statistics_of

NOT_MEASURED = "not measured"
Found = Mapping[Tuple[str, str], Tuple[Cell, Measured]]


class Grid(NamedTuple):
    """A table in texts, with what is needed to read it.

    Attributes:
      title: one line.
      lines: the heading, then the rows; the first column names them.
      notes: sentences below.
      records: the same in long form, a mapping for each cell and value.
    """

    title: str
    lines: List[List[str]]
    notes: List[str]
    records: List[Dict[str, Any]]


def grid(preset: Preset, cells: Sequence[Cell], index: Index) -> Grid:
    """The grid of a preset that trains: a column for each column and value, and beside it one of the paper.

    The points of a figure go down the page, unless it has more lines than points.
    """
    rates = [found.words() for found in brackets(preset, cells, index)] if preset.best else []
    if preset.kind == "points" and len(preset.rows) <= len(preset.columns):
        preset = preset._replace(rows=preset.columns, columns=preset.rows)
        cells = [cell._replace(row=cell.column, column=cell.row) for cell in cells]
    found = {(cell.row, cell.column): (cell, measure(cell, index)) for cell in cells}
    heads = [(column, value) for column in preset.columns for value in preset.values]
    with_paper = {(cell.column, value) for cell in cells for value in cell.paper}
    lines = [[preset.axis]]
    for head in heads:
        lines[0] += [_heading(preset, *head)] + ([f"{_heading(preset, *head)}, paper"] if head in with_paper else [])
    footnotes: Dict[str, str] = {}
    records = []
    for row in preset.rows:
        line = [row]
        for head in heads:
            cell, measured = found.get((row, head[0]), (None, None))
            if cell is None or measured is None:
                line += [""] * (1 + (head in with_paper))
                continue
            text = _ours(head[1], measured) + _share(preset, found, row, head, measured)
            line.append(text + _footnote(footnotes, measured))
            if head in with_paper:
                line.append(_theirs(preset, cell, head[1]))
            records.append(_record(preset, cell, measured, head[1]))
        lines.append(line)
    notes = [f"{mark} {words}" for words, mark in footnotes.items()]
    if any(mean.n > 1 for _, measured in found.values() for mean in measured.means.values()):
        notes.append("Mean ± standard deviation over the seeds; numbers of the paper as printed.")
    notes += _provenance([row for _, measured in found.values() for row in measured.rows])
    return Grid(f"{preset.source}: {preset.title}", lines, rates + notes + preset.notes, records)


def _provenance(rows: Sequence[Row]) -> List[str]:
    """Where the runs were made: a sentence for each commit, machine and stack."""
    places: Dict[str, int] = {}
    for row in merge(rows):
        machine, versions = row.get("machine") or {}, row.get("versions") or {}
        commit = (row.get("commit") or "unknown")[:7] + (" with changes" if row.get("modified") else "")
        where = f"{machine.get('processor')}, {machine.get('usable_cores')} cores"
        place = f"commit {commit}, {where}, TensorFlow {versions.get('tensorflow')}"
        places[place] = places.get(place, 0) + 1
    return [f"{_runs(count)}: {place}." for place, count in places.items()] + _data(merge(rows))


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _data(rows: Sequence[Row]) -> List[str]:
    """What was trained on: a sentence for each data set and copy of it, by the SHA-256 of its files."""
    copies: Dict[str, int] = {}
    for row in rows:
        sums = ", ".join(f"{name} {digest[:8]}" for name, digest in sorted((row.get("data") or {}).items()))
        copy = f"{row['settings']['dataset']}, {sums or 'files not on record'}"
        copies[copy] = copies.get(copy, 0) + 1
    return [f"Data of {_runs(count)}: {copy}." for copy, count in sorted(copies.items())]


def _heading(preset: Preset, column: str, value: str) -> str:
    if len(preset.values) == 1:
        return column
    heading = VALUES[value].heading
    return heading if len(preset.columns) == 1 else f"{column}, {heading}"


def _ours(value: str, measured: Measured) -> str:
    if value in measured.means:
        return ours(value, measured.means[value])
    if measured.diverged:
        return "diverged"
    return "-" if measured.rows else NOT_MEASURED


def _share(preset: Preset, found: Found, row: str, head: Tuple[str, str], own: Measured) -> str:
    """The fraction of another column's mean, in brackets, as the paper prints it; only for equal epochs."""
    column, value = head
    if preset.relative_to in (None, column) or (row, preset.relative_to) not in found:
        return ""
    base = found[row, preset.relative_to or ""][1]
    if value not in own.means or value not in base.means or base.epochs != own.epochs:
        return ""
    return f" ({own.means[value].mean / base.means[value].mean:.2f})"


def _theirs(preset: Preset, cell: Cell, value: str) -> str:
    text = printed(cell.paper.get(value))
    share = cell.paper.get("relative")
    return f"{text} ({share})" if share is not None and value == preset.values[0] else text


def _footnote(footnotes: Dict[str, str], measured: Measured) -> str:
    if not measured.marks:
        return ""
    words = "; ".join(measured.marks)
    mark = footnotes.setdefault(words, f"[{len(footnotes) + 1}]")
    return f" {mark}"


def _record(preset: Preset, cell: Cell, measured: Measured, value: str) -> Dict[str, Any]:
    mean = measured.means.get(value)
    paper = cell.paper.get(value)
    their_mean, their_std = (float(part) for part in paper) if isinstance(paper, list) else (paper, None)
    first = measured.rows[0] if measured.rows else {}
    return {
        "preset": preset.name,
        "row": cell.row,
        "column": cell.column,
        "value": value,
        "mean": mean.mean if mean else None,
        "std": mean.std if mean else None,
        "n": mean.n if mean else 0,
        "epochs": measured.epochs if mean else None,
        "paper_mean": their_mean,
        "paper_std": their_std,
        "marks": "; ".join(measured.marks),
        "state": _state(measured, bool(mean)),
        "learning_rate": cell.configs[0].learning_rate if cell.configs else None,
        "seconds": sum(row["seconds"] for row in measured.rows) if mean else None,
        "commit": first.get("commit"),
    }


def _state(measured: Measured, known: bool) -> str:
    if known:
        return "measured"
    return "diverged" if measured.diverged else NOT_MEASURED


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


_BATCH = 5  # 2**5 = 32: the paper's SGD rates are those before a factor of the batch size


def grid_of_rates(preset: Preset, searches: Optional[Mapping[Any, Search]] = None) -> Grid:
    """The grid: for every method our exponent and the paper's, and below where ours come from.

    Args:
      preset: Table 4.
      searches: those of :mod:`rbd_ipu.lab.tuning` by (row, column); where one has ended, its choice counts.
    """
    paper = {(entry.row, entry.column): entry.paper.get("exponent") for entry in preset.cells}
    lines: List[List[str]] = [["", *(text for column in preset.columns for text in (column, f"{column}, paper"))]]
    records: List[Dict[str, Any]] = []
    sources: Dict[str, int] = {}
    for row, row_settings in preset.rows.items():
        line = [row]
        for column, column_settings in preset.columns.items():
            settings = {**row_settings, **column_settings}
            rate, source = _ours_of_rates((searches or {}).get((row, column)), settings)
            printed = paper.get((row, column))
            text = "not on record"
            if rate is not None:
                text = f"{exponent(rate)} [{sources.setdefault(source, len(sources) + 1)}]"
            line += [text, _printed(printed, column)]
            records.append(
                {
                    "preset": preset.name,
                    "row": row,
                    "column": column,
                    "exponent": None if rate is None else math.log2(rate),
                    "paper_exponent": printed,
                    "source": source,
                }
            )
        lines.append(line)
    notes = [f"[{number}] {source}" for source, number in sources.items()]
    return Grid(f"{preset.source}: {preset.title}", lines, notes + preset.notes, records)


def _ours_of_rates(search: Optional[Search], settings: Mapping[str, Any]) -> Tuple[Optional[float], str]:
    choice = search.choice() if search else None
    if search and choice:
        config = search.config
        tiny = f" on {config.dataset}" if config.dataset != settings["dataset"] else ""
        epochs = f"{config.epochs} epoch{'' if config.epochs == 1 else 's'}"
        return choice["learning_rate"], f"rbd-ipu tune{tiny}, {epochs}, seed {config.seed}"
    place = tuple(settings.get(key) for key in ("dataset", "network", "method", "dim"))
    rate = rates_on_record().get(place)  # type: ignore[arg-type]
    return (None, "") if rate is None else (float(rate.learning_rate), rate.source)


def exponent(rate: float) -> str:
    """k of a rate 2**k; of others to two places.

    Example:
      >>> exponent(0.125), exponent(3.0)
      ('-3', '1.58')
    """
    power = math.log2(rate)
    return f"{power:.0f}" if power == round(power) else f"{power:.2f}"


def _printed(printed: Any, column: str) -> str:
    if printed is None:
        return "-"
    return f"{printed} (in use: {printed + _BATCH})" if column == "SGD" else str(printed)


def panels(preset: Preset, cells: Sequence[Cell], index: Index) -> List[Panel]:
    """What a figure shows, in numbers: for curves a panel a row, for points a panel a value."""
    found = [(cell, measure(cell, index)) for cell in cells]
    if preset.kind == "points":
        return [_points(preset, found, value) for value in preset.values]
    value = preset.values[0]
    rows = {row: [pair for pair in found if pair[0].row == row] for row in preset.rows}
    label = VALUES[value].label
    return [Panel(row, "epoch", label, _curves(own, value)) for row, own in rows.items()]


def _curves(found: Sequence[Tuple[Cell, Measured]], value: str) -> List[Line]:
    lines = []
    for cell, measured in found:
        theirs = cell.paper.get(value)
        if theirs is not None:
            printed, deviation = map(float, theirs if isinstance(theirs, list) else [theirs, 0.0])
            end = [float(cell.full[0].epochs)]
            lines.append(Line(cell.column + PAPER, end, [printed], [deviation], None, 0))
        runs = [row["curves"][value] for row in measured.rows if value in row["curves"]]
        if runs:
            mean, std = statistics_of(VALUES[value].scale * np.array(runs, dtype=float))
            x = [float(epoch) for epoch in range(1, len(mean) + 1)]
            switch = getattr(cell.configs[0], "switch_epoch", None)
            lines.append(Line(cell.column, x, mean, std, switch, len(runs)))
    return lines if any(line.n for line in lines) else []


def _points(preset: Preset, found: Sequence[Tuple[Cell, Measured]], value: str) -> Panel:
    """A line for each row; points of other numbers of epochs or seeds are no points of one line."""
    lines = []
    for row in preset.rows:
        groups: Dict[Tuple[int, int], List[Tuple[float, Mean]]] = {}
        for cell, m in found:
            if cell.row == row and value in m.means:
                mean = m.means[value]
                groups.setdefault((m.epochs, mean.n), []).append((float(cell.column), mean))
        for (epochs, n), own in sorted(groups.items(), reverse=True):
            budget = f", {epochs} epoch{'' if epochs == 1 else 's'}, n = {n}" if len(groups) > 1 else ""
            std = [mean.std or 0.0 for _, mean in own]
            lines.append(Line(row + budget, [x for x, _ in own], [mean.mean for _, mean in own], std, None, n))
        theirs = [
            (float(cell.column), cell.paper[value]) for cell, _ in found if cell.row == row and value in cell.paper
        ]
        if groups and theirs:
            numbers = [list(map(float, one if isinstance(one, list) else [one, 0.0])) for _, one in theirs]
            means, deviations = [mean for mean, _ in numbers], [std for _, std in numbers]
            lines.append(Line(row + PAPER, [x for x, _ in theirs], means, deviations, None, 0))
    return Panel(VALUES[value].label, preset.axis, VALUES[value].label, lines, log_x=preset.log, dots=True)


NOISE = (
    "With d orthonormal directions the update P P'g is d/D of the gradient in the mean, and has d/D of its squared "
    "length: a step of SGD at the rate a = lr d/D, and noise at right angles to it. The noise adds up to a random "
    "walk, lr sqrt((d/D) (1 - d/D) T) |g| long after T steps, which nothing holds back where the loss is flat. It is "
    "the walk, not the single step, that limits lr: the longer the training, the smaller (Figure X4)."
)
_NOISE_COLUMNS = (
    ("SGD at lr d/D", ("tableX1", "SGD at lr d/D")),
    ("RBD", ("table1", "RBD")),
    ("RBD, hadamard", ("tableX1", "RBD, hadamard")),
    ("SGD at its own rate", ("table1", "SGD")),
)
_Compared = Dict[str, Tuple[Cell, Measured]]


def grid_of_noise(index: Index) -> Grid:
    """The table: for each network SGD at lr d/D beside RBD, after equally many epochs, and what lies between."""
    heading = ["", "lr", "lr d/D", *(name for name, _ in _NOISE_COLUMNS)]
    lines = [[*heading, "cost of the noise", "correlation", "in theory"]]
    records: List[Dict[str, object]] = []
    for row, found in _noise_all(index):
        lines.append([row, *_line_of_noise(found)])
        for name, (cell, known) in found.items():
            mean = known.means.get("val_accuracy")
            records.append(
                {"preset": "noise", "row": row, "column": name, "n": known.n, "state": _state_of_noise(known)}
            )
            records[-1].update(mean=mean.mean if mean else None, learning_rate=cell.configs[0].learning_rate)
    notes = [
        "Accuracy on the held-out images, in percent, after 100 epochs, d = 250. The cost is what RBD stays behind "
        "SGD at lr d/D, by normal directions where they were run, else by hadamard ones; in theory the correlation "
        "is sqrt(d / (d + D - 1)).",
    ]
    return Grid("What RBD is: SGD at the rate lr d/D, and the cost of the noise", lines, notes, records)


def grid_of_noise_by_epoch(index: Index) -> Grid:
    """The same along the training, where SGD at lr d/D has been run: at first the two are alike."""
    lines = [["", *(f"epoch {epoch}" for epoch in _NOISE_EPOCHS)]]
    records: List[Dict[str, object]] = []
    for row, found in _noise_pairs(index):
        for name, (_, measured) in found.items():
            if not measured.rows or name == "SGD at its own rate":
                continue
            curves = np.array([one["curves"]["val_accuracy"] for one in measured.rows], float)
            means = VALUES["val_accuracy"].scale * curves.mean(axis=0)
            lines.append(
                [f"{row}: {name} (n = {measured.n})", *(f"{means[epoch - 1]:.1f}" for epoch in _NOISE_EPOCHS)]
            )
            records.append({"preset": "noise by epoch", "row": row, "column": name, "state": "measured"})
    notes = ["Accuracy on the held-out images, in percent, mean over the seeds."]
    return Grid("SGD at the rate lr d/D and RBD, by epoch", lines, notes, records)


_NOISE_EPOCHS = (1, 2, 5, 10, 20, 50, 100)


def _noise_pairs(index: Index) -> Iterator[Tuple[str, _Compared]]:
    """Rows with SGD at lr d/D and RBD in full."""
    for row, found in _noise_all(index):
        if found["SGD at lr d/D"][1].rows and (found["RBD"][1].rows or found["RBD, hadamard"][1].rows):
            yield row, found


def _noise_all(index: Index) -> Iterator[Tuple[str, _Compared]]:
    by_preset = {
        name: {(cell.row, cell.column): cell for cell in cells(presets.load(name), NAMED["full"])}
        for name in ("table1", "tableX1")
    }
    for row in presets.load("table1").rows:
        yield (
            row,
            {
                name: _measured_in_full(by_preset[preset][row, column], index)
                for name, (preset, column) in _NOISE_COLUMNS
            },
        )


def _measured_in_full(cell: Cell, index: Index) -> Tuple[Cell, Measured]:
    measured = measure(cell, index)
    whole: List[Row] = measured.rows if measured.epochs == cell.full[0].epochs else []
    return cell, measured if whole else measured._replace(means={}, rows=[])


def _state_of_noise(measured: Measured) -> str:
    return "measured" if measured.rows else NOT_MEASURED


def _line_of_noise(found: _Compared) -> List[str]:
    cell, rbd = found["RBD"]
    config = cell.configs[0]
    size, d = parameters(config.dataset, config.network), config.dim or 0
    line = [f"{config.learning_rate:g}", f"{config.learning_rate * d / size:.2g}"]
    line += [_text_of_noise(measured) for _, measured in found.values()]
    noisy = rbd if rbd.rows else found["RBD, hadamard"][1]
    plain = found["SGD at lr d/D"][1]
    cost = "-"
    if noisy.rows and plain.rows:
        cost = f"{plain.means['val_accuracy'].mean - noisy.means['val_accuracy'].mean:.2f}"
    correlation = f"{noisy.means['correlation'].mean:.4f}" if "correlation" in noisy.means else "-"
    return [*line, cost, correlation, f"{math.sqrt(d / (d + size - 1)):.4f}"]


def _text_of_noise(measured: Measured) -> str:
    if not measured.rows:
        return NOT_MEASURED
    mean = measured.means["val_accuracy"]
    return f"{ours('val_accuracy', mean)} (n = {mean.n})"


def best_rates(index: Index) -> Sequence[str]:
    """For every row of figures X1 and X3 a sentence: the best rate, and whether worse ones stand on both sides."""
    every = [presets.load(name) for name in ("figureX1", "figureX3")]
    found = [one for preset in every for one in brackets(preset, cells(preset, NAMED["full"]), index)]
    return [one.words() for one in found]
