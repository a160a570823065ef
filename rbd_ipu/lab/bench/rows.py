"""Rows of a measurement: from seconds to the numbers that are shown, and the targets that they must meet.

Images a second are for four cores, and in proportion on fewer.
"""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu.lab.bench.cases import KERAS, KERAS_JIT, Case
from rbd_ipu.lab.bench.runners import Kernel, Runner, Times
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


def add_memory(rows: Sequence[Row], peaks: Mapping[Case, Optional[float]]) -> None:
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
