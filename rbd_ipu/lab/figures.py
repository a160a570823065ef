"""Figures: a value by epoch in panels, or by a setting on the axis, with the deviation of the seeds."""

from typing import Dict, List, Sequence, Tuple

import numpy as np

from rbd_ipu.lab.measures import Index, Measured, measure
from rbd_ipu.lab.presets import Cell, Preset
from rbd_ipu.lab.results import VALUES, Mean
from rbd_ipu.plots import PAPER, Line, Panel, statistics_of


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
