"""Workers: processes that train together, one on each part of the data; started here or by a cluster."""

from rbd_ipu.errors import STATUS, WorkersError
from rbd_ipu.parallel.ranks import Task, task
from rbd_ipu.runs.workers import as_first, elsewhere, is_follower, join, several

__all__ = ["STATUS", "Task", "WorkersError", "as_first", "elsewhere", "is_follower", "join", "several", "task"]
