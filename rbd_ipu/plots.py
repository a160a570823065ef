"""Pictures: lines with their deviation in panels, in one style, as PNG or SVG, drawn without a display."""

import contextlib
import io
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from rbd_ipu.files import replacing

# Okabe and Ito's palette, told apart by colour-blind readers and in grey; after it some of Tol's, for many lines.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
COLOURS = (
    *(BLUE, ORANGE, GREEN, GREY, "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C564B"),
    *("#882255", "#999933", "#332288", "#44AA99"),
)
#: What all pictures of this package share; text in SVG stays text, and its names are the same each time.
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "rbd-ipu",
}
PAPER = ", paper"  # ends the name of a line of the paper's numbers, which has the colour of ours
_ACROSS = 3  # panels in a row
# Inches around panels and between them. Measuring the text instead would draw every picture twice.
_LEFT, _RIGHT, _BOTTOM, _TOP, _BETWEEN, _ABOVE = 0.9, 0.2, 0.6, 0.75, 1.05, 0.9


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
    """One pair of axes, linear or logarithmic, with or without a dot at every point, the legend in them or beside."""

    title: str
    xlabel: str
    ylabel: str
    lines: List[Line]
    log_x: bool = False
    log_y: bool = False
    dots: bool = False
    beside: bool = False


def statistics_of(runs: Any) -> Tuple[List[float], List[float]]:
    """Mean and sample deviation over runs, [runs, points]; the deviation of a single run is 0.

    Example:
      >>> statistics_of([[1.0, 2.0], [3.0, 2.0]])
      ([2.0, 2.0], [1.4142135623730951, 0.0])
    """
    values = np.array(runs, dtype=float)
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0).tolist(), std.tolist()


def draw(path: Union[str, Path], title: str, found: Sequence[Panel]) -> None:
    """Writes the PNG; a panel without a line says that nothing was measured.

    Args:
      path: of the file.
      title: one line above.
      found: the panels.
    """
    across = min(_ACROSS, len(found))
    down = -(-len(found) // across)
    width, height = max(4.4 * across, 6.0), 3.4 * down + 0.3
    with _figure(width, height) as figure, replacing(path) as draft:
        words = textwrap.fill(title, int(14 * width))
        figure.suptitle(words, fontsize=11, y=1 - 0.1 / height, va="top")
        axes = np.ravel(figure.subplots(down, across, squeeze=False))
        top = _TOP + 0.18 * words.count("\n")
        inner = (width - _LEFT - _RIGHT - (across - 1) * _BETWEEN) / across
        outer = (height - top - _BOTTOM - (down - 1) * _ABOVE) / down
        figure.subplots_adjust(
            *(_LEFT / width, _BOTTOM / height, 1 - _RIGHT / width, 1 - top / height),
            *(_BETWEEN / inner, _ABOVE / outer),
        )
        colours = _colours(found)
        for axis, panel in zip(axes, found):
            _draw_panel(axis, panel, colours)
        for axis in axes[len(found) :]:
            axis.set_axis_off()
        figure.savefig(draft, dpi=150, format="png")


def svgs(found: Sequence[Panel]) -> List[bytes]:
    """A picture for each panel as SVG, the same bytes each time it is made; wider where the legend is beside it."""
    pictures, colours = [], _colours(found)
    for panel in found:
        with _figure(6.6 if panel.beside else 4.6, 3.4, layout="constrained") as figure, io.BytesIO() as file:
            _draw_panel(figure.subplots(), panel, colours)
            figure.savefig(file, format="svg", metadata={"Date": None})
            pictures.append(file.getvalue())
    return pictures


@contextlib.contextmanager
def _figure(width: float, height: float, layout: Any = None) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout=layout)


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
    axis.legend(fontsize=8, **({"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if panel.beside else {}))


def plot_run(path: Union[str, Path], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws one run against epochs: accuracy, loss, correlation of the update with the gradient.

    Args:
      path: of the PNG.
      rows: the lines of its metrics.jsonl.
      title: one line above the picture.
    """

    def line(label: str, name: str, scale: float = 1.0) -> Line:
        values = [float("nan") if row.get(name) is None else scale * row[name] for row in rows]
        return Line(label, [float(row["epoch"]) for row in rows], values, [0.0] * len(rows), None, 1)

    found = [
        Panel(heading, "epoch", label, [line("training", name, scale), line("validation", f"val_{name}", scale)])
        for heading, label, name, scale in (
            ("Accuracy", "accuracy (%)", "accuracy", 100.0),
            ("Loss", "cross entropy (nats)", "loss", 1.0),
        )
    ]
    update = line("update against full gradient", "correlation")
    draw(path, title, [*found, Panel("Correlation", "epoch", "Pearson correlation", [update])])
