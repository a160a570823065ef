"""A measurement from start to end, the document that keeps all of it, and its picture.

The picture: what a step costs against d, one panel for each network.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple, Union

from rbd_ipu import provenance
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import replacing
from rbd_ipu.lab.bench import rows
from rbd_ipu.lab.bench import runners as ceiling
from rbd_ipu.lab.bench.cases import TRAINER, Case
from rbd_ipu.lab.bench.runners import Runner, make, measure, peak_of
from rbd_ipu.plots import BLUE, GREEN, GREY, ORANGE, STYLE

FORMAT = 1
NOTE = (
    "inputs are random images, one batch over and over; ms are medians over the rounds, with quartiles; ratios are "
    "medians of the ratios within a round; the ceiling is the fastest round of the fastest source alone"
)
Tell = Callable[[str], None]


def load() -> Any:
    """How many processes wanted to run in the last 1, 5 and 15 minutes; None where the system does not say."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def prepare(cases: Sequence[Case]) -> Dict[Any, Runner]:
    """Builds all cases, so that nothing is measured if one of them cannot be.

    Raises:
      ConfigError: quotes the case, and why it cannot be.
    """
    runners: Dict[Any, Runner] = {}
    for case in cases:
        try:
            runners[case] = make(case)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            raise ConfigError(f"{case}: {error}") from error
    for kernel in ceiling.kernels(cases, runners):
        runners[kernel] = ceiling.Sketch(kernel)
    return runners


def measured(cases: Sequence[Case], rounds: int, seconds: float, say: Tell) -> Tuple[Dict[str, Any], bool]:
    """Builds, times and describes the cases.

    Returns:
      The document, without peak memory, and whether all rounds were run.
    """
    began = load()
    runners = prepare(cases)
    with _quiet_tensorflow():
        times = measure(runners, rounds, seconds, say)
    document = {
        "format": FORMAT,
        "note": NOTE,
        **surroundings(began),
        "rounds": len(next(iter(times.seconds.values()))),
        "seconds_a_burst": seconds,
        "rows": rows.rows_of(cases, runners, times),
        "ceilings": rows.ceiling_rows(runners, times),
    }
    return document, times.complete


def surroundings(began: Any) -> Dict[str, Any]:
    """Versions, code, machine, threads, and how busy the machine was, ``began`` being the load at the beginning."""
    return {
        **provenance.origin(),
        "threads": ceiling.threads(),
        "load_average": {"begin": began, "end": load()},
    }


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """TensorFlow takes the loops of many Trainers for one function that is traced again and again, and warns."""
    from rbd_ipu._compat import tf

    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


def add_memory(document: Dict[str, Any], wanted: Sequence[Case], say: Tell) -> None:
    """Measures peak memory of these cases and of their plain SGD steps, each in a process of its own."""
    cases: List[Case] = [case for case in wanted if case.loop == TRAINER]
    cases = list(dict.fromkeys([*(case.baseline for case in cases), *cases]))
    peaks = {}
    for number, case in enumerate(cases, start=1):
        say(f"memory {number}/{len(cases)}: {case}")
        peaks[case] = peak_of(case)
        if peaks[case] is None:
            say(f"memory of {case} could not be measured")
    rows.add_memory(document["rows"], peaks)


def machine_line(document: Dict[str, Any]) -> str:
    """Machine, versions and code in one line."""
    machine, versions = document["machine"], document["versions"]
    commit = (document["commit"] or "no commit")[:10] + (" with changes" if document["modified"] else "")
    busy = document["load_average"]["begin"]
    return (
        f"{machine['processor']}, {machine['usable_cores']} cores, {document['threads']} threads, "
        f"load {'unknown' if busy is None else format(busy[0], '.1f')}; TensorFlow {versions['tensorflow']}, "
        f"Keras {versions['keras']}, rbd_ipu {versions['rbd_ipu']}, {commit}"
    )


_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
_STYLE = {**STYLE, "legend.fontsize": "small"}

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
