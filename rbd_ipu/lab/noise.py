"""What RBD is, in numbers: SGD at the rate lr d/D, less what the noise of the projection costs."""

import math
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from rbd_ipu.lab import presets
from rbd_ipu.lab.measures import Index, Measured, brackets, measure
from rbd_ipu.lab.presets import NAMED, Cell, cells
from rbd_ipu.lab.results import VALUES, Row, ours, parameters
from rbd_ipu.lab.tables import NOT_MEASURED, Grid

SUMMARY = (
    "With d orthonormal directions the update P P'g is d/D of the gradient in the mean, and has d/D of its squared "
    "length: a step of SGD at the rate a = lr d/D, and noise at right angles to it. The noise adds up to a random "
    "walk, lr sqrt((d/D) (1 - d/D) T) |g| long after T steps, which nothing holds back where the loss is flat. It is "
    "the walk, not the single step, that limits lr: the longer the training, the smaller (Figure X4)."
)
_COLUMNS = (
    ("SGD at lr d/D", ("tableX1", "SGD at lr d/D")),
    ("RBD", ("table1", "RBD")),
    ("RBD, hadamard", ("tableX1", "RBD, hadamard")),
    ("SGD at its own rate", ("table1", "SGD")),
)
Found = Dict[str, Tuple[Cell, Measured]]


def grid(index: Index) -> Grid:
    """The table: for each network SGD at lr d/D beside RBD, after equally many epochs, and what lies between."""
    heading = ["", "lr", "lr d/D", *(name for name, _ in _COLUMNS)]
    lines = [[*heading, "cost of the noise", "correlation", "in theory"]]
    records: List[Dict[str, object]] = []
    for row, found in _all(index):
        lines.append([row, *_line(found)])
        for name, (cell, known) in found.items():
            mean = known.means.get("val_accuracy")
            records.append({"preset": "noise", "row": row, "column": name, "n": known.n, "state": _state(known)})
            records[-1].update(mean=mean.mean if mean else None, learning_rate=cell.configs[0].learning_rate)
    notes = [
        "Accuracy on the held-out images, in percent, after 100 epochs, d = 250. The cost is what RBD stays behind "
        "SGD at lr d/D, by normal directions where they were run, else by hadamard ones; in theory the correlation "
        "is sqrt(d / (d + D - 1)).",
    ]
    return Grid("What RBD is: SGD at the rate lr d/D, and the cost of the noise", lines, notes, records)


def by_epoch(index: Index) -> Grid:
    """The same along the training, where SGD at lr d/D has been run: at first the two are alike."""
    lines = [["", *(f"epoch {epoch}" for epoch in _EPOCHS)]]
    records: List[Dict[str, object]] = []
    for row, found in _pairs(index):
        for name, (_, measured) in found.items():
            if not measured.rows or name == "SGD at its own rate":
                continue
            curves = np.array([one["curves"]["val_accuracy"] for one in measured.rows], float)
            means = VALUES["val_accuracy"].scale * curves.mean(axis=0)
            lines.append([f"{row}: {name} (n = {measured.n})", *(f"{means[epoch - 1]:.1f}" for epoch in _EPOCHS)])
            records.append({"preset": "noise by epoch", "row": row, "column": name, "state": "measured"})
    notes = ["Accuracy on the held-out images, in percent, mean over the seeds."]
    return Grid("SGD at the rate lr d/D and RBD, by epoch", lines, notes, records)


_EPOCHS = (1, 2, 5, 10, 20, 50, 100)


def _pairs(index: Index) -> Iterator[Tuple[str, Found]]:
    """Rows with SGD at lr d/D and RBD in full."""
    for row, found in _all(index):
        if found["SGD at lr d/D"][1].rows and (found["RBD"][1].rows or found["RBD, hadamard"][1].rows):
            yield row, found


def _all(index: Index) -> Iterator[Tuple[str, Found]]:
    by_preset = {
        name: {(cell.row, cell.column): cell for cell in cells(presets.load(name), NAMED["full"])}
        for name in ("table1", "tableX1")
    }
    for row in presets.load("table1").rows:
        yield row, {name: _measured(by_preset[preset][row, column], index) for name, (preset, column) in _COLUMNS}


def _measured(cell: Cell, index: Index) -> Tuple[Cell, Measured]:
    measured = measure(cell, index)
    whole: List[Row] = measured.rows if measured.epochs == cell.full[0].epochs else []
    return cell, measured if whole else measured._replace(means={}, rows=[])


def _state(measured: Measured) -> str:
    return "measured" if measured.rows else NOT_MEASURED


def _line(found: Found) -> List[str]:
    cell, rbd = found["RBD"]
    config = cell.configs[0]
    size, d = parameters(config.dataset, config.network), config.dim or 0
    line = [f"{config.learning_rate:g}", f"{config.learning_rate * d / size:.2g}"]
    line += [_text(measured) for _, measured in found.values()]
    noisy = rbd if rbd.rows else found["RBD, hadamard"][1]
    plain = found["SGD at lr d/D"][1]
    cost = "-"
    if noisy.rows and plain.rows:
        cost = f"{plain.means['val_accuracy'].mean - noisy.means['val_accuracy'].mean:.2f}"
    correlation = f"{noisy.means['correlation'].mean:.4f}" if "correlation" in noisy.means else "-"
    return [*line, cost, correlation, f"{math.sqrt(d / (d + size - 1)):.4f}"]


def _text(measured: Measured) -> str:
    if not measured.rows:
        return NOT_MEASURED
    mean = measured.means["val_accuracy"]
    return f"{ours('val_accuracy', mean)} (n = {mean.n})"


def best_rates(index: Index) -> Sequence[str]:
    """For every row of figures X1 and X3 a sentence: the best rate, and whether worse ones stand on both sides."""
    every = [presets.load(name) for name in ("figureX1", "figureX3")]
    found = [one for preset in every for one in brackets(preset, cells(preset, NAMED["full"]), index)]
    return [one.words() for one in found]
