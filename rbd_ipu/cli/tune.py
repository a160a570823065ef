"""``rbd-ipu tune``: the learning rate of some settings, from a grid of powers of two."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Dict, List

from rbd_ipu.config import Config, ConfigError, describe_keys, from_assignments, from_file, resolve
from rbd_ipu.lab.trials import HIGHEST, LOWEST, exponents, read_exponent, written
from rbd_ipu.provenance import command_line

EPILOG = """
Every rate trains the network on 75 % of the training images and is judged by its loss on the
others after the last epoch; validation and test images take no part. A rate that diverges or hardly
moves is stopped early. The folder keeps every rate that is done: the same command with --output DIR
goes on where it was, and may widen the range.

exit status: 0 finished, 1 no rate could be finished, 2 wrong settings (nothing was written), 4 a
file cannot be written, 130 Ctrl-C.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--config", metavar="FILE", help="a YAML file of settings")
    add(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="one setting, over the file's; may be given for several keys",
    )  # fmt: skip
    add(
        "--output", metavar="DIR", type=Path,
        help="the folder to make or to go on in; default runs/tune-DATASET-NETWORK-METHOD-TIME-N",
    )  # fmt: skip
    add("--from", metavar="RATE", type=_power, default=HIGHEST, dest="first", help="the first rate; default 2**7")
    add("--to", metavar="RATE", type=_power, default=LOWEST, dest="last", help="the last rate; default 2**-19")
    add(
        "--start", metavar="RATE", type=_power,
        help="begin here and walk outwards, on each side until two rates in a row are no better; without it the "
        "whole grid is tried",
    )  # fmt: skip
    add("--epochs", metavar="N", help="the same as --set epochs=N")
    add("--jobs", metavar="N", type=_count, default=1, help="rates at a time, each with its share of the cores")
    parser.epilog = f"{describe_keys()}\n{EPILOG}"


def run(arguments: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    config, options = _config(arguments), _options(arguments)

    from rbd_ipu.lab import tuning_folder
    from rbd_ipu.lab.trials import best, following, prepared
    from rbd_ipu.lab.tuning_workers import Order, at_once, one_by_one

    tuning_folder.check(arguments.output, config)
    prepared(config)  # what is missing is said before anything is written
    grid, start, jobs = exponents(arguments.first, arguments.last), arguments.start, arguments.jobs
    with tuning_folder.opened(arguments.output, config, options, command_line(arguments.words)) as folder:

        def orders() -> List[Order]:
            return [Order(config, e, again=e in folder.trials) for e in following(grid, folder.trials, start)]

        print(f"{_title(config)}; {folder.path}")
        for trial in folder.trials.values():
            print(f"{tuning_folder.line(trial)} (kept)")
        try:
            with contextlib.closing(at_once(orders, jobs) if jobs > 1 else one_by_one(orders)) as trials:
                for trial in trials:
                    folder.add(trial)
                    print(tuning_folder.line(trial), flush=True)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            folder.end("interrupted" if stopped else "failed")
            if not stopped:
                raise
            print("\nrbd-ipu: interrupted by Ctrl-C; the rates that are done are kept:", file=sys.stderr)
            print(f"rbd-ipu: go on with --output {folder.path}", file=sys.stderr)
            return 130
        folder.end("finished")
        print(f"\n{tuning_folder.table(folder.trials)}\n")
        if best(folder.trials) is None:
            print("rbd-ipu: no rate could be finished; try other rates by --from and --to", file=sys.stderr)
            return 1
        print(f"a row for rbd_ipu/config/learning_rates.yaml:\n{tuning_folder.row(config, folder.trials)}")
        return 0


def _config(arguments: argparse.Namespace) -> Config:
    """The settings of all trials; their learning rate is a place holder."""
    given: Dict[str, Any] = from_file(arguments.config) if arguments.config else {}
    assigned = from_assignments(arguments.settings)
    if arguments.epochs is not None:
        if "epochs" in assigned:
            raise ConfigError(f"{assigned['epochs'].origin}: epochs is already set by --epochs {arguments.epochs}")
        assigned.update(from_assignments([f"epochs={arguments.epochs}"]))
    given.update(assigned)
    rate = given.get("learning_rate")
    if rate is not None and rate.value is not None:
        raise ConfigError(f"{rate.origin}: tune looks for the learning rate; leave it out, or give it as --start")
    return resolve({**given, "learning_rate": 1.0})


def _options(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Range, start and jobs, for the record; refuses a start out of range."""
    first, last, start = arguments.first, arguments.last, arguments.start
    if start is not None and start not in exponents(first, last):
        raise ConfigError(f"--start {written(start)}: must lie from {written(first)} to {written(last)}")
    options = {"from": written(first), "to": written(last), "start": start if start is None else written(start)}
    return {**options, "jobs": arguments.jobs}


def _title(config: Config) -> str:
    dim = f" with {config.dim} directions" if config.dim else ""
    return (
        f"the learning rate of {config.method}{dim} for {config.network} on {config.dataset}, {config.epochs} epochs"
    )


def _power(text: str) -> int:
    try:
        return read_exponent(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1, not {text!r}")
    return int(text)
