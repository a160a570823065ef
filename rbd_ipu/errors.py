"""What can be wrong with data on disk; both say where was looked and what to do.

What workers raise when they cannot go on together.
"""


class MissingDataError(FileNotFoundError):
    """The data set is not in the folder searched; the message has the command that fetches it."""


class DamagedDataError(OSError):
    """The data set cannot be read in full; the message names the folder and the files."""


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
