"""Figures: a value by epoch in panels, or by a setting on the axis, with the deviation of the seeds."""

import contextlib
import io
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import plots
from rbd_ipu.files import replacing
from rbd_ipu.lab.measures import Index, Measured, measure
from rbd_ipu.lab.presets import Cell, Preset
from rbd_ipu.lab.results import VALUES, Mean
from rbd_ipu.plots import BLUE, GREEN, GREY, ORANGE

COLOURS = (BLUE, ORANGE, GREEN, GREY, "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C564B")
PAPER = ", paper"  # ends the name of a line of the paper's numbers, which has the colour of ours
_ACROSS = 3  # panels in a row


class Line(NamedTuple):
    """A curve: its name, x and y with the deviation of y, where a switch of methods is, the runs behind it.

    With n = 0 runs it is what the paper prints.
    """

    name: str
    x: List[float]
    y: List[float]
    std: List[float]
    switch: Optional[int]
    n: int


class Panel(NamedTuple):
    """One pair of axes, linear or logarithmic, with or without a dot at every point."""

    title: str
    xlabel: str
    ylabel: str
    lines: List[Line]
    log_x: bool = False
    log_y: bool = False
    dots: bool = False


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
            mean, std = _statistics(VALUES[value].scale * np.array(runs, dtype=float))
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


def _statistics(values: np.ndarray) -> Tuple[List[float], List[float]]:
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0).tolist(), std.tolist()


def draw(path: Path, title: str, found: Sequence[Panel]) -> None:
    """Writes the PNG; a panel without a line says that nothing was measured.

    Args:
      path: of the file.
      title: one line above.
      found: the panels.
    """
    across = min(_ACROSS, len(found))
    down = -(-len(found) // across)
    with _figure(max(4.4 * across, 6.0), 3.4 * down + 0.3) as figure, replacing(path) as draft:
        figure.suptitle(textwrap.fill(title, int(14 * figure.get_figwidth())), fontsize=11)
        axes = np.ravel(figure.subplots(down, across, squeeze=False))
        colours = _colours(found)
        for axis, panel in zip(axes, found):
            _draw_panel(axis, panel, colours)
        for axis in axes[len(found) :]:
            axis.set_axis_off()
        figure.savefig(draft, dpi=150, format="png")


def svgs(found: Sequence[Panel]) -> List[bytes]:
    """A picture for each panel as SVG, the same bytes each time it is made."""
    pictures, colours = [], _colours(found)
    for panel in found:
        with _figure(4.6, 3.4) as figure, io.BytesIO() as file:
            _draw_panel(figure.subplots(), panel, colours)
            figure.savefig(file, format="svg", metadata={"Date": None})
            pictures.append(file.getvalue())
    return pictures


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**plots._STYLE, "svg.fonttype": "none", "svg.hashsalt": "rbd-ipu"}):
        yield Figure(figsize=(width, height))


def _colours(found: Sequence[Panel]) -> Dict[str, str]:
    """A colour for each name, the same in all panels."""
    every = list(dict.fromkeys(without_paper(line.name) for panel in found for line in panel.lines))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(every)}


def without_paper(name: str) -> str:
    """The name of our line beside one of the paper's.

    Example:
      >>> without_paper("RBD, paper"), without_paper("RBD")
      ('RBD', 'RBD')
    """
    return name[: -len(PAPER)] if name.endswith(PAPER) else name


def _draw_panel(axis: Any, panel: Panel, colours: Dict[str, str]) -> None:
    axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    axis.set_xscale("log" if panel.log_x else "linear")
    axis.set_yscale("log" if panel.log_y else "linear")
    if not panel.lines:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color=GREY)
        axis.set(xticks=[], yticks=[])
        return
    for line in panel.lines:
        colour, y, std = colours[without_paper(line.name)], np.array(line.y), np.array(line.std)
        if not line.n:
            axis.errorbar(line.x, y, std, fmt="D--", color=colour, mfc="none", markersize=5, capsize=3)
            continue
        few = panel.dots or len(line.x) < 12
        low = np.maximum(y - std, y / 10) if panel.log_y else y - std
        axis.plot(line.x, y, "o-" if few else "-", color=colour, label=line.name, markersize=4)
        axis.fill_between(line.x, low, y + std, color=colour, alpha=0.2, linewidth=0)
        if line.switch is not None and line.switch <= line.x[-1]:
            axis.axvline(line.switch, color=colour, linestyle=":", linewidth=1.0)
    if not all(line.n for line in panel.lines):
        axis.plot([], [], "D", color=GREY, mfc="none", markersize=5, label="the paper, same colours")
    if panel.xlabel == "epoch" and not panel.log_x:
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8)
