"""What workers raise when they lose each other."""

#: The exit status of a run that ended because a worker was lost.
STATUS = 5


class WorkersError(RuntimeError):
    """Several workers cannot go on: one of them ended, does not answer, or has other weights.

    What was recorded before is kept.
    """

    agreed = True  # all workers know, or cannot be told


class Dismissed(WorkersError):
    """Another worker stopped between two steps, on purpose, and this one stops at the same step."""
