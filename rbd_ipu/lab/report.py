"""``rbd-ipu report``: all results as one HTML page that needs nothing else, not even a network.

The style sheet has light and dark by the reader's system, and one column on a phone. Pictures are the SVG of
:mod:`rbd_ipu.plots`, as data inside the page; their numbers stand in the tables below them.
"""

import base64
import html
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import __version__
from rbd_ipu.config import OF_TEXT
from rbd_ipu.files import installed
from rbd_ipu.lab import analyses, presets, tables
from rbd_ipu.lab import paper as show
from rbd_ipu.lab.bench import report as bench
from rbd_ipu.lab.bench import report as bench_report
from rbd_ipu.lab.claims import VERDICTS, Known, Verdict, verdicts
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.presets import NAMED, Budget, budget, cells
from rbd_ipu.lab.results import VALUES, Costs, Row, config_of, duration, merge, stem
from rbd_ipu.lab.tables import Grid, exponent
from rbd_ipu.plots import Line, Panel, svgs

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1d2329;--quiet:#656d76;--rule:#d8dee4;--soft:#f4f6f8;--link:#0860b8}
@media (prefers-color-scheme:dark){:root{--page:#12161b;--ink:#e4e8ec;--quiet:#98a2ad;--rule:#313942;--soft:#1b2128;
--link:#6cb2f5}img{filter:invert(.88) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,nav{max-width:74rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--rule)}
h3{font-size:1.05rem;line-height:1.35;margin:2rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;list-style:none;padding:0;margin:.8rem 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;margin:1.2rem 0}
.tiles div{background:var(--soft);border-radius:.5rem;padding:.6rem .8rem;
color:var(--quiet);font-size:.88rem;line-height:1.3}
.tiles b{display:block;font-size:1.45rem;color:var(--ink);font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--rule);border-radius:.5rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.38rem .65rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
tbody tr:last-child td{border-bottom:0}
th{font-weight:600;background:var(--soft)}
td small{display:block;color:var(--quiet);font-size:.8rem}
.words{text-align:left}
th:first-child,td:first-child{position:sticky;left:0;background:var(--page)}
th:first-child{background:var(--soft)}
td:first-child{font-weight:500;border-right:1px solid var(--rule)}
.quiet{color:var(--quiet)}
.notes{color:var(--quiet);font-size:.84rem;padding-left:1.1rem;margin:.4rem 0;max-width:60rem}
.charts.one{max-width:38rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1.2rem}
img{display:block;width:100%;height:auto}
details{margin:.6rem 0}
summary{cursor:pointer;color:var(--link)}
footer{margin:3rem 0 2rem;color:var(--quiet);font-size:.84rem}
@media (max-width:30rem){body{font-size:15px}th,td{padding:.34rem .5rem}
th:first-child,td:first-child{white-space:normal;min-width:6.2rem}}
@media print{.scroll{overflow:visible}}
"""


def escaped(text: Any) -> str:
    """Text as HTML shows it.

    Example:
      >>> escaped("d < D & more")
      'd &lt; D &amp; more'
    """
    return html.escape(str(text))


def element(name: str, *content: str, **attributes: Any) -> str:
    """An element around content that is HTML already; ``class_`` is the attribute class.

    Example:
      >>> element("p", "text", class_="note")
      '<p class="note">text</p>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{''.join(content)}</{name}>"


def table(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of texts in a box that scrolls sideways where it must; the first line is its heading.

    Args:
      lines: equally long.
      left: columns of words; the others, of numbers, are aligned to the right.
    """

    return _table(lines, lambda cells, name: [_cell(cell, name, i < left) for i, cell in enumerate(cells)])


def _table(lines: Sequence[Sequence[str]], cells: Callable[[Sequence[str], str], List[str]]) -> str:
    head = element("thead", element("tr", *cells(lines[0], "th")))
    body = element("tbody", *(element("tr", *cells(line, "td")) for line in lines[1:]))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


_QUIET = ("not measured", "not on record", "-")


def _cell(text: str, name: str, words: bool, more: str = "") -> str:
    content = element("span", escaped(text), class_="quiet") if text in _QUIET else escaped(text)
    return element(name, content, more, **({"class_": "words"} if words else {}))


def beside_the_paper(lines: Sequence[Sequence[str]]) -> str:
    """A table in which a column ``NAME, paper`` stands below the numbers of ``NAME``, in the same places."""
    theirs = {i for i, name in enumerate(lines[0]) if i and name == f"{lines[0][i - 1]}, paper"}

    def row(cells: Sequence[str], name: str) -> List[str]:
        parts = []
        for i, text in enumerate(cells):
            if i not in theirs:
                below = cells[i + 1] if i + 1 in theirs and name == "td" else ""
                parts.append(_cell(text, name, i == 0, element("small", escaped(f"paper {below}")) if below else ""))
        return parts

    return _table(lines, row)


def notes(sentences: Iterable[str]) -> str:
    """A list of small remarks; nothing for none."""
    items = [element("li", escaped(sentence)) for sentence in sentences]
    return element("ul", *items, class_="notes") if items else ""


def section(title: str, anchor: str, *content: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return element("section", element("h2", escaped(title)), *content, id=anchor)


FULL = NAMED["full"]
_LINES = 8  # of a chart of runs


def of_the_paper(
    kind: str, index: Index, findings: Sequence[Any] = (), costs: Optional[Costs] = None
) -> Tuple[str, List[Grid]]:
    """All tables, or all figures, at the full setting: the HTML, and the grids for counting.

    A figure of which nothing is measured says what would make it.

    Args:
      kind: "table" or "figure".
      index: results of runs.
      findings: results of analyses.
      costs: what runs cost; None for rough guesses.
    """
    parts: List[str] = []
    grids = []
    for number in presets.names(kind):
        preset = presets.load(f"{kind}{number}")
        found = cells(preset, FULL) if preset.kind != "rates" else []
        finding, limits = _latest(findings, preset)
        grid = show.shown_grid(preset, found, index, limits, finding)
        grids.append(grid)
        parts.append(element("h3", escaped(grid.title), id=preset.name))
        if kind == "figure":
            if finding or any(record.get("n") for record in grid.records):
                parts.append(pictures([panel for panel in show.drawn(preset, found, index, finding) if panel.lines]))
            else:
                runs = [config for config, _ in show.to_run(found).values()]
                needs = f": {(costs or Costs()).total(runs)}" if runs else ""
                words = f"Nothing measured in these results. To measure it: rbd-ipu figure {number}{needs}."
                parts.append(element("p", escaped(words), class_="quiet"))
            numbers = element("summary", "numbers") + beside_the_paper(grid.lines) + notes(grid.notes)
            parts.append(element("details", numbers))
        else:
            parts.append(beside_the_paper(grid.lines) + notes(grid.notes))
    return section(f"{kind.capitalize()}s of the paper", f"{kind}s", *parts), grids


def _latest(findings: Sequence[Any], preset: Any) -> Tuple[Any, Budget]:
    """The finding of an analysis in full, or the last one under another budget, which is then said."""
    finding = analyses.latest(findings, preset, FULL)
    others = [row for row in findings if row.get("preset") == preset.name]
    if finding is None and others:
        return others[-1], budget(others[-1]["budget"])
    return finding, FULL


def pictures(panels: Sequence[Panel]) -> str:
    """A picture for each panel, inside the page; without matplotlib a word on what is missing."""
    if not installed("matplotlib"):
        return element("p", 'No pictures: matplotlib is missing; pip install "rbd-ipu[plots]".', class_="quiet")
    images = []
    for panel, svg in zip(panels, svgs(panels)):
        words = escaped(f"{panel.title}: {panel.ylabel} against {panel.xlabel}")
        images.append(f'<img alt="{words}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">')
    return element("div", *images, class_="charts one" if len(images) == 1 else "charts")


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
    shown = tables.grid_of_noise(index)
    rates = element("details", element("summary", "best learning rates"), notes(tables.best_rates(index)))
    along = tables.grid_of_noise_by_epoch(index)
    parts = [element("p", escaped(tables.NOISE)), table(shown.lines), notes(shown.notes)]
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
        judged = _OF_TEXT if own[0]["settings"]["network"] in OF_TEXT else _OF_IMAGES
        own.sort(key=judged.order)
        lines = [line for line in (_line(row, judged) for row in _longest(own)) if line is not None][:_LINES]
        parts.append(element("h3", escaped(f"{title}: {len(own)} run{'' if len(own) == 1 else 's'}")))
        if lines:
            name = f"{judged.name}, the best {_LINES}" if len(lines) == _LINES else judged.name
            parts.append(pictures([Panel(name, "epoch", judged.label, lines)]))
        heading = [
            "run",
            "seed",
            "epochs",
            *judged.columns.values(),
            "d",
            "images/s",
            "time",
            "commit",
            "outcome",
        ]
        body = table([heading, *(_run_line(row, judged) for row in own)])
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


class _Judged(NamedTuple):
    """What runs of one kind are judged by: the curve, its name and label, its scale, and columns with headings."""

    curve: str
    name: str
    label: str
    scale: float
    columns: Mapping[str, str]

    def order(self, row: Row) -> float:
        """The best first, and last a run that has no such number."""
        value = row["values"].get(self.curve)
        if value is None:
            return math.inf
        return value if self.curve.endswith("loss") else -value


_OF_IMAGES = _Judged(
    "val_accuracy",
    "validation accuracy",
    "validation accuracy (%)",
    100.0,
    {"val_accuracy": "val. acc. %", "test_accuracy": "test acc. %"},
)
_OF_TEXT = _Judged(
    "val_loss",
    "validation loss",
    "validation loss (nats)",
    1.0,
    {
        "val_loss": "val. loss",
        "val_perplexity": "val. perplexity",
        "test_loss": "test loss",
        "test_perplexity": "test perplexity",
    },
)


def _line(row: Row, judged: _Judged) -> Any:
    curve = [judged.scale * value for value in row["curves"].get(judged.curve, []) if value is not None]
    if not curve:
        return None
    name = f"{_name(row)} s{row['seed']}"
    return Line(name, [float(i) for i in range(1, len(curve) + 1)], curve, [0.0] * len(curve), None, 1)


def _run_line(row: Row, judged: _Judged) -> List[str]:
    def number(name: str) -> str:
        value = row["values"].get(name)
        return "-" if value is None else f"{VALUES[name].scale * value:.{VALUES[name].places}f}"

    speed = row["values"].get("images_per_second")
    return [
        _name(row),
        str(row["seed"]),
        f"{row['epochs']} of {row['settings']['epochs']}",
        *map(number, judged.columns),
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
        document = bench.read(path)
        rows = document["rows"]
        parts.append(element("h3", escaped("The project's targets" if name == "targets" else "The cost of a step")))
        if name == "targets" and document.get("targets"):
            parts.append(table(bench_report.lines(document["targets"]), left=2))
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


TITLE = "Training in random subspaces: results"
_SUMMARY = (
    "rbd_ipu beside the paper Improving Neural Network Training in Low Dimensional Random Bases (Gressmann, "
    "Eaton-Rosen and Luschi, NeurIPS 2020). A number in square brackets refers to a remark on what is not as in the "
    "paper."
)


def page(
    rows: Sequence[Row], performance: Path, made: str, findings: Sequence[Any] = (), paper_only: bool = False
) -> str:
    """The report as one HTML document.

    Args:
      rows: results, each run once.
      performance: the folder of the files of ``rbd-ipu bench``; it may be missing.
      made: when the page was made, for its foot.
      findings: results of analyses.
      paper_only: leave out the list of runs and the speed.
    """
    index = Index(rows)
    tables, grids = of_the_paper("table", index)
    figures, more = of_the_paper("figure", index, findings, Costs(rows))
    parts = [of_claims(Known(rows, findings, performance)), of_noise(index), tables, figures]
    parts += [] if paper_only else [of_runs(rows), of_speed(performance)]
    parts.append(of_environment(rows))
    anchors = [("claims", "Claims"), ("rbd", "What RBD is"), ("tables", "Tables"), ("figures", "Figures")]
    anchors += [("runs", "Runs"), ("speed", "Speed")]
    links = [
        element("li", element("a", escaped(name), href=f"#{anchor}"))
        for anchor, name in [*anchors, ("environment", "Environment")]
        if any(f'id="{anchor}"' in part for part in parts)
    ]
    head = element(
        "head",
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        element("title", escaped(TITLE)),
        element("style", STYLE),
    )
    header = element("header", element("h1", escaped(TITLE)), element("p", escaped(_SUMMARY)))
    foot = element("footer", escaped(f"Made by rbd-ipu {__version__}, {made}."))
    body = element(
        "body",
        header,
        element("nav", element("ul", *links)),
        element("main", tiles([*grids, *more], rows), *parts, foot),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


__all__ = ["page"]
