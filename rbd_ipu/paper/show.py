"""What ``rbd-ipu table`` and ``rbd-ipu figure`` share: arguments, plan, runs, screen and files."""

import argparse
import sys
from pathlib import Path
from typing import Any, List, Optional, Sequence

from rbd_ipu.config import ConfigError
from rbd_ipu.paper import analyses, budget, formats, presets, rates, results, training, tunings
from rbd_ipu.paper.cells import Cell, cells
from rbd_ipu.paper.identity import stem
from rbd_ipu.paper.measure import Index
from rbd_ipu.paper.presets import Preset
from rbd_ipu.paper.table import Grid, grid
from rbd_ipu.records import atomic
from rbd_ipu.records.optional import installed

OUTPUT = Path("runs/paper")
EPILOG = """Runs are made in processes of their own, several at once, under DIR/runs, one folder for each set of
settings. Whatever stops them, the same command goes on: finished runs are never made again, and tables and figures
share them. A cell that is not at the paper's setting is marked. Exit status: 0 shown, 1 a run failed, 2 wrong
arguments, 130 Ctrl-C (what there is, is shown)."""


def configure(parser: argparse.ArgumentParser, kind: str) -> None:
    """Adds the arguments of ``rbd-ipu table`` or ``rbd-ipu figure``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("number", metavar="N", choices=presets.names(kind), help=f"one of {', '.join(presets.names(kind))}")
    add("--budget", default="full", metavar="BUDGET", help=f"{budget.HELP}; default full")
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help='train only cells with TEXT in their name "ROW, COLUMN"; may be repeated; all are shown',
    )
    add("--jobs", type=_jobs, metavar="J", help="runs at once; default one a core; 0: in this process, one by one")
    add("--output", type=Path, metavar="DIR", help=f"for runs, tables and pictures; default {OUTPUT}")
    add("--format", choices=sorted(formats.FORMATS), default="text", help="what is printed; default text")
    add("--only-show", action="store_true", help="train nothing; without --output, write nothing either")
    add("--runs", type=Path, action="append", default=[], metavar="DIR", help="more runs; may be repeated")
    add("--results", type=Path, default=Path("results"), metavar="PATH", help="published rows; default results")


def run(arguments: argparse.Namespace, kind: str) -> int:
    """Trains what is missing, prints the table, writes the files; returns the exit status."""
    preset = presets.load(f"{kind}{arguments.number}")
    limits = budget.budget(arguments.budget)
    output = arguments.output or OUTPUT
    name = preset.name if limits.name == "full" else f"{preset.name}-{limits.name}"
    found = cells(preset, limits)
    wanted = _only(arguments.only, found)
    if preset.kind == "rates":
        return _rates(arguments, preset, limits, found, wanted, output, name)
    status = _train(arguments, preset, wanted, output) if wanted else 0
    rows = _known(arguments, output)
    finding = _analysed(arguments, preset, limits, found, output / f"{name}.jsonl") if status == 0 else None
    shown = shown_grid(preset, found, Index(rows), limits, finding)
    print(formats.FORMATS[arguments.format](shown))
    if arguments.output or not arguments.only_show:
        _write(output, name, shown)
        _write_rows(output / f"{name}.jsonl", found, rows, finding)
        if preset.kind != "table":
            _draw(output / f"{name}.png", shown.title, drawn(preset, found, Index(rows), finding))
        _tell(f"{output}/{name}.* and the runs in {output}/runs")
    return status


def _only(texts: Sequence[str], found: Sequence[Cell]) -> List[Cell]:
    """The cells with one of the texts in their name, in any case of letters; without texts all of them."""
    for text in texts:
        if not any(text.lower() in cell.name.lower() for cell in found):
            raise ConfigError(f"--only {text}: no cell has that in its name; there are {_names(found)}")
    return [cell for cell in found if not texts or any(text.lower() in cell.name.lower() for text in texts)]


def _names(found: Sequence[Cell]) -> str:
    return "; ".join(f'"{cell.name}"' for cell in found) or "none here"


def shown_grid(
    preset: Preset, found: Sequence[Cell], index: Index, limits: budget.Budget, finding: Any = None
) -> Grid:
    """The grid of a preset of any kind, with a word on the budget; ``finding`` is the row of an analysis."""
    if preset.kind == "rates":
        return rates.grid(preset)
    return _titled(
        analyses.grid(preset, finding) if preset.kind == "analysis" else grid(preset, found, index), limits
    )


def _titled(shown: Grid, limits: budget.Budget) -> Grid:
    if limits.name == "full":
        return shown
    word = "to see that it works, not to be compared" if limits.tiny else "not the full setting"
    return shown._replace(title=f"{shown.title} [budget {limits.name}: {word}]")


def drawn(preset: Preset, found: Sequence[Cell], index: Index, finding: Any = None) -> List[Any]:
    """The panels of a figure of any kind."""
    from rbd_ipu.paper import figure

    return analyses.panels(finding) if preset.kind == "analysis" else figure.panels(preset, found, index)


def _known(arguments: argparse.Namespace, output: Path) -> List[results.Row]:
    own = [output / "runs"] if (output / "runs").exists() else []
    return training.known(arguments.results, [*arguments.runs, *own])


def _train(arguments: argparse.Namespace, preset: Preset, found: Sequence[Cell], output: Path) -> int:
    plan = training.plan(preset, found, _known(arguments, output), output / "runs")
    for line in [*plan.words, training.summary(plan, arguments.budget)]:
        _tell(line)
    if arguments.only_show:
        return 0
    try:
        return 1 if training.train(plan, arguments.jobs, _tell) else 0
    except KeyboardInterrupt:
        _tell("interrupted by Ctrl-C; the same command goes on from here")
        return 130


def _rates(
    arguments: argparse.Namespace,
    preset: Preset,
    limits: budget.Budget,
    found: Sequence[Cell],
    wanted: Sequence[Cell],
    output: Path,
    name: str,
) -> int:
    """Table 4: searches instead of runs."""
    places = tunings.searches(found, output / "tune")
    chosen = [places[cell.row, cell.column] for cell in wanted]
    to_do = [search for search in dict.fromkeys(chosen) if search.choice() is None]
    _tell(f"{preset.source}: {len(places)} searches, about 6 rates each: {tunings.cost(list(places.values()))}")
    for dataset, reason in training.absent([search.config for search in to_do]).items():
        _tell(f"searches on {dataset} are left out: {reason}")
        to_do = [search for search in to_do if search.config.dataset != dataset]
    _tell(f"budget {limits.name}: to do: {len(to_do) or 'none'}")
    status = 0
    if not arguments.only_show:
        try:
            status = min(1, tunings.run(to_do, limits, arguments.jobs, _tell))
        except KeyboardInterrupt:
            status = 130
    shown = _titled(rates.grid(preset, places), limits)
    print(formats.FORMATS[arguments.format](shown))
    if arguments.output or not arguments.only_show:
        _write(output, name, shown)
    return status


def _analysed(
    arguments: argparse.Namespace, preset: Preset, limits: budget.Budget, found: Sequence[Cell], file: Path
) -> Optional[Any]:
    """The row of an analysis: a known one with these options, else a new one; None for other presets."""
    if preset.kind != "analysis":
        return None
    rows = [*results.read(arguments.results, "analysis"), *results.read(file, "analysis")]
    finding = analyses.latest(rows, preset, limits)
    if arguments.only_show or finding is not None and finding["options"] == preset.options:
        return finding
    from rbd_ipu.paper.jobs import job
    from rbd_ipu.records.provenance import command_line

    runs = training.to_run(found).values()
    jobs = [one for one in (job(config, label, file.parent / "runs") for config, label in runs) if one.ended()]
    return analyses.analyse(preset, limits, jobs, command_line(arguments.words))


def _write(output: Path, name: str, shown: Grid) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for form, write in formats.FORMATS.items():
        atomic.write_text(output / f"{name}.{formats.ENDINGS[form]}", write(shown) + "\n")


def _write_rows(file: Path, found: Sequence[Cell], rows: Sequence[results.Row], finding: Any) -> None:
    """The results behind the table, to be published."""
    used = {(stem(config), config.seed) for cell in found for config in cell.configs}
    own = [row for row in rows for config in [results.config_of(row)] if (stem(config), config.seed) in used]
    own += [finding] if finding else []
    if own:
        results.write(file, own)


def _draw(path: Path, title: str, panels: Sequence[Any]) -> None:
    if not installed("matplotlib"):
        _tell('no picture: matplotlib is missing; pip install "rbd-ipu[plots]"')
    elif panels:
        from rbd_ipu.paper import figure

        figure.draw(path, title, panels)


def _tell(text: str) -> None:
    print(f"rbd-ipu: {text}", file=sys.stderr, flush=True)


def _jobs(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be an integer from 0, not {text!r}")
    return int(text)
