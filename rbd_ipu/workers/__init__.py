"""Workers: processes that train together, one on each part of the data; started here or by a cluster."""

from rbd_ipu.workers.command import as_first, elsewhere, is_follower, join, several
from rbd_ipu.workers.errors import STATUS, WorkersError
from rbd_ipu.workers.task import Task, task

__all__ = [
    "STATUS",
    "Task",
    "WorkersError",
    "as_first",
    "elsewhere",
    "is_follower",
    "join",
    "several",
    "task",
]
