"""A measurement from start to end, the document that keeps all of it, and its picture.

The picture: what a step costs against d, one panel for each network.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple, Union

from rbd_ipu import plots, provenance
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.bench import rows
from rbd_ipu.lab.bench import runners as ceiling
from rbd_ipu.lab.bench.cases import TRAINER, Case
from rbd_ipu.lab.bench.runners import Runner, make, measure, peak_of
from rbd_ipu.plots import Panel, draw

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


# Known speeds of others for the CIFAR-10 CNN at d = 10,000 and batch 32, in images a second. The IPU's is the paper's
# own; the original code was measured on a 4-core CPU.
REFERENCES = {"paper, one IPU": 31.0, "original code, 4-core CPU": 2.0}
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
    networks = list(dict.fromkeys(row["network"] for row in rows))
    draw(path, title, [panel(name, [row for row in rows if row["network"] == name]) for name in networks])


def panel(network: str, rows: Sequence[Mapping[str, Any]]) -> Panel:
    """ms a step against d of one network, beside a plain SGD step and what is known of others."""
    found = curves(rows)
    lines = []
    for (method, *words, cut), points in found.items():
        label = " ".join([word for word in (method, *words) if word != "rbd"] + [cut] * (cut != "global"))
        lines.append(_line(label, points))
    dims = [d for points in found.values() for d, _ in points]
    for ms in dict.fromkeys(row["ms"] for row in rows if row["method"] == "sgd" and row["loop"] == TRAINER):
        lines.append(_line("plain SGD", [(d, ms) for d in sorted({min(dims, default=1), max(dims, default=1)})]))
    here = network == REFERENCE_NETWORK and REFERENCE_DIM in dims
    if here and all(row["batch_size"] == REFERENCE_BATCH for row in rows):
        lines += [_line(name, [(REFERENCE_DIM, 1e3 * REFERENCE_BATCH / speed)]) for name, speed in REFERENCES.items()]
    return Panel(network, "directions d", "ms a step", lines, log_x=True, log_y=True, dots=True)


def _line(name: str, points: Sequence[Tuple[int, float]]) -> plots.Line:
    return plots.Line(name, [float(d) for d, _ in points], [ms for _, ms in points], [0.0] * len(points), None, 1)
