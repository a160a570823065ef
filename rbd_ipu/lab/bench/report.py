"""A measurement from start to end: its rows, the targets to be met, the document that keeps all, the picture.

From seconds to the numbers that are shown: images a second are for four cores, and in proportion on fewer. The
picture is what a step costs against d, one panel for each network.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from rbd_ipu import files, plots, provenance
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import COUNT, FLAG, MAPPING, NUMBER, TEXT, Maybe
from rbd_ipu.lab.bench import runners as ceiling
from rbd_ipu.lab.bench.runners import KERAS, KERAS_JIT, TRAINER, Case, Kernel, Runner, Times, make, measure, peak_of
from rbd_ipu.plots import Panel, draw
from rbd_ipu.runs import facts_of
from rbd_ipu.text_table import figures, text

Row = Dict[str, Any]


def spread(values: Sequence[float]) -> Tuple[float, float, float]:
    """First quartile, median, third quartile.

    Example:
      >>> spread([1.0, 2.0, 3.0, 4.0, 100.0])
      (2.0, 3.0, 4.0)
    """
    low, middle, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75])
    return float(low), float(middle), float(high)


def ratio(times: Sequence[float], base: Sequence[float]) -> Tuple[float, float, float]:
    """Quartiles over the rounds of how many times longer one took than the other in the same round."""
    return spread([t / b for t, b in zip(times, base)])


def rows_of(cases: Sequence[Case], runners: Mapping[Any, Runner], times: Times) -> List[Row]:
    """One row for each case. Ceilings are those among ``times``; peak memory is filled in later."""
    best = ceilings(runners, times)
    rows = []
    for case in cases:
        seconds, runner = times.seconds[case], runners[case]
        low, middle, high = spread(seconds)
        row: Row = {
            **case._asdict(),
            "parameters": runner.parameters,
            "d": case.dim if runner.dim is None else runner.dim,
            "ms": 1e3 * middle,
            "ms_quartiles": [1e3 * low, 1e3 * high],
            "images_per_second": case.batch_size / middle,
            "ratio_to_sgd": None,
            "ratio_quartiles": None,
            "samples_per_step": runner.samples,
            "samples_per_second": None,
            "ceiling": None,
            "share_of_ceiling": None,
            "peak_mb": None,
            "peak_mb_over_sgd": None,
            "steps_a_round": times.steps[case],
            "round_ms": [1e3 * t for t in seconds],
        }
        if case.baseline in times.seconds:
            low, middle_ratio, high = ratio(seconds, times.seconds[case.baseline])
            row.update(ratio_to_sgd=middle_ratio, ratio_quartiles=[low, high])
        if runner.samples:
            rate = runner.samples / middle
            row["samples_per_second"] = rate
            row["ceiling"] = best.get((case.distribution, runner.parameters))
            row["share_of_ceiling"] = None if row["ceiling"] is None else rate / row["ceiling"]
        rows.append(row)
    return rows


def ceilings(runners: Mapping[Any, Runner], times: Times) -> Dict[Tuple[Optional[str], int], float]:
    """Samples a second by (distribution, D): the fastest source in its fastest round."""
    best: Dict[Tuple[Optional[str], int], float] = {}
    for row in ceiling_rows(runners, times):
        key = (row["distribution"], row["size"])
        best[key] = max(best.get(key, 0.0), row["samples_per_second"])
    return best


def ceiling_rows(runners: Mapping[Any, Runner], times: Times) -> List[Row]:
    """One row for each kernel that was timed alone."""
    rows = []
    for key, seconds in times.seconds.items():
        if isinstance(key, Kernel):
            samples = runners[key].samples or 0
            rows.append(
                {
                    **key._asdict(),
                    "dim": runners[key].dim,
                    "samples_per_second": samples / min(seconds),
                    "round_ms": [1e3 * t for t in seconds],
                }
            )
    return rows


def fill_in_memory(rows: Sequence[Row], peaks: Mapping[Case, Optional[float]]) -> None:
    """Fills in peak memory, and how much more it is than that of the plain SGD step."""
    for row in rows:
        case = Case(**{name: row[name] for name in Case._fields})
        peak, base = peaks.get(case), peaks.get(case.baseline)
        row["peak_mb"] = peak
        row["peak_mb_over_sgd"] = None if peak is None or base is None else peak - base


_LOOPS = {KERAS: " (Keras fit)", KERAS_JIT: " (Keras fit, XLA)"}
Column = Tuple[str, Callable[[Mapping[str, Any]], str]]


def _between(pair: Any) -> str:
    return "-" if pair is None else f"{figures(pair[0])} .. {figures(pair[1])}"


def _times(row: Mapping[str, Any]) -> str:
    return "-" if row["ratio_to_sgd"] is None else f"{row['ratio_to_sgd']:.2f}"


def _share(row: Mapping[str, Any]) -> str:
    share = row["share_of_ceiling"]
    return "-" if share is None else f"{100 * share:.0f} %"


def _giga(value: Any) -> str:
    return "-" if value is None else figures(value / 1e9)


def _signed(value: Any) -> str:
    return "-" if value is None else f"{value:+.0f}"


COLUMNS: Dict[str, Column] = {
    "network": ("network", lambda row: row["network"]),
    "method": ("method", lambda row: row["method"] + _LOOPS.get(row["loop"], "")),
    "distribution": ("distribution", lambda row: row["distribution"] or "-"),
    "source": ("source", lambda row: row["source"] or "-"),
    "compartments": ("compartments", lambda row: row["compartments"] or "-"),
    "d": ("d", lambda row: "-" if row["d"] is None else f"{row['d']:,}"),
    "ms": ("ms a step", lambda row: figures(row["ms"])),
    "quartiles": ("quartiles", lambda row: _between(row["ms_quartiles"])),
    "images": ("images/s", lambda row: figures(row["images_per_second"])),
    "sgd": ("x SGD", _times),
    "samples": ("G samples/s", lambda row: _giga(row["samples_per_second"])),
    "share": ("of ceiling", _share),
    "memory": ("MB over SGD", lambda row: _signed(row["peak_mb_over_sgd"])),
}
_WORDS = ("network", "method", "distribution", "source", "compartments")


def columns_for(rows: Sequence[Mapping[str, Any]]) -> List[str]:
    """All columns but those that say nothing here."""
    idle = {
        "distribution": all(row["distribution"] is None for row in rows),
        "source": all(row["source"] is None for row in rows),
        "compartments": all(row["compartments"] in (None, "global") for row in rows),
        "d": all(row["d"] is None for row in rows),
        "samples": all(row["samples_per_second"] is None for row in rows),
        "share": all(row["share_of_ceiling"] is None for row in rows),
        "memory": all(row["peak_mb"] is None for row in rows),
    }
    return [name for name in COLUMNS if not idle.get(name, False)]


def cells(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> List[List[str]]:
    """A line of headings, then a line for each row."""
    return [[COLUMNS[name][0] for name in names], *([COLUMNS[name][1](row) for name in names] for row in rows)]


def render(rows: Sequence[Mapping[str, Any]], style: Callable[..., str] = text) -> str:
    """The table of these rows."""
    names = columns_for(rows)
    return style(cells(rows, names), left=sum(name in _WORDS for name in names))


CORES = 4
IMAGES, TIMES_SGD, TIMES_KERAS, MEGABYTES = "images/s", "x a plain SGD step", "x Keras fit", "MB more"
_AT_LEAST = (IMAGES,)


class Target(NamedTuple):
    """One limit.

    Attributes:
      case: what is measured.
      unit: IMAGES (at least), TIMES_SGD, TIMES_KERAS or MEGABYTES (at most).
      limit: the number to keep to.
      aim: the number to hope for, or None.
      against: for MEGABYTES, the case with less memory.
    """

    case: Case
    unit: str
    limit: float
    aim: Optional[float] = None
    against: Optional[Case] = None

    def scaled(self, cores: int) -> "Target":
        """The target on so many cores."""
        if self.unit != IMAGES:
            return self
        share = min(cores, CORES) / CORES
        return self._replace(limit=self.limit * share, aim=None if self.aim is None else self.aim * share)

    @property
    def words(self) -> str:
        """The target as text."""
        bound = "at least" if self.unit in _AT_LEAST else "at most"
        aim = "" if self.aim is None else f" (aim {figures(self.aim)})"
        return f"{bound} {figures(self.limit)}{aim} {self.unit}"


def _rbd(network: str, distribution: str, source: str, dim: int) -> Case:
    return Case(network, "rbd", dim, distribution, source, "global")


CNN, FC = "cnn-cifar10", "fc-mnist"
TARGETS: Sequence[Target] = (
    Target(_rbd(CNN, "normal", "native", 10_000), IMAGES, 155, 200),
    Target(_rbd(CNN, "normal", "counter", 10_000), IMAGES, 45),
    *(Target(_rbd(CNN, "hadamard", "native", d), TIMES_SGD, 1.25, 1.1) for d in (250, 10_000, 60_000)),
    *(Target(_rbd(FC, "hadamard", "native", d), TIMES_SGD, 3.0) for d in (250, 10_000, 101_770)),
    Target(_rbd(CNN, "normal", "native", 250), TIMES_SGD, 2.8),
    *(
        Target(_rbd(CNN, "normal", source, 10_000), MEGABYTES, 64, None, _rbd(CNN, "normal", source, 250))
        for source in ("native", "counter")
    ),
    *(Target(Case(network, "sgd"), TIMES_KERAS, 1.0) for network in (CNN, FC)),
)


def cases(native: bool, keras_3: bool) -> List[Case]:
    """Everything that has to be measured; without Numba, what can be."""
    loops = (KERAS, KERAS_JIT) if keras_3 else (KERAS,)
    wanted = [target.case.baseline for target in TARGETS]
    wanted += [case for target in TARGETS for case in (target.case, target.against) if case is not None]
    wanted += [t.case._replace(loop=loop) for t in TARGETS if t.unit == TIMES_KERAS for loop in loops]
    return [case for case in dict.fromkeys(wanted) if native or case.source != "native"]


def remembered(target: Target) -> List[Case]:
    """The cases whose peak memory a target needs."""
    return [target.case, target.against] if target.against is not None else []


def judge(rows: Sequence[Mapping[str, Any]], cores: int) -> List[Dict[str, Any]]:
    """For each target: its words, what was measured and whether it is met; None where nothing was measured."""
    by_case = {Case(**{name: row[name] for name in Case._fields}): row for row in rows}
    verdicts = []
    for target in (target.scaled(cores) for target in TARGETS):
        value = _value(target, by_case)
        met = None if value is None else value >= target.limit if target.unit in _AT_LEAST else value <= target.limit
        against = "" if target.against is None else f" against d={target.against.dim:,}"
        verdicts.append(
            {
                "case": f"{target.case}{against}",
                "target": target.words,
                "unit": target.unit,
                "limit": target.limit,
                "aim": target.aim,
                "measured": value,
                "met": met,
            }
        )
    return verdicts


def _value(target: Target, rows: Mapping[Case, Mapping[str, Any]]) -> Optional[float]:
    row = rows.get(target.case)
    if row is None:
        return None
    if target.unit == IMAGES:
        return row["images_per_second"]
    if target.unit == TIMES_SGD:
        return row["ratio_to_sgd"]
    if target.unit == MEGABYTES:
        less = rows.get(target.against) if target.against is not None else None
        if less is None or row["peak_mb"] is None or less["peak_mb"] is None:
            return None
        return row["peak_mb"] - less["peak_mb"]
    # The faster of Keras' ways is the one to beat.
    others = [rows[key] for loop in (KERAS, KERAS_JIT) for key in [target.case._replace(loop=loop)] if key in rows]
    return max((ratio(row["round_ms"], other["round_ms"])[1] for other in others), default=None)


def lines(verdicts: Sequence[Mapping[str, Any]]) -> List[List[str]]:
    """The table of verdicts, with its headings."""
    words = {True: "yes", False: "NO", None: "not measured"}
    return [
        ["case", "target", "measured", "met"],
        *([v["case"], v["target"], figures(v["measured"]), words[v["met"]]] for v in verdicts),
    ]


_SAID, _MEASURED = Maybe(TEXT, absent=False), Maybe(NUMBER, absent=False)
_ROW: Dict[str, Any] = {
    **{"network": TEXT, "method": TEXT, "loop": TEXT, "ms": NUMBER, "images_per_second": NUMBER},
    **{"d": Maybe(COUNT, absent=False), "ms_quartiles": (NUMBER, NUMBER)},
    **dict.fromkeys(("distribution", "source", "compartments"), _SAID),
    **dict.fromkeys(("ratio_to_sgd", "samples_per_second", "share_of_ceiling"), _MEASURED),
    **dict.fromkeys(("peak_mb", "peak_mb_over_sgd"), _MEASURED),
}
_VERDICT = {"case": TEXT, "target": TEXT, "measured": _MEASURED, "met": Maybe(FLAG, absent=False)}
_DOCUMENT = {
    **{"command": TEXT, "rows": [_ROW], "targets": Maybe([_VERDICT]), "commit": Maybe(TEXT)},
    **{"machine": Maybe(MAPPING), "versions": Maybe(MAPPING)},
}


def read(path: Path) -> Dict[str, Any]:
    """What ``rbd-ipu bench --output`` has written.

    Raises:
      ConfigError: the file is damaged, or of another version; with the field.
    """
    document = facts_of(path)
    files.check(document, _DOCUMENT, str(path))
    return document


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
        "rows": rows_of(cases, runners, times),
        "ceilings": ceiling_rows(runners, times),
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
    fill_in_memory(document["rows"], peaks)


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
      rows: as made by :func:`rows_of`.
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
