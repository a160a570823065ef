"""What ``rbd-ipu table`` and ``rbd-ipu figure`` do: plan, runs, screen and files."""

import argparse
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import files, plots, process
from rbd_ipu.config import Config
from rbd_ipu.data.datasets import data_folder
from rbd_ipu.errors import ConfigError, MissingDataError, say
from rbd_ipu.files import installed
from rbd_ipu.lab import analyses, pool, presets, results, tables, tuning
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.pool import Failure, Job, job
from rbd_ipu.lab.presets import Cell, Preset, cells
from rbd_ipu.lab.results import Costs, duration, key, stem
from rbd_ipu.lab.tables import Grid, grid
from rbd_ipu.provenance import command_line


class Plan(NamedTuple):
    """The runs of some cells.

    Attributes:
      jobs: all of them, each once.
      to_do: those that are neither known nor without data.
      words: the plan in lines, with what the full setting would cost.
      costs: what is expected of a run.
    """

    jobs: List[Job]
    to_do: List[Job]
    words: List[str]
    costs: Costs


def known(published: Path, folders: Iterable[Path]) -> List[results.Row]:
    """All results: of published files and of run folders, each run once.

    Raises:
      ConfigError: a file or folder cannot be read.
    """
    return results.merge(results.read(published), *map(results.from_folder, folders))


def check_published(path: Path, folder: bool = False) -> None:
    """Refuses a ``--results`` that is not there; of the default one, which a checkout has, that is said only.

    Args:
      path: what is given.
      folder: whether a file of rows will not do.

    Raises:
      ConfigError: there is nothing.
    """
    if path.is_dir() or path.exists() and not folder:
        return
    if path != results.PUBLISHED or path.exists():
        raise ConfigError(f"--results {path}: there is no such {'folder' if folder else 'file or folder'}")
    say(f"there is no folder {path} here, so that no run on record is known; --results tells where it is")


def to_run(found: Sequence[Cell]) -> Dict[str, Tuple[Config, str]]:
    """The runs of some cells, each once, by key: settings and a label."""
    runs: Dict[str, Tuple[Config, str]] = {}
    for cell in found:
        for config in cell.configs:
            runs.setdefault(key(config), (config, f"{cell.name}, seed {config.seed}"))
    return runs


def planned(preset: Preset, found: Sequence[Cell], rows: Sequence[results.Row], folder: Path) -> Plan:
    """What is to be run for a preset.

    Args:
      preset, found: the preset and its cells under a budget.
      rows: what is known.
      folder: of the queue.
    """
    index, costs = Index(rows), Costs(rows)
    jobs = [job(config, label, folder) for config, label in to_run(found).values()]
    # An analysis needs the weights, not the numbers alone.
    to_do = [one for one in jobs if not (one.ended() or preset.kind != "analysis" and index.has(one.config))]
    full = {key(config): config for cell in found for config in cell.full}
    words = [f"{preset.source}: {len(found)} cells; in full: {costs.total(full.values())}"]
    for dataset, reason in absent([one.config for one in to_do]).items():
        words.append(f"{sum(one.config.dataset == dataset for one in to_do)} runs are left out: {reason}")
        to_do = [one for one in to_do if one.config.dataset != dataset]
    return Plan(jobs, to_do, words, costs)


def train(plan: Plan, parallel: Optional[int], say: Callable[[str], None]) -> List[Failure]:
    """Makes the runs that are to do; see :func:`rbd_ipu.lab.pool.run`.

    Args:
      plan: from :func:`planned`.
      parallel: how many at once; None for as many as the machine takes.
      say: gets lines of progress.
    """
    jobs = plan.to_do
    if parallel is None:
        parallel = max(1, min(process.default_jobs(), len(jobs)))
    if jobs:
        total = plan.costs.total(one.config for one in jobs)
        say(f"{parallel or 1} at once: about {duration(total.seconds / max(1, parallel))}")
    return pool.run(jobs, parallel, plan.costs.seconds, say)


def summary(plan: Plan, budget: str) -> str:
    """One line on what is left."""
    left = plan.costs.total(one.config for one in plan.to_do) if plan.to_do else "none"
    return f"budget {budget}: {len(plan.jobs)} runs; to do: {left}"


def absent(configs: Sequence[Config]) -> Dict[str, str]:
    """Data sets that are not here, and what to do about it: said once, not by every run."""

    reasons: Dict[str, str] = {}
    places: Any = sorted({(config.dataset, config.data_dir or "") for config in configs})
    for dataset, data_dir in places:
        if dataset != "digits":
            try:
                data_folder(dataset, data_dir or None)
            except MissingDataError as error:
                reasons[dataset] = str(error)
    return reasons


OUTPUT = Path("runs/paper")
EPILOG = """Runs are made in processes of their own, several at once, under DIR/runs, one folder for each set of
settings. Whatever stops them, the same command goes on: finished runs are never made again, and tables and figures
share them. A cell that is not at the paper's setting is marked. Exit status: 0 shown, 1 a run failed, 2 wrong
arguments, 130 Ctrl-C (what there is, is shown), 143 SIGTERM."""


def configure(parser: argparse.ArgumentParser, kind: str) -> None:
    """Adds the arguments of ``rbd-ipu table`` or ``rbd-ipu figure``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("number", metavar="N", choices=presets.names(kind), help=f"one of {', '.join(presets.names(kind))}")
    add("--budget", default="full", metavar="BUDGET", help=f"{presets.HELP}; default full")
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help='train only cells with TEXT in their name "ROW, COLUMN"; may be repeated; all are shown',
    )
    add("--jobs", type=_jobs, metavar="J", help="runs at once; default one a core; 0: in this process, one by one")
    add("--output", type=Path, metavar="DIR", help=f"for runs, tables and pictures; default {OUTPUT}")
    add("--format", choices=sorted(tables.FORMATS), default="text", help="what is printed; default text")
    add("--only-show", action="store_true", help="train nothing; without --output, write nothing either")
    add("--runs", type=Path, action="append", default=[], metavar="DIR", help="more runs; may be repeated")
    add("--results", type=Path, default=results.PUBLISHED, metavar="PATH", help="published rows; default results")


def run(arguments: argparse.Namespace, kind: str) -> int:
    """Trains what is missing, prints the table, writes the files; returns the exit status."""
    check_published(arguments.results)
    preset = presets.load(f"{kind}{arguments.number}")
    limits = presets.budget(arguments.budget)
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
    print(tables.FORMATS[arguments.format](shown))
    if arguments.output or not arguments.only_show:
        _write(output, name, shown)
        _write_rows(output / f"{name}.jsonl", found, rows, finding)
        if preset.kind != "table":
            _draw(output / f"{name}.png", shown.title, drawn(preset, found, Index(rows), finding))
        say(f"{output}/{name}.* and the runs in {output}/runs")
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
    preset: Preset, found: Sequence[Cell], index: Index, limits: presets.Budget, finding: Any = None
) -> Grid:
    """The grid of a preset of any kind, with a word on the budget; ``finding`` is the row of an analysis."""
    if preset.kind == "rates":
        return tables.grid_of_rates(preset)
    return _titled(
        analyses.grid(preset, finding) if preset.kind == "analysis" else grid(preset, found, index), limits
    )


def _titled(shown: Grid, limits: presets.Budget) -> Grid:
    if limits.name == "full":
        return shown
    word = "to see that it works, not to be compared" if limits.tiny else "not the full setting"
    return shown._replace(title=f"{shown.title} [budget {limits.name}: {word}]")


def drawn(preset: Preset, found: Sequence[Cell], index: Index, finding: Any = None) -> List[Any]:
    """The panels of a figure of any kind."""
    return analyses.panels(preset, finding) if preset.kind == "analysis" else tables.panels(preset, found, index)


def _known(arguments: argparse.Namespace, output: Path) -> List[results.Row]:
    own = [output / "runs"] if (output / "runs").exists() else []
    return known(arguments.results, [*arguments.runs, *own])


def _train(arguments: argparse.Namespace, preset: Preset, found: Sequence[Cell], output: Path) -> int:
    plan = planned(preset, found, _known(arguments, output), output / "runs")
    for line in [*plan.words, summary(plan, arguments.budget)]:
        say(line)
    if arguments.only_show:
        return 0
    try:
        return 1 if train(plan, arguments.jobs, say) else 0
    except KeyboardInterrupt:
        say("interrupted by Ctrl-C; the same command goes on from here")
        return 130


def _rates(
    arguments: argparse.Namespace,
    preset: Preset,
    limits: presets.Budget,
    found: Sequence[Cell],
    wanted: Sequence[Cell],
    output: Path,
    name: str,
) -> int:
    """Table 4: searches instead of runs."""
    places = tuning.searches(found, output / "tune")
    chosen = [places[cell.row, cell.column] for cell in wanted]
    to_do = [search for search in dict.fromkeys(chosen) if search.choice() is None]
    say(f"{preset.source}: {len(places)} searches, about 6 rates each: {tuning.cost(list(places.values()))}")
    for dataset, reason in absent([search.config for search in to_do]).items():
        say(f"searches on {dataset} are left out: {reason}")
        to_do = [search for search in to_do if search.config.dataset != dataset]
    say(f"budget {limits.name}: to do: {len(to_do) or 'none'}")
    status = 0
    if not arguments.only_show:
        try:
            status = min(1, tuning.run(to_do, limits, arguments.jobs, say))
        except KeyboardInterrupt:
            status = 130
    shown = _titled(tables.grid_of_rates(preset, places), limits)
    print(tables.FORMATS[arguments.format](shown))
    if arguments.output or not arguments.only_show:
        _write(output, name, shown)
    return status


def _analysed(
    arguments: argparse.Namespace, preset: Preset, limits: presets.Budget, found: Sequence[Cell], file: Path
) -> Optional[Any]:
    """The row of an analysis: a known one with these options, else a new one; None for other presets."""
    if preset.kind != "analysis":
        return None
    rows = [*results.read(arguments.results, "analysis"), *results.read(file, "analysis")]
    finding = analyses.latest(rows, preset, limits)
    if arguments.only_show or finding is not None and finding["options"] == preset.options:
        return finding

    runs = to_run(found).values()
    jobs = [one for one in (job(config, label, file.parent / "runs") for config, label in runs) if one.ended()]
    return analyses.analyse(preset, limits, jobs, command_line(arguments.words))


def _write(output: Path, name: str, shown: Grid) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for form, write in tables.FORMATS.items():
        files.write_text(output / f"{name}.{tables.ENDINGS[form]}", write(shown) + "\n")


def _write_rows(file: Path, found: Sequence[Cell], rows: Sequence[results.Row], finding: Any) -> None:
    """The results behind the table, to be published."""
    used = {(stem(config), config.seed) for cell in found for config in cell.configs}
    own = [row for row in rows for config in [results.config_of(row)] if (stem(config), config.seed) in used]
    own += [finding] if finding else []
    if own:
        results.write(file, own)


def _draw(path: Path, title: str, panels: Sequence[Any]) -> None:
    if not installed("matplotlib"):
        say('no picture: matplotlib is missing; pip install "rbd-ipu[plots]"')
    elif panels:
        plots.draw(path, title, panels)


def _jobs(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be an integer from 0, not {text!r}")
    return int(text)
