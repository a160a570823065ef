"""``rbd-ipu tune``: the learning rate of some settings, from a grid of powers of two."""

import argparse

from rbd_ipu.cli import settings
from rbd_ipu.config import Config, resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.trials import HIGHEST, LOWEST, Wanted, exponents, read_exponent, written
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
    jobs = "rates at a time, each with its share of the cores"
    settings.configure_search(parser, "tune", jobs, EPILOG)
    add = parser.add_argument
    add("--from", metavar="RATE", type=_power, default=HIGHEST, dest="first", help="the first rate; default 2**7")
    add("--to", metavar="RATE", type=_power, default=LOWEST, dest="last", help="the last rate; default 2**-19")
    add(
        "--start", metavar="RATE", type=_power,
        help="begin here and walk outwards, on each side until two rates in a row are no better; without it the "
        "whole grid is tried",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    config, wanted = _config(arguments), _wanted(arguments)

    from rbd_ipu.lab.tuning import tune

    return tune(config, wanted, arguments.output, command_line(arguments.words))


def _config(arguments: argparse.Namespace) -> Config:
    """The settings of all trials; their learning rate is a place holder."""
    given = settings.given(arguments, "epochs")
    rate = given.get("learning_rate")
    if rate is not None and rate.value is not None:
        raise ConfigError(f"{rate.origin}: tune looks for the learning rate; leave it out, or give it as --start")
    return resolve({**given, "learning_rate": 1.0})


def _wanted(arguments: argparse.Namespace) -> Wanted:
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
