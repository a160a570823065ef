"""Rows: from seconds to the numbers that are shown, as pure functions."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu.bench.cases import Case
from rbd_ipu.bench.ceiling import Kernel
from rbd_ipu.bench.rounds import Times
from rbd_ipu.bench.runners import Runner

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
