"""The claims of the paper and of its blog post (``claims.yaml``), each with a verdict that follows from rows.

A claim is a list of comparisons between cells of tables and figures. A comparison holds, fails or is open, by
Student's t at 1 % (two-sided, pooled deviation) over the seeds; a cell with one seed, or short of its epochs, leaves
it open, whatever its number. What follows for the claim:

============  =======================================================================================
confirmed     every comparison of ``holds`` holds
refuted       one of them fails, or every comparison of ``refuted_by`` holds
explained     decided one way or the other, and every comparison of ``because`` holds: ``cause`` says why
undecided     anything else: the verdict says what missing runs would cost, or what else it ``needs``
============  =======================================================================================

A comparison has one of these forms, with ``preset`` and ``row`` or ``rows`` (default: all of the preset):

* ``{better: COLUMN, than: COLUMN}``: the first is higher than ``times`` the second (default 1). It fails where it
  is lower, or where the difference is surely less than a quarter of that in the paper, whichever way it goes.
* ``{alike: [COLUMN, COLUMN], within: POINTS}``: the difference is surely less than so many points; it fails where it
  is surely more.
* ``{equal: COLUMN, to: NUMBER, within: NUMBER}``: a cell against a number, in the same way.
* ``{spread: COLUMN, within: POINTS}``: the deviation of three or more seeds is at most so many points.
* ``{found: LINE, at: COLUMN, to: NUMBER, within: NUMBER}``: a number of an analysis, to be met.
* ``{faster: {...}, than: {...}, file: NAME}``: rows of ``results/performance``, quartiles apart.

In place of a column there may be another cell, ``{preset: ..., row: ..., column: ...}``, of which what is left out is
that of the comparison. A cell whose learning rate is a stand-in leaves a comparison open.

``value`` is what is compared, a name of :data:`rbd_ipu.lab.results.VALUES`, or ``settled``: the epochs until the
accuracy has come to 95 % of its last.
"""

import functools
import math
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import Config
from rbd_ipu.config.yaml import YamlError, load_mapping
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import analyses, presets
from rbd_ipu.lab.bench.report import read
from rbd_ipu.lab.measures import Index, measure, value_of
from rbd_ipu.lab.presets import NAMED, Cell, cells
from rbd_ipu.lab.results import VALUES, Costs, Row, config_of, key

PATH = Path(__file__).with_name("claims.yaml")
CONFIRMED, REFUTED, EXPLAINED, UNDECIDED = VERDICTS = ("confirmed", "refuted", "explained", "undecided")
SETTLED = "settled"
_T = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169)  # 1 %, from 1 degree of freedom on
_KEYS = ("claim", "source", "holds", "refuted_by", "cause", "because", "needs", "remark")


class Evidence(NamedTuple):
    """What a comparison came to.

    Attributes:
      words: it, with its numbers.
      holds: True, False, or None while it is open.
      rows: the runs it rests on, by their keys; of an analysis or a benchmark, its command.
      missing: the runs that would be needed.
    """

    words: str
    holds: Optional[bool]
    rows: Tuple[str, ...] = ()
    missing: Tuple[Config, ...] = ()


class Verdict(NamedTuple):
    """A claim and what follows for it.

    Attributes:
      claim, source: from the file.
      verdict: one of VERDICTS.
      why: the cause, or what would decide.
      evidence: all comparisons; those of ``because`` come last.
    """

    claim: str
    source: str
    verdict: str
    why: str
    evidence: List[Evidence]

    @property
    def rows(self) -> List[str]:
        """What it rests on, each once."""
        return list(dict.fromkeys(row for one in self.evidence for row in one.rows))


class Sample(NamedTuple):
    """A cell: its values, a seed each, in the units of the tables."""

    values: List[float]
    rows: Tuple[str, ...]
    missing: Tuple[Config, ...]
    paper: Optional[float]
    name: str
    untuned: bool

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def counts(self) -> bool:
        """Whether anything can follow from it."""
        return self.n > 1 and not self.untuned

    def words(self, places: int) -> str:
        if not self.n:
            return "not run in full"
        spread = f" ± {statistics.stdev(self.values):.{places}f}" if self.n > 1 else ""
        rate = ", rate not tuned" if self.untuned else ""
        return f"{statistics.mean(self.values):.{places}f}{spread} (n = {self.n}{rate})"


class Known(NamedTuple):
    """All that verdicts rest on.

    Attributes:
      rows: of runs.
      findings: of analyses.
      performance: the folder of ``rbd-ipu bench``.
    """

    rows: Sequence[Row]
    findings: Sequence[Mapping[str, Any]] = ()
    performance: Path = Path("results/performance")


def verdicts(known: Known, path: Path = PATH) -> List[Verdict]:
    """All claims in the order of the file.

    Raises:
      ConfigError: the file has a key, cell or form that is not known; with its claim.
    """
    try:
        listed = load_mapping(path)["claims"]
    except YamlError as error:
        raise ConfigError(str(error)) from None
    judge = _Judge(known)
    found = []
    for claim in listed:
        try:
            found.append(judge.verdict(claim))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {claim.get('claim', claim)!r}: {error}") from None
    return found


class _Judge:
    def __init__(self, known: Known):
        self.known = known
        self.index, self.costs = Index(known.rows), Costs(known.rows)
        self._cells: Dict[str, Dict[Tuple[str, str], Cell]] = {}

    def verdict(self, claim: Mapping[str, Any]) -> Verdict:
        for name in claim:
            if name not in _KEYS:
                raise ConfigError(f"unknown key {name!r}; accepted: {', '.join(_KEYS)}")
        holds, against, because = (self._all(claim.get(name, ())) for name in ("holds", "refuted_by", "because"))
        name, why = UNDECIDED, ""
        if holds and all(one.holds for one in holds):
            name = CONFIRMED
        if any(one.holds is False for one in holds) or (against and all(one.holds for one in against)):
            name = REFUTED
        if name != UNDECIDED and because and all(one.holds for one in because):
            name, why = EXPLAINED, claim["cause"]
        if name == UNDECIDED:
            why = self._would_decide(claim, [*holds, *against])
        words = " ".join(part.strip() for part in (why, claim.get("remark", "")) if part)
        return Verdict(claim["claim"].strip(), claim["source"], name, words, [*holds, *against, *because])

    def _would_decide(self, claim: Mapping[str, Any], evidence: Sequence[Evidence]) -> str:
        missing = {key(config): config for one in evidence if one.holds is None for config in one.missing}
        parts = [claim["needs"].strip()] if "needs" in claim else []
        if missing:
            parts.insert(0, str(self.costs.total(missing.values())))
        if not parts:
            parts = ["more seeds: the spread of those that were run is too wide"]
        return f"Would decide: {'; '.join(parts)}."

    def _all(self, listed: Sequence[Mapping[str, Any]]) -> List[Evidence]:
        found = []
        for comparison in listed:
            form = next((name for name in _FORMS if name in comparison), None)
            if form is None:
                raise ConfigError(f"a comparison is one of {', '.join(_FORMS)}, not {dict(comparison)}")
            given = {**comparison}
            if "preset" in given and form != "found":
                rows = given.pop("rows", None) or ([given.pop("row")] if "row" in given else None)
                for row in rows or presets.load(given["preset"]).rows:
                    found.append(_FORMS[form](self, {**given, "row": row}))
            else:
                found.append(_FORMS[form](self, given))
        return found

    def sample(self, given: Mapping[str, Any], which: Any) -> Sample:
        """The seeds of a cell that were run in full."""
        other = which if isinstance(which, Mapping) else {"column": which}
        name, value = other.get("preset", given["preset"]), given.get("value", "val_accuracy")
        place = other.get("row", given["row"]), other["column"]
        label = other["column"] if place[0] == given["row"] else ", ".join(place)
        if name not in self._cells:
            self._cells[name] = {(c.row, c.column): c for c in cells(presets.load(name), NAMED["full"])}
        if place not in self._cells[name]:
            raise ConfigError(f"{name} has no cell {', '.join(place)}")
        cell = self._cells[name][place]
        measured = measure(cell, self.index)
        rows = measured.rows if measured.epochs == cell.full[0].epochs else []
        read = _settled if value == SETTLED else functools.partial(value_of, value)
        known = [(row, found) for row in rows for found in [read(row)] if found is not None]
        seeds = {row["seed"] for row, _ in known}
        missing = tuple(config for config in cell.full if config.seed not in seeds)
        paper = cell.paper.get(value)
        printed = float(paper[0] if isinstance(paper, list) else paper) if paper is not None else None
        keys = tuple(key(config_of(row)) for row, _ in known)
        return Sample([found for _, found in known], keys, missing, printed, label, cell.untuned)


def _settled(row: Row) -> Optional[float]:
    curve = [value for value in row["curves"].get("val_accuracy", []) if value is not None]
    return next((float(epoch) for epoch, v in enumerate(curve, start=1) if v >= 0.95 * curve[-1]), None)


def _interval(a: Sample, b: Sample, times: float = 1.0) -> Optional[Tuple[float, float]]:
    """Mean of a - times b and the half width of its interval; None unless both have two seeds."""
    if not (a.counts and b.counts):
        return None
    freedom = a.n + b.n - 2
    squares = (a.n - 1) * statistics.variance(a.values) + (b.n - 1) * statistics.variance(b.values)
    error = math.sqrt(squares / freedom * (1 / a.n + times**2 / b.n))
    return statistics.mean(a.values) - times * statistics.mean(b.values), _t(freedom) * error


def _t(freedom: int) -> float:
    """The quantile of Student's t at 1 %, two-sided; beyond ten degrees that of ten, which is on the safe side."""
    return _T[min(freedom, len(_T)) - 1]


def _places(given: Mapping[str, Any]) -> int:
    value = given.get("value", "val_accuracy")
    return 0 if value == SETTLED else VALUES[value].places


def _between(given: Mapping[str, Any], *samples: Sample) -> str:
    parts = [f"{sample.name} {sample.words(_places(given))}" for sample in samples]
    return f"{given['row']}: {', '.join(parts)}"


def _better(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    a, b = (judge.sample(given, given[name]) for name in ("better", "than"))
    times = given.get("times", 1.0)
    words = _between(given, a, b)
    found = _interval(a, b, times)
    holds: Optional[bool] = None
    if found is not None:
        mean, half = found
        theirs = a.paper - times * b.paper if a.paper is not None and b.paper is not None else 0.0
        factor = "" if times == 1.0 else f" from {times:g} times that"
        words += f"; difference{factor} {mean:+.{_places(given)}f} ± {half:.{_places(given)}f}"
        words += f" (paper {theirs:+.1f})" if theirs else ""
        small = abs(mean) + half < theirs / 4
        holds = True if mean - half > 0 else False if mean + half < 0 or small else None
    return _evidence(words, holds, a, b)


def _alike(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    a, b = (judge.sample(given, name) for name in given["alike"])
    words, holds = _within(_between(given, a, b), _interval(a, b), given)
    return _evidence(words, holds, a, b)


def _equal(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    sample = judge.sample(given, given["equal"])
    words = f"{_between(given, sample)} against {given['to']:g}"
    found = None
    if sample.counts:
        error = statistics.stdev(sample.values) / math.sqrt(sample.n)
        found = statistics.mean(sample.values) - given["to"], _t(sample.n - 1) * error
    words, holds = _within(words, found, given)
    return _evidence(words, holds, sample)


def _within(words: str, found: Optional[Tuple[float, float]], given: Mapping[str, Any]) -> Tuple[str, Optional[bool]]:
    if found is None:
        return words, None
    mean, half = abs(found[0]), found[1]
    places = _places(given)
    words += f"; difference {found[0]:+.{places}f} ± {half:.{places}f}, to be within {given['within']:g}"
    return words, True if mean + half < given["within"] else False if mean - half > given["within"] else None


def _spread(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    sample = judge.sample(given, given["spread"])
    words = f"{_between(given, sample)}, deviation to be within {given['within']:g}"
    holds = statistics.stdev(sample.values) <= given["within"] if sample.counts and sample.n > 2 else None
    return _evidence(words, holds, sample)


def _evidence(words: str, holds: Optional[bool], *samples: Sample) -> Evidence:
    """Open evidence names the runs that are missing; where none is, more seeds would be needed."""
    rows = tuple(row for sample in samples for row in sample.rows)
    missing = tuple(config for sample in samples for config in sample.missing)
    return Evidence(words, holds, rows, missing if holds is None else ())


def _found(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    preset = presets.load(given["preset"])
    row = analyses.latest(judge.known.findings, preset, NAMED["full"])
    line, column = given["found"], given["at"]
    if row is None:
        return Evidence(f"{preset.source}: not made yet (`rbd-ipu figure {preset.name[len('figure') :]}`)", None)
    heading, *body = row["lines"]
    text = next(one for one in body if one[0] == line)[heading.index(column)]
    value = float(text.split(" ")[0])
    words = f"{preset.source}, {heading[0] or 'row'} {line}: {column} {text} against {given['to']:g}"
    return Evidence(words, abs(value - given["to"]) <= given["within"], (f"{row['command']} ({preset.name})",))


def _faster(judge: _Judge, given: Mapping[str, Any]) -> Evidence:
    path = judge.known.performance / given["file"]
    if not path.exists():
        return Evidence(f"{given['file']}: not measured", None)
    document = read(path)
    pair = [_row_of(document["rows"], given[name]) for name in ("faster", "than")]
    (first, second), names = pair, [" ".join(map(str, given[name].values())) for name in ("faster", "than")]
    words = ", ".join(
        f"{name} {row['ms']:.3g} ms ({' .. '.join(f'{ms:.3g}' for ms in row['ms_quartiles'])})"
        for name, row in zip(names, pair)
    )
    (low, high), (other_low, other_high) = first["ms_quartiles"], second["ms_quartiles"]
    holds = True if high < other_low else False if low > other_high else None
    return Evidence(f"a step: {words}", holds, (f"{document['command']} ({given['file']})",))


def _row_of(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    for row in rows:
        if all(row.get(name) == value for name, value in wanted.items()):
            return row
    raise ConfigError(f"no row with {dict(wanted)}")


_FORMS: Dict[str, Callable[[_Judge, Mapping[str, Any]], Evidence]] = {
    "better": _better,
    "alike": _alike,
    "equal": _equal,
    "spread": _spread,
    "found": _found,
    "faster": _faster,
}
