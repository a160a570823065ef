"""The parts of the report: tables and figures of the paper, other runs, speed, environment."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from rbd_ipu.bench import table as bench
from rbd_ipu.paper import analyses, noise, presets, show
from rbd_ipu.paper.budget import NAMED, Budget, budget
from rbd_ipu.paper.cells import cells
from rbd_ipu.paper.claims import VERDICTS, Known, Verdict, verdicts
from rbd_ipu.paper.cost import duration
from rbd_ipu.paper.figure import Line, Panel
from rbd_ipu.paper.identity import stem
from rbd_ipu.paper.measure import Index
from rbd_ipu.paper.rates import exponent
from rbd_ipu.paper.results import Row, config_of, merge
from rbd_ipu.paper.table import Grid
from rbd_ipu.report.chart import chart, colours_of
from rbd_ipu.report.markup import beside_the_paper, element, escaped, notes, section, table

FULL = NAMED["full"]
_LINES = 8  # of a chart of runs


def of_the_paper(kind: str, index: Index, findings: Sequence[Any] = ()) -> Tuple[str, List[Grid]]:
    """All tables, or all figures, at the full setting: the HTML, and the grids for counting.

    Args:
      kind: "table" or "figure".
      index: results of runs.
      findings: results of analyses.
    """
    parts: List[str] = []
    grids, idle = [], []
    for number in presets.names(kind):
        preset = presets.load(f"{kind}{number}")
        found = cells(preset, FULL) if preset.kind != "rates" else []
        finding, limits = _latest(findings, preset)
        grid = show.shown_grid(preset, found, index, limits, finding)
        grids.append(grid)
        if kind == "figure" and not finding and not any(record.get("n") for record in grid.records):
            idle.append(preset.source)
            continue
        parts.append(element("h3", escaped(grid.title), id=preset.name))
        if kind == "figure":
            parts.append(_charts([panel for panel in show.drawn(preset, found, index, finding) if panel.lines]))
            numbers = element("summary", "numbers") + beside_the_paper(grid.lines) + notes(grid.notes)
            parts.append(element("details", numbers))
        else:
            parts.append(beside_the_paper(grid.lines) + notes(grid.notes))
    if idle:
        parts.append(element("p", escaped(f"Nothing measured in these results: {', '.join(idle)}."), class_="quiet"))
    return section(f"{kind.capitalize()}s of the paper", f"{kind}s", *parts), grids


def _latest(findings: Sequence[Any], preset: Any) -> Tuple[Any, Budget]:
    """The finding of an analysis in full, or the last one under another budget, which is then said."""
    finding = analyses.latest(findings, preset, FULL)
    others = [row for row in findings if row.get("preset") == preset.name]
    if finding is None and others:
        return others[-1], budget(others[-1]["budget"])
    return finding, FULL


def _charts(panels: Sequence[Panel]) -> str:
    colours = colours_of(panels)
    kind = "charts one" if len(panels) == 1 else "charts"
    return element("div", *(chart(panel, colours) for panel in panels), class_=kind)


def of_claims(known: Known) -> str:
    """The paper's claims: how many have which verdict, then each with what it rests on."""
    found = verdicts(known)
    counts = [(sum(one.verdict == name for one in found), name) for name in VERDICTS]
    parts = [_tiles(counts), element("p", escaped(_RULE))]
    for name in VERDICTS:
        own = [one for one in found if one.verdict == name]
        if own:
            parts.append(element("h3", escaped(f"{name.capitalize()}: {len(own)}")))
            parts += [_claim(one) for one in own]
    return section("Claims of the paper", "claims", *parts)


_RULE = (
    "A comparison counts by Student's t at 1 % over the seeds; one seed, a run that is short of its epochs, or a "
    "rate that is a stand-in leave it open, whatever the number. Verdicts are worked out from the rows, none is "
    "written by hand."
)


def _claim(one: Verdict) -> str:
    words = {True: "holds", False: "fails", None: "open"}
    items = [element("li", element("b", words[e.holds]), escaped(f" {e.words}")) for e in one.evidence]
    rows = f"Rows: {', '.join(one.rows)}" if one.rows else "Rows: none"
    more = element("details", element("summary", "evidence"), element("ul", *items), element("p", escaped(rows)))
    said = element("p", escaped(one.claim), " ", element("span", escaped(f"({one.source})"), class_="quiet"))
    return element("div", said, element("p", escaped(one.why), class_="quiet") if one.why else "", more)


def of_noise(index: Index) -> str:
    """What RBD is: the formula, SGD at lr d/D beside it, the best rates."""
    shown = noise.grid(index)
    rates = element("details", element("summary", "best learning rates"), notes(noise.best_rates(index)))
    along = noise.by_epoch(index)
    parts = [element("p", escaped(noise.SUMMARY)), table(shown.lines), notes(shown.notes)]
    parts += [table(along.lines), notes(along.notes)] if len(along.lines) > 1 else []
    parts.append(rates)
    return section("What RBD is", "rbd", *parts)


def tiles(grids: Sequence[Grid], rows: Sequence[Row]) -> str:
    """What there is, in numbers."""
    records = [record for grid in grids for record in grid.records if "state" in record and "column" in record]
    cells_of: Dict[Any, Mapping[str, Any]] = {}
    for record in records:
        cells_of.setdefault((record["preset"], record["row"], record["column"]), record)
    known = [record for record in cells_of.values() if record["state"] == "measured"]
    numbers = [
        (len(rows), "runs"),
        (duration(sum(row["seconds"] for row in rows)), "of training"),
        (sum(not record["marks"] for record in known), "cells at the paper's setting"),
        (sum(bool(record["marks"]) for record in known), "cells short of it, marked"),
        (len(cells_of) - len(known), "cells not measured"),
    ]
    return _tiles(numbers)


def _tiles(numbers: Sequence[Tuple[Any, str]]) -> str:
    return element(
        "div", *(element("div", element("b", escaped(n)), escaped(what)) for n, what in numbers), class_="tiles"
    )


def of_runs(rows: Sequence[Row]) -> str:
    """Every run: by data set and network its curves and a table."""
    groups: Dict[str, List[Row]] = {}
    for row in merge(rows):
        settings = row["settings"]
        groups.setdefault(f"{settings['network']} on {settings['dataset']}", []).append(row)
    parts = []
    for title, own in sorted(groups.items()):
        own.sort(key=lambda row: -(row["values"].get("val_accuracy") or 0.0))
        lines = [line for line in map(_line, _longest(own)) if line is not None][:_LINES]
        parts.append(element("h3", escaped(f"{title}: {len(own)} run{'' if len(own) == 1 else 's'}")))
        if lines:
            name = f"validation accuracy, the best {_LINES}" if len(lines) == _LINES else "validation accuracy"
            parts.append(_charts([Panel(name, "epoch", "validation accuracy (%)", lines)]))
        heading = [
            "run",
            "seed",
            "epochs",
            "val. acc. %",
            "test acc. %",
            "d",
            "images/s",
            "time",
            "commit",
            "outcome",
        ]
        body = table([heading, *map(_run_line, own)])
        parts.append(element("details", element("summary", "all runs"), body))
    return section("Runs", "runs", *(parts or [element("p", "None.", class_="quiet")]))


def _longest(rows: Sequence[Row]) -> List[Row]:
    """Of runs that differ in their epochs alone, the longest: the others are its beginning."""
    longest: Dict[Any, Row] = {}
    for row in rows:
        same = stem(config_of(row)), row["seed"]
        if same not in longest or row["epochs"] > longest[same]["epochs"]:
            longest[same] = row
    return list(longest.values())


def _name(row: Row) -> str:
    settings = row["settings"]
    words = [settings["method"]]
    words += [f"d={row['d']}"] if settings["method"] != "sgd" and row.get("d") else []
    usual = {"distribution": "normal", "compartments": "global", "redraw_every": 1, "momentum": 0.0}
    words += [str(settings[key]) for key, value in usual.items() if settings.get(key, value) != value]
    return " ".join([*words, f"lr=2^{exponent(settings['learning_rate'])}"])


def _line(row: Row) -> Any:
    curve = [100 * value for value in row["curves"].get("val_accuracy", []) if value is not None]
    if not curve:
        return None
    name = f"{_name(row)} s{row['seed']}"
    return Line(name, [float(i) for i in range(1, len(curve) + 1)], curve, [0.0] * len(curve), None, 1)


def _run_line(row: Row) -> List[str]:
    def percent(name: str) -> str:
        value = row["values"].get(name)
        return "-" if value is None else f"{100 * value:.2f}"

    speed = row["values"].get("images_per_second")
    return [
        _name(row),
        str(row["seed"]),
        f"{row['epochs']} of {row['settings']['epochs']}",
        percent("val_accuracy"),
        percent("test_accuracy"),
        f"{row['d']:,}" if row.get("d") else "-",
        "-" if speed is None else f"{speed:,.0f}",
        duration(row["seconds"]),
        (row.get("commit") or "-")[:7] + ("+" if row.get("modified") else ""),
        row["outcome"],
    ]


def of_speed(folder: Path) -> str:
    """What ``rbd-ipu bench`` measured: ``targets.json`` and ``cost.json`` of a folder, where they are there."""
    parts = []
    for name in ("targets", "cost"):
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document["rows"]
        parts.append(element("h3", escaped("The project's targets" if name == "targets" else "The cost of a step")))
        if name == "targets" and document.get("targets"):
            from rbd_ipu.bench.targets import lines

            parts.append(table(lines(document["targets"]), left=2))
        else:
            parts.append(table(bench.cells(rows, bench.columns_for(rows)), left=1))
        parts.append(notes([f"{document['command']}; {_place(document)}"]))
    if not parts:
        return ""
    paper = "The paper, CIFAR-10 CNN at d = 10,000: 31 images a second on one IPU (GC2), 2.6 on 80 CPU cores."
    return section("Speed", "speed", element("p", escaped(paper)), *parts)


def _place(facts: Mapping[str, Any]) -> str:
    machine, versions = facts.get("machine") or {}, facts.get("versions") or {}
    commit = (facts.get("commit") or "unknown")[:7] + (" with changes" if facts.get("modified") else "")
    stack = f"Python {versions.get('python')}, TensorFlow {versions.get('tensorflow')}, Keras {versions.get('keras')}"
    where = f"{machine.get('processor')}, {machine.get('usable_cores')} cores, {machine.get('system')}"
    return f"commit {commit}; {where}; {stack}"


def of_environment(rows: Sequence[Row]) -> str:
    """Machines, stacks and commits that the runs were made on, with how many runs each."""
    places: Dict[str, int] = {}
    for row in rows:
        places[_place(row)] = places.get(_place(row), 0) + 1
    lines = [["where", "runs"], *([place, str(count)] for place, count in sorted(places.items()))]
    body = table(lines) if places else element("p", "No runs.", class_="quiet")
    return section("Environment", "environment", body)
