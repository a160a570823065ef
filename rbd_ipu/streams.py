"""The standard streams of a command: closed, full, cut off or of few letters, they are no reason for a traceback."""

import contextlib
import errno
import os
import sys

#: What a stream that takes no more raises, without the name of a file.
REFUSED = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare() -> None:
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


def name_of(error: OSError) -> str:
    """What could not be written, as far as an error without a file's name tells."""
    return "the standard output" if error.errno == errno.EPIPE else "the standard output or a file"


def give_up() -> None:
    """Lets what is still to be printed go nowhere: Python would fail at it once more, at its end."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file of the operating system
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
