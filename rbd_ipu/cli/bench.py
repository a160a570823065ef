"""``rbd-ipu bench``: what a step costs, beside a plain SGD step."""

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

from rbd_ipu import files
from rbd_ipu.cli.settings import count
from rbd_ipu.errors import ConfigError, say
from rbd_ipu.lab.bench.cases import DEFAULT_DIMS, KERAS, KERAS_JIT, WORKLOADS, Case, Choices, grid
from rbd_ipu.provenance import command_line

DEFAULTS = {
    "networks": ["cnn-cifar10"],
    "methods": ["sgd", "rbd"],
    "distributions": ["normal"],
    "sources": ["auto"],
    "compartments": ["global"],
}
PRESETS = ("targets",)
EPILOG = """Lists are separated by commas. Images are random numbers: speed does not depend on them. A plain SGD step
is measured for every network, all cases in turn in every round; the first step of each, which compiles, is not
counted. Exit status: 0 measured, 1 a target is not met, 2 wrong choices, 4 a file cannot be written, 130 Ctrl-C
(what was measured in whole rounds is shown and written)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--preset", choices=PRESETS, help="the project's own targets: each with what was measured and if it is met")
    add("--networks", type=_names, metavar="NAMES", help=f"of {', '.join(WORKLOADS)}; default cnn-cifar10")
    add("--methods", type=_names, metavar="NAMES", help="such as sgd,rbd,fpd; default sgd,rbd")
    add("--distributions", type=_names, metavar="NAMES", help="such as normal,hadamard; default normal")
    add("--sources", type=_names, metavar="NAMES", help="auto,native,counter; default auto")
    add("--compartments", type=_names, metavar="NAMES", help="such as global,even:4; default global")
    add("--dims", type=_dims, metavar="NUMBERS", help=f"d; default {','.join(map(str, DEFAULT_DIMS))}")
    add("--batch-size", type=count, default=None, metavar="N", help="images a step; default 32")
    add("--rounds", type=count, default=7, metavar="N", help="default 7")
    add(
        "--seconds",
        type=_seconds,
        default=0.5,
        metavar="S",
        help="of each case a round, at least 3 steps; default 0.5",
    )
    add("--keras", action="store_true", help="plain SGD by Keras' own fit as well")
    add("--workers", type=_dims, metavar="NUMBERS", help="instead: images/s of so many processes, such as 1,2,4")
    add("--exchanges", type=_names, metavar="NAMES", help="of --workers: auto,coordinates,update; default auto")
    add("--parallel", type=_names, metavar="NAMES", help="of --workers: such as own,shared; default own")
    add("--memory", action="store_true", help="peak memory too; a new process for each case, so it takes a while")
    add("--output", type=Path, metavar="FILE.json", help="everything that was measured")
    add("--plot", type=Path, metavar="FILE.png", help="ms a step against d")


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints the table, writes the files; returns the exit status."""
    _check_files(arguments)
    if arguments.workers:
        return _by_workers(arguments)
    if arguments.exchanges or arguments.parallel:
        raise ConfigError("--exchanges and --parallel are for --workers")
    cases = _target_cases(arguments) if arguments.preset else _grid(arguments)

    from rbd_ipu import text_table
    from rbd_ipu.lab.bench import report, rows

    document, complete = report.measured(cases, arguments.rounds, arguments.seconds, say)
    document = {"command": command_line(arguments.words), **document}
    _write(arguments, document)
    if complete and (arguments.memory or arguments.preset):
        wanted = cases
        if not arguments.memory:
            wanted = [case for target in rows.TARGETS for case in rows.remembered(target) if case in cases]
        try:
            report.add_memory(document, wanted, say)
        except KeyboardInterrupt:
            complete = False
    verdicts = rows.judge(document["rows"], document["machine"]["usable_cores"]) if arguments.preset else []
    if verdicts:
        document["targets"] = verdicts
    print(f"{report.machine_line(document)}\n\n{rows.render(document['rows'])}")
    if verdicts:
        print(f"\n{text_table.text(rows.lines(verdicts), left=2)}")
    _write(arguments, document)
    if not complete:
        return _interrupted(document["rounds"])
    return 1 if any(verdict["met"] is False for verdict in verdicts) else 0


def _by_workers(arguments: argparse.Namespace) -> int:
    """Measures teams of processes, which take turns; returns the exit status."""
    from rbd_ipu import text_table
    from rbd_ipu.lab.bench import report, team
    from rbd_ipu.parallel.plan import plan

    wanted = itertools.product(arguments.exchanges or ["auto"], arguments.parallel or ["own"])
    plans = [{"exchange": exchange, "parallel": parallel} for exchange, parallel in wanted]
    try:
        for one in plans:
            plan(**one)
    except ValueError as error:
        raise ConfigError(f"--exchanges, --parallel: {error}") from None
    if arguments.preset or arguments.plot or arguments.memory or arguments.keras:
        raise ConfigError("--workers measures the Trainer; leave out --preset, --plot, --memory and --keras")
    began = report.load()
    pairs = team.teams(_grid(arguments), arguments.workers, plans)
    rows, complete = team.measured(pairs, arguments.rounds, arguments.seconds, say)
    document = {
        "command": command_line(arguments.words),
        **report.surroundings(began),
        "rows": rows,
    }
    print(f"{report.machine_line(document)}\n\n{text_table.text(team.table(rows), left=1)}")
    _write(arguments, document)
    return 0 if complete else _interrupted(len(rows[0]["round_ms"]))


def _interrupted(rounds: int) -> int:
    print(f"rbd-ipu: interrupted by Ctrl-C after {rounds} rounds", file=sys.stderr)
    return 130


def _grid(arguments: argparse.Namespace) -> List[Case]:
    given = {name: getattr(arguments, name) or default for name, default in DEFAULTS.items()}
    batch_size = arguments.batch_size or 32
    cases = grid(Choices(**given, dims=arguments.dims, batch_size=batch_size))
    if arguments.keras:
        loops = _keras_loops()
        plain = [case for case in cases if case == case.baseline]
        cases += [case._replace(loop=loop) for case in plain for loop in loops]
    return cases


def _target_cases(arguments: argparse.Namespace) -> List[Case]:
    fixed = [*DEFAULTS, "dims", "batch_size", "keras"]
    given = [f"--{name.replace('_', '-')}" for name in fixed if getattr(arguments, name)]
    if given:
        raise ConfigError(f"--preset {arguments.preset} decides on all cases; leave out {', '.join(given)}")
    from rbd_ipu.directions import native
    from rbd_ipu.lab.bench import rows

    return rows.cases(native.available(), KERAS_JIT in _keras_loops())


def _keras_loops() -> Sequence[str]:
    from rbd_ipu._compat import KERAS_3

    return (KERAS, KERAS_JIT) if KERAS_3 else (KERAS,)


def _write(arguments: argparse.Namespace, document: Dict[str, Any]) -> None:
    if arguments.output:
        files.write_text(arguments.output, files.document(document))
    if arguments.plot:
        from rbd_ipu.lab.bench.report import plot

        machine = document["machine"]
        plot(arguments.plot, document["rows"], f"{machine['processor']}, {machine['usable_cores']} cores")


def _check_files(arguments: argparse.Namespace) -> None:
    """Refuses files that could not be written at the end, or that hold something already."""
    for option, path in (("--output", arguments.output), ("--plot", arguments.plot)):
        if path is None:
            continue
        if path.exists():
            raise ConfigError(f"{option} {path}: there is one already; name a new file")
        if not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.parent}")
    if arguments.plot and not files.installed("matplotlib"):
        raise ConfigError('--plot needs matplotlib: pip install "rbd-ipu[plots]"')


# --- what the arguments may be -----------------------------------------------------------------------


def _names(text: str) -> List[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, not {text!r}")
    return names


def _dims(text: str) -> List[int]:
    return [count(part.strip()) for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value
