"""The picture: what a step costs against d, one panel for each network."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from rbd_ipu.files import replacing
from rbd_ipu.lab.bench.cases import TRAINER
from rbd_ipu.plots import BLUE, GREEN, GREY, ORANGE

_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": "small",
}

# Known speeds of others for the CIFAR-10 CNN at d = 10,000 and batch 32: name -> images a second, marker. The IPU's
# is the paper's own; the original code was measured on a 4-core CPU.
REFERENCES: Dict[str, Tuple[float, str]] = {"paper, one IPU": (31.0, "*"), "original code, 4-core CPU": (2.0, "X")}
REFERENCE_NETWORK, REFERENCE_DIM, REFERENCE_BATCH = "cnn-cifar10", 10_000, 32

Line = Tuple[str, str, str, str]  # method, distribution, source, compartments


def curves(rows: Sequence[Mapping[str, Any]]) -> Dict[Line, List[Tuple[int, float]]]:
    """Points (d, ms a step) of each line, by d."""
    lines: Dict[Line, List[Tuple[int, float]]] = {}
    for row in rows:
        if row["d"] is not None and row["loop"] == TRAINER:
            line = tuple(str(row[name]) for name in ("method", "distribution", "source", "compartments"))
            lines.setdefault(line, []).append((row["d"], row["ms"]))  # type: ignore[arg-type]
    return {line: sorted(points) for line, points in lines.items()}


def plot(path: Union[str, Path], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws the rows of a measurement; where there are no directions among them, only plain steps are left.

    Args:
      path: of the PNG.
      rows: as made by :func:`rbd_ipu.lab.bench.rows.rows_of`.
      title: one line above the picture.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row["network"] for row in rows))
    with matplotlib.rc_context(_STYLE), replacing(path) as draft:
        figure = Figure(figsize=(1.2 + 5.2 * len(networks), 4.4))  # no pyplot: nothing to close
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        for axis, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks):
            _panel(axis, network, [row for row in rows if row["network"] == network])
        figure.savefig(draft, dpi=150, format="png")


def _panel(axis: Any, network: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(xscale="log", yscale="log", title=network, xlabel="directions d", ylabel="ms a step")
    for one, numbers in ((axis.xaxis, (1.0,)), (axis.yaxis, (1.0, 2.0, 5.0))):
        one.set_major_locator(LogLocator(subs=numbers))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        one.set_minor_formatter(NullFormatter())
    axis.grid(True)
    lines = curves(rows)
    sources = list(dict.fromkeys(source for _, _, source, _ in lines))
    kinds = list(dict.fromkeys((method, name, cut) for method, name, _, cut in lines))
    for (method, name, source, cut), points in lines.items():
        index = kinds.index((method, name, cut))
        words = [word for word in (method, name, source) if word != "rbd"] + [cut] * (cut != "global")
        axis.plot(
            *zip(*points),
            "o",
            linestyle=_DASHES[sources.index(source) % len(_DASHES)],
            color=_COLOURS[index % len(_COLOURS)],
            markersize=4,
            label=" ".join(words),
        )
    plain = [row["ms"] for row in rows if row["method"] == "sgd" and row["loop"] == TRAINER]
    for ms in dict.fromkeys(plain):
        axis.axhline(ms, color=GREY, linewidth=1, label="plain SGD")
    here = network == REFERENCE_NETWORK and any(d == REFERENCE_DIM for points in lines.values() for d, _ in points)
    if here and all(row["batch_size"] == REFERENCE_BATCH for row in rows):
        for label, (speed, marker) in REFERENCES.items():
            ms = 1e3 * REFERENCE_BATCH / speed
            axis.plot([REFERENCE_DIM], [ms], marker, color="black", linestyle="none", label=label)
    axis.legend()
