"""The targets: what a step may cost, for the paper's networks, and whether it does not cost more here.

Images a second are for four cores, and in proportion on fewer.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from rbd_ipu.lab.bench.cases import KERAS, KERAS_JIT, Case
from rbd_ipu.lab.bench.rows import ratio
from rbd_ipu.text_table import figures

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
