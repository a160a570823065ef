"""The commands of the lab, each with its ``configure_NAME`` and ``run_NAME``.

===========================  ===============================================================================
``bench``                    what a step costs, beside a plain SGD step
``tune``                     the learning rate of some settings, from a grid of powers of two
``dimension``                the smallest d whose subspace reaches a share of the full space's accuracy
``demo``                     the comparison of :mod:`rbd_ipu.lab.demo`, with its table on the screen
``table``, ``figure``        the paper's numbers beside ours; what is not yet known is trained
``report``                   what is known, as one HTML page
===========================  ===============================================================================
"""

import argparse
import functools
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from rbd_ipu import files, text_table
from rbd_ipu.cli.train import add_search, count, settings_of
from rbd_ipu.config import Config, resolve
from rbd_ipu.config.schema import Real
from rbd_ipu.config.yaml import YamlError, scalar
from rbd_ipu.errors import ConfigError, say
from rbd_ipu.files import missing
from rbd_ipu.lab import demo, dimension, paper, tuning
from rbd_ipu.lab.bench import report, team
from rbd_ipu.lab.bench.runners import DEFAULT_DIMS, KERAS, KERAS_JIT, WORKLOADS, Case, Choices, grid
from rbd_ipu.lab.report import page
from rbd_ipu.lab.results import PUBLISHED, read
from rbd_ipu.lab.trials import HIGHEST, LOWEST, Wanted, exponents, read_exponent, written
from rbd_ipu.provenance import command_line, now
from rbd_ipu.runs import check_free, new_folder

_BENCH_DEFAULTS = {
    "networks": ["cnn-cifar10"],
    "methods": ["sgd", "rbd"],
    "distributions": ["normal"],
    "sources": ["auto"],
    "compartments": ["global"],
}
_BENCH_PRESETS = ("targets",)
_BENCH_EPILOG = """
Lists are separated by commas. Images are random numbers: speed does not depend on them. A plain SGD step is measured
for every network, all cases in turn in every round; the first step of each, which compiles, is not counted. Exit
status: 0 measured, 1 a target is not met, 2 wrong choices, 4 a file cannot be written, 130 Ctrl-C (what was measured
in whole rounds is shown and written)."""


def configure_bench(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = _BENCH_EPILOG
    add = parser.add_argument
    add(
        "--preset",
        choices=_BENCH_PRESETS,
        help="the project's own targets: each with what was measured and if it is met",
    )
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


def run_bench(arguments: argparse.Namespace) -> int:
    """Measures, prints the table, writes the files; returns the exit status."""
    _check_files(arguments)
    if arguments.workers:
        return _by_workers(arguments)
    if arguments.exchanges or arguments.parallel:
        raise ConfigError("--exchanges and --parallel are for --workers")
    cases = _target_cases(arguments) if arguments.preset else _grid(arguments)

    document, complete = report.measured(cases, arguments.rounds, arguments.seconds, say)
    document = {"command": command_line(arguments.words), **document}
    _write(arguments, document)
    if complete and (arguments.memory or arguments.preset):
        wanted = cases
        if not arguments.memory:
            wanted = [case for target in report.TARGETS for case in report.remembered(target) if case in cases]
        try:
            report.add_memory(document, wanted, say)
        except KeyboardInterrupt:
            complete = False
    verdicts = report.judge(document["rows"], document["machine"]["usable_cores"]) if arguments.preset else []
    if verdicts:
        document["targets"] = verdicts
    print(f"{report.machine_line(document)}\n\n{report.render(document['rows'])}")
    if verdicts:
        print(f"\n{text_table.text(report.lines(verdicts), left=2)}")
    _write(arguments, document)
    if not complete:
        return _interrupted(document["rounds"])
    return 1 if any(verdict["met"] is False for verdict in verdicts) else 0


def _by_workers(arguments: argparse.Namespace) -> int:
    """Measures teams of processes, which take turns; returns the exit status."""
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
    given = {name: getattr(arguments, name) or default for name, default in _BENCH_DEFAULTS.items()}
    batch_size = arguments.batch_size or 32
    cases = grid(Choices(**given, dims=arguments.dims, batch_size=batch_size))
    if arguments.keras:
        loops = _keras_loops()
        plain = [case for case in cases if case == case.baseline]
        cases += [case._replace(loop=loop) for case in plain for loop in loops]
    return cases


def _target_cases(arguments: argparse.Namespace) -> List[Case]:
    fixed = [*_BENCH_DEFAULTS, "dims", "batch_size", "keras"]
    given = [f"--{name.replace('_', '-')}" for name in fixed if getattr(arguments, name)]
    if given:
        raise ConfigError(f"--preset {arguments.preset} decides on all cases; leave out {', '.join(given)}")
    from rbd_ipu.directions import native

    return report.cases(native.available(), KERAS_JIT in _keras_loops())


def _keras_loops() -> Sequence[str]:
    from rbd_ipu._compat import KERAS_3

    return (KERAS, KERAS_JIT) if KERAS_3 else (KERAS,)


def _write(arguments: argparse.Namespace, document: Dict[str, Any]) -> None:
    if arguments.output:
        files.write_text(arguments.output, files.document(document))
    if arguments.plot:
        machine = document["machine"]
        report.plot(arguments.plot, document["rows"], f"{machine['processor']}, {machine['usable_cores']} cores")


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


_TUNE_EPILOG = """
Every rate trains the network on 75 % of the training images and is judged by its loss on the
others after the last epoch; validation and test images take no part. A rate that diverges or hardly
moves is stopped early. The folder keeps every rate that is done: the same command with --output DIR
goes on where it was, and may widen the range.

exit status: 0 finished, 1 no rate could be finished, 2 wrong settings (nothing was written), 4 a
file cannot be written, 130 Ctrl-C.
"""


def configure_tune(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    jobs = "rates at a time, each with its share of the cores"
    add_search(parser, "tune", jobs, _TUNE_EPILOG)
    add = parser.add_argument
    add("--from", metavar="RATE", type=_power, default=HIGHEST, dest="first", help="the first rate; default 2**7")
    add("--to", metavar="RATE", type=_power, default=LOWEST, dest="last", help="the last rate; default 2**-19")
    add(
        "--start", metavar="RATE", type=_power,
        help="begin here and walk outwards, on each side until two rates in a row are no better; without it the "
        "whole grid is tried",
    )  # fmt: skip


def run_tune(arguments: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    config, wanted = _trial_settings(arguments), _rates_to_try(arguments)
    return tuning.tune(config, wanted, arguments.output, command_line(arguments.words))


def _trial_settings(arguments: argparse.Namespace) -> Config:
    """The settings of all trials; their learning rate is a place holder."""
    given = settings_of(arguments, "epochs")
    rate = given.get("learning_rate")
    if rate is not None and rate.value is not None:
        raise ConfigError(f"{rate.origin}: tune looks for the learning rate; leave it out, or give it as --start")
    return resolve({**given, "learning_rate": 1.0})


def _rates_to_try(arguments: argparse.Namespace) -> Wanted:
    """Range, start and jobs; refuses a start out of range."""
    first, last, start = arguments.first, arguments.last, arguments.start
    if start is not None and start not in exponents(first, last):
        raise ConfigError(f"--start {written(start)}: must lie from {written(first)} to {written(last)}")
    return Wanted(first, last, start, arguments.jobs)


def _power(text: str) -> int:
    try:
        return read_exponent(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


METHODS = ("fpd", "rbd")
_DIMENSION_EPILOG = """
The full space is trained by SGD. Then d is bisected, over powers of two and then finer, until the smallest d that
reaches the share of the full space's accuracy is known to the tolerance. An accuracy is that on the validation images
after the last epoch. Directions are hadamard ones unless --set distribution=... says otherwise.

Every run is kept in a folder: the same command with --output DIR goes on where it was, and may change what is looked
for (--share, --seeds, --rates, ...). dimension.json, curve.csv and curve.png are in DIR. A run that diverges is a row
that says so.

exit status: 0 found, 1 no d reaches the share, or a run failed, 2 wrong settings (nothing was written), 4 a file
cannot be written, 130 Ctrl-C.
"""


def configure_dimension(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    jobs = "runs at a time, each with its share of the cores; default 1, in this process"
    add_search(parser, "dimension", jobs, _DIMENSION_EPILOG)
    add = parser.add_argument
    add(
        "--method", choices=METHODS, default="fpd",
        help="a fixed subspace, or one that is drawn anew at every step; default fpd, the fixed one",
    )  # fmt: skip
    add(
        "--share", metavar="S", type=_share, default=0.9,
        help="of the full space's accuracy, above 0 and at most 1; default 0.9",
    )  # fmt: skip
    add("--seeds", metavar="N", type=count, default=1, help="seeds, from the setting seed on; default 1")
    add(
        "--tolerance", metavar="T", type=_tolerance, default=0.1,
        help="how far above the true d the answer may be, relative, from 0 to 1; default 0.1",
    )  # fmt: skip
    add("--from", metavar="D", type=count, default=1, dest="least", help="the smallest d; default 1")
    add("--to", metavar="D", type=count, dest="greatest", help="the greatest d; default all parameters")
    add("--also", metavar="D,...", type=_listed(count), default=(), help="further d to measure, for the curve")
    add(
        "--rates", metavar="RATE,...", type=_listed(_rate),
        help="learning rates to try at every d, in this order, until one reaches the share; default: a walk over "
        "powers of two from a likely one",
    )  # fmt: skip
    add(
        "--full-rates", metavar="RATE,...", type=_listed(_rate),
        help="those to try in the full space, all of them; default: a walk over powers of two",
    )  # fmt: skip


def run_dimension(arguments: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    given = settings_of(arguments, "epochs")
    names = ("method", "share", "seeds", "tolerance", "least", "greatest", "also", "rates", "full_rates", "jobs")
    wanted = dimension.Wanted(**{name: getattr(arguments, name) for name in names})
    return dimension.run(given, wanted, arguments.output, command_line(arguments.words))


def _number(kind: Real) -> Callable[[str], float]:
    """What reads a number of a kind; a power of two may be written 2^-3."""

    def read(text: str) -> float:
        try:
            return float(kind.check(scalar(text.replace("^", "**"))))
        except (ConfigError, YamlError):
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}") from None

    return read


_share = _number(Real(positive=True, most=1.0))
_tolerance = _number(Real(most=1.0))
_rate = _number(Real(positive=True))


def _listed(kind: Callable[[str], Any]) -> Callable[[str], Tuple[Any, ...]]:
    """What reads several of a kind, with commas between them."""

    def read(text: str) -> Tuple[Any, ...]:
        found = tuple(kind(part.strip()) for part in text.split(","))
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"must be different ones, not {text!r}")
        return found

    return read


def configure_demo(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--output", metavar="DIR", type=Path, help="the folder to make; default runs/demo-TIME-N")
    parser.add_argument(
        "--text",
        action="store_true",
        help="a language model on characters of Shakespeare, in place of the digits; the embedded excerpt",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few epochs and two seeds, to see that it works; the numbers mean little",
    )


def run_demo(arguments: argparse.Namespace) -> int:
    """Trains, prints the table, writes the picture; returns the exit status."""
    if arguments.output is not None:
        check_free(arguments.output)
    full, quick = (demo.TEXT, demo.QUICK_TEXT) if arguments.text else (demo.FULL, demo.QUICK)
    plan = quick if arguments.quick else full
    configs = demo.configs(plan)
    demo.check(configs)
    folder = new_folder(arguments.output, "demo", claim="demo.json")
    command = command_line(arguments.words)
    print(
        f"SGD moves in all dimensions, RBD and FPD along d = {plan.dim} random directions.\n"
        f"{len(configs)} runs on {plan.about}, {plan.epochs} epochs each:"
    )
    runs, status, began = [], 0, time.perf_counter()
    try:
        for number, config in enumerate(configs, start=1):
            done = demo.train(config)
            runs.append(done)
            demo.write_numbers(folder, runs, command)  # what is done is kept, whatever comes next
            found = f"{100 * done.test['accuracy']:.1f} %"
            if arguments.text:
                found = f"{done.test['loss']:.3f} nats"
            print(
                f"  {number}/{len(configs)}  {config.method} seed {config.seed}: {found} in {done.seconds:.1f} s",
                flush=True,
            )
    except KeyboardInterrupt:
        print("\nrbd-ipu: interrupted by Ctrl-C; this is what was done", file=sys.stderr)
        status = 130
    if runs:
        demo.write_picture(folder, runs)
        print(f"\n{demo.render(demo.table(runs))}\n")
    for line in missing():
        print(f"rbd-ipu: {line}")
    print(f"{time.perf_counter() - began:.0f} s of training; curves and numbers are in {folder}")
    return status


configure_table = functools.partial(paper.configure, kind="table")
configure_figure = functools.partial(paper.configure, kind="figure")
run_table = functools.partial(paper.run, kind="table")
run_figure = functools.partial(paper.run, kind="figure")


def configure_report(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="folders with runs, at whatever depth")
    add("--output", type=Path, metavar="FILE", help="default report.html, with --paper paper.html; is replaced")
    add("--paper", action="store_true", help="the paper alone: claims, tables, figures; no list of runs, no speed")
    add("--results", type=Path, default=PUBLISHED, metavar="DIR", help="published results; default results")


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the page; returns the exit status."""
    if arguments.output is None:
        arguments.output = Path("paper.html" if arguments.paper else "report.html")
    if arguments.output.suffix not in (".html", ".htm"):
        raise ConfigError(f"--output {arguments.output}: must end in .html")
    if not arguments.output.parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: there is no folder {arguments.output.parent}")
    paper.check_published(arguments.results, folder=True)
    rows = paper.known(arguments.results, arguments.folders)
    findings = [row for place in (*arguments.folders, arguments.results) for row in read(place, "analysis")]
    text = page(rows, arguments.results / "performance", now(), findings, arguments.paper)
    files.write_text(arguments.output, text)
    print(f"{arguments.output}: {len(rows)} runs")
    return 0
