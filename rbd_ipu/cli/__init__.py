"""The command ``rbd-ipu``: one row and one module for each of its commands.

A command has a function ``configure(parser)``, which adds its arguments, and ``run(arguments) -> int``, which gives
the exit status. Its module imports TensorFlow only when it runs, so that ``--help`` is quick.
"""

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any, NamedTuple, Optional, Sequence

from rbd_ipu import __version__
from rbd_ipu.errors import ConfigError, exit_status, prepare_streams
from rbd_ipu.parallel import ranks
from rbd_ipu.parallel.workers import task


class Command(NamedTuple):
    """A row: the command's name, its module in this package, one line of help.

    The module has ``configure`` and ``run``; one of several commands has ``configure_NAME`` and ``run_NAME`` of each.
    """

    name: str
    module: str
    help: str

    def part(self, what: str) -> Any:
        """``configure`` or ``run`` of the command."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        return getattr(module, f"{what}_{self.name}", None) or getattr(module, what)


def add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command], chosen: str, run: str) -> None:
    """Adds a parser for each command; ``chosen`` gets the name of the one that is given, ``run`` its function."""
    rows = parser.add_subparsers(dest=chosen, metavar="COMMAND", required=True)
    for row in commands:
        command = rows.add_parser(row.name, help=row.help, description=row.help, allow_abbrev=False)
        row.part("configure")(command)
        command.set_defaults(**{run: row.part("run")})


COMMANDS = (
    Command("train", "train", "train a network and keep everything about it in a new folder"),
    Command("tune", "lab", "find the learning rate of some settings, on a quarter of the training images held out"),
    Command("dimension", "lab", "find the smallest d that reaches a share of the full space's accuracy"),
    Command("demo", "lab", "compare SGD, RBD and FPD on real digits; a table and a picture"),
    Command("bench", "lab", "measure what a step costs, beside a plain SGD step"),
    Command("table", "lab", "a table of the paper: its numbers beside those of this package"),
    Command("figure", "lab", "a figure of the paper, from runs of this package"),
    Command("report", "lab", "one HTML page of all results, to open in a browser"),
    Command("delta", "delta", "a fine-tune in a fixed subspace as a small file: show it, apply it to its base"),
    Command("replay", "delta", "make the weights of any step of a run again, from its replay log, without data"),
    Command("devices", "devices", "validate device configurations, without the devices"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="rbd-ipu", description="Train Keras models in random subspaces.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"rbd-ipu {__version__}")
    add_commands(parser, COMMANDS, "command", "run")
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs one command line and returns its exit status.

    Errors that the user can mend are one line on the standard error; all others keep their
    traceback.
    """
    # TensorFlow's own start-up messages; said before it is imported, and not over what the user has
    # said.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    prepare_streams()
    return exit_status(lambda: _run(arguments))


def _run(arguments: Optional[Sequence[str]]) -> int:
    chosen = build_parser().parse_args(arguments)
    chosen.words = list(sys.argv[1:] if arguments is None else arguments)
    _check_alone(chosen.command)
    return chosen.run(chosen)


def command() -> None:
    """The command as a process: ends it with the status of :func:`main`."""
    status = main()
    ranks.end(status)
    if os.environ.get("TF_CONFIG"):
        # The server of TensorFlow 2.6 cannot be stopped, and now and then aborts a process that takes itself down.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _check_alone(command: str) -> None:
    """Refuses to do several times, at once, what one process should do."""
    own = task()
    if own is not None and own.workers > 1 and command != "train":
        raise ConfigError(
            f"rbd-ipu {command} runs in one process, and the launcher has started {own.workers} ({own.source}); only "
            "rbd-ipu train is for several"
        )


if __name__ == "__main__":
    command()
