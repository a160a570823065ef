"""Pictures of training curves, drawn without a display."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np

from rbd_ipu.files import replacing

# Okabe and Ito's palette, told apart by colour-blind readers and in grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
#: What all pictures of this package share.
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_STYLE = {**STYLE, "axes.grid": True, "lines.linewidth": 1.8}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One column as floats, NaN where nothing was measured."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=float)


def _new_figure(columns: int, title: str) -> Tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * columns, 3.7))  # no pyplot: nothing to close, no display asked for
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def plot_run(path: Union[str, Path], rows: List[Dict[str, Any]], title: str) -> None:
    """Draws one run against epochs: accuracy, loss, correlation of the update with the gradient.

    Args:
      path: of the PNG.
      rows: the lines of its metrics.jsonl.
      title: one line above the picture.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE), replacing(path) as draft:
        figure, (accuracy, loss, correlation) = _new_figure(3, title)
        epochs = _column(rows, "epoch")
        dots = "o" if len(rows) < 12 else ""
        for axis, name, scale in ((accuracy, "accuracy", 100.0), (loss, "loss", 1.0)):
            axis.plot(
                epochs,
                scale * _column(rows, name),
                dots + "--",
                color=GREY,
                label="training",
                markersize=4,
            )
            axis.plot(
                epochs,
                scale * _column(rows, f"val_{name}"),
                dots + "-",
                color=BLUE,
                label="validation",
                markersize=4,
            )
            axis.legend()
        accuracy.set(title="Accuracy", ylabel="accuracy (%)")
        loss.set(title="Loss", ylabel="cross entropy (nats)")
        correlation.plot(epochs, _column(rows, "correlation"), dots + "-", color=GREEN, markersize=4)
        correlation.set(title="Update against full gradient", ylabel="Pearson correlation")
        # From 0 on, and with room above: its noise is no news, its height is.
        correlation.set_ylim(bottom=min(0.0, correlation.get_ylim()[0]), top=1.25 * correlation.get_ylim()[1])
        figure.savefig(draft, dpi=150, format="png")


class Band:
    """Several runs of one kind, drawn as their mean and standard deviation.

    Args:
      label: for the legend.
      runs: for each run the rows of its metrics.jsonl, equally many each.
      colour: of the line and band.
    """

    def __init__(self, label: str, runs: Sequence[Sequence[Mapping[str, Any]]], colour: str):
        self.label, self.runs, self.colour = label, runs, colour

    def epochs(self) -> np.ndarray:
        return _column(self.runs[0], "epoch")

    def mean_and_deviation(self, name: str) -> Tuple[np.ndarray, np.ndarray]:
        """Of one column over the runs, [epochs] each; the sample deviation, 0 for a single run."""
        values = np.stack([_column(rows, name) for rows in self.runs])
        if len(values) == 1:
            return values[0], np.zeros_like(values[0])
        return values.mean(axis=0), values.std(axis=0, ddof=1)


def plot_bands(path: Union[str, Path], bands: Sequence[Band], title: str, column: str = "val_accuracy") -> None:
    """Draws validation accuracies (or losses) against epochs, mean +- standard deviation of each band.

    Args:
      path: of the PNG.
      bands: one for each kind.
      title: one line above the picture.
      column: "val_accuracy" or "val_loss".
    """
    import matplotlib

    loss = column == "val_loss"
    with matplotlib.rc_context(_STYLE), replacing(path) as draft:
        figure, (axis,) = _new_figure(1, title)
        figure.set_size_inches(7.2, 4.4)
        for band in bands:
            mean, deviation = ((1.0 if loss else 100.0) * part for part in band.mean_and_deviation(column))
            low, high = mean - deviation, mean + deviation
            axis.plot(band.epochs(), mean, color=band.colour, label=band.label)
            axis.fill_between(band.epochs(), low, high, color=band.colour, alpha=0.2, linewidth=0)
        if loss:
            axis.set(ylabel="validation loss (nats)")
        else:
            axis.set(ylabel="validation accuracy (%)", ylim=(None, 100.0))
        axis.legend(loc="upper right" if loss else "lower right")
        figure.savefig(draft, dpi=150, format="png")
