"""The standard streams of a command: closed, full, cut off or of few letters, they are no reason for a traceback.

The commands of ``rbd-ipu``: one row and one module each.

A command's module has ``configure(parser)``, which adds its arguments, and ``run(arguments) ->
int``, which gives the exit status. It imports TensorFlow only when it runs, so that ``--help`` is
quick.

The command ``rbd-ipu``: runs a command's module; errors become one line and an exit status.
"""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from typing import Any, NamedTuple, Optional, Sequence

from rbd_ipu import __version__
from rbd_ipu.config import ConfigError
from rbd_ipu.errors import WorkersError
from rbd_ipu.parallel import ranks
from rbd_ipu.parallel.workers import task

#: What a stream that takes no more raises, without the name of a file.
REFUSED = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare_streams() -> None:
    """Gives the command streams that it can write to.

    A closed one (``>&-``) takes everything and keeps nothing; letters that the locale does not have are escaped, as
    Python does it on the standard error.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it stays open)
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # what replaces it may have none
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def name_of_stream(error: OSError) -> str:
    """What could not be written, as far as an error without a file's name tells."""
    return "the standard output" if error.errno == errno.EPIPE else "the standard output or a file"


def give_up_streams() -> None:
    """Lets what is still to be printed go nowhere: Python would fail at it once more, at its end."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file of the operating system
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Command(NamedTuple):
    """A row: the command's name, its module in this package, one line of help."""

    name: str
    module: str
    help: str

    def load(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.module}")


COMMANDS = (
    Command("train", "train", "train a network and keep everything about it in a new folder"),
    Command("tune", "tune", "find the learning rate of some settings, on a quarter of the training images held out"),
    Command("demo", "demo", "compare SGD, RBD and FPD on real digits; a table and a picture"),
    Command("bench", "bench", "measure what a step costs, beside a plain SGD step"),
    Command("table", "table", "a table of the paper: its numbers beside those of this package"),
    Command("figure", "figure", "a figure of the paper, from runs of this package"),
    Command("report", "report", "one HTML page of all results, to open in a browser"),
    Command("devices", "devices", "validate device configurations, without the devices"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="rbd-ipu", description="Train Keras models in random subspaces.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"rbd-ipu {__version__}")
    rows = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for row in COMMANDS:
        command = rows.add_parser(row.name, help=row.help, description=row.help, allow_abbrev=False)
        module = row.load()
        module.configure(command)
        command.set_defaults(run=module.run)
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
    try:
        chosen = build_parser().parse_args(arguments)
        chosen.words = list(sys.argv[1:] if arguments is None else arguments)
        _check_alone(chosen.command)
        status = chosen.run(chosen)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        return _fail(f"error: {error}", 2)
    except WorkersError as error:
        return _fail(str(error), error.status)
    except OSError as error:
        if error.filename is None:
            if error.errno not in REFUSED:
                raise
            give_up_streams()
            return _fail(f"error: cannot write {name_of_stream(error)}: {error.strerror}", 4)
        return _fail(f"error: cannot write {error.filename}: {error.strerror}", 4)
    except KeyboardInterrupt:
        return _fail("interrupted by Ctrl-C before the training began; nothing was written", 130)


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


def _fail(message: str, status: int) -> int:
    print(f"rbd-ipu: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    command()
