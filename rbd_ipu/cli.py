"""The command ``rbd-ipu``: runs a command's module; errors become one line and an exit status."""

import argparse
import contextlib
import os
import sys
from typing import Optional, Sequence

from rbd_ipu import __version__, streams
from rbd_ipu.commands import COMMANDS
from rbd_ipu.config import ConfigError
from rbd_ipu.workers import ranks, task
from rbd_ipu.workers.errors import WorkersError


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
    streams.prepare()
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
            if error.errno not in streams.REFUSED:
                raise
            streams.give_up()
            return _fail(f"error: cannot write {streams.name_of(error)}: {error.strerror}", 4)
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
