"""Rows: from seconds to the numbers that are shown, as pure functions."""

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

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
