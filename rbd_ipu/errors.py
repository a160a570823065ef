"""What can go wrong in words that a user can act on, and how a command ends by it: one line and an exit status."""

import contextlib
import errno
import os
import sys
from typing import Any, Callable


class ConfigError(ValueError):
    """Settings that cannot be used; nothing has been computed or written."""


class MissingDataError(FileNotFoundError):
    """The data set is not in the folder searched; the message has the command that fetches it."""


class DamagedDataError(OSError):
    """The data set cannot be read in full; the message names the folder and the files."""


class NonFiniteError(ArithmeticError):
    """Training met a loss or an update that is NaN or infinite, and stopped before applying it; all workers did.

    Attributes:
      epoch, step: where; the step counts from 0 over the whole run.
      history: the Keras History of the epochs before.
    """

    agreed = True  # see rbd_ipu.devices.Device.leave

    def __init__(self, epoch: int, step: int, learning_rate: float, history: Any):
        super().__init__(
            f"the loss or the update was not finite at step {step} (epoch {epoch + 1}), at learning rate "
            f"{learning_rate:g}; the step was not applied, and everything before it is kept. "
            "A smaller learning rate is the usual remedy"
        )
        self.epoch = epoch
        self.step = step
        self.history = history


#: The exit status of a run that ended because a worker was lost.
STATUS = 5


class WorkersError(RuntimeError):
    """Several workers cannot go on: one of them ended, does not answer, or has other weights.

    What was recorded before is kept.

    Attributes:
      agreed: all workers know of it, or cannot be told.
      status: the exit status of a process that ends by it.
    """

    agreed = True
    status = STATUS


class Dismissed(WorkersError):
    """Another worker has stopped between two steps, and this one stops after the same step.

    Args:
      message: which one, and why as far as it is known.
      status: the exit status of that worker, which is this one's too: 128 + the number of the signal that it got.
    """

    def __init__(self, message: str, status: int = STATUS):
        super().__init__(message)
        self.status = status


#: What a stream that takes no more raises, without the name of a file.
REFUSED = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)

#: What only writing raises. For the rest, such as a file that may not be read, nobody tells which it was.
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


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


def exit_status(run: Callable[[], int]) -> int:
    """What a command's function returns; an error that the user can mend is one line on the standard error.

    Returns:
      its own status; 2 settings that cannot be used, 4 a file that could not be opened or written, 5 or that of a
      signal where workers were lost or stopped, 130 Ctrl-C before the training began. All other errors keep their
      traceback.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status
    except ConfigError as error:
        return _said(f"error: {error}", 2)
    except WorkersError as error:
        return _said(str(error), error.status)
    except OSError as error:
        if error.filename is None:
            if error.errno not in REFUSED:
                raise
            give_up_streams()
            return _said(f"error: cannot write {name_of_stream(error)}: {error.strerror}", 4)
        verb = "write" if error.errno in UNWRITTEN else "open"
        return _said(f"error: cannot {verb} {error.filename}: {error.strerror}", 4)
    except KeyboardInterrupt:
        return _said("interrupted by Ctrl-C before the training began; nothing was written", 130)


def say(text: str) -> None:
    """Tells the user something on the standard error: what a command prints is for other programs too."""
    print(f"rbd-ipu: {text}", file=sys.stderr, flush=True)


def _said(message: str, status: int) -> int:
    say(message)
    return status
