"""One run at a time in a folder: a lock that the kernel frees, however the process that holds it ends."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, Iterator, Union

from rbd_ipu.config import ConfigError
from rbd_ipu.records.atomic import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
# Some network file systems know no such locks; a run there must do without.
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: Union[str, Path]) -> Iterator[None]:
    """Holds the folder until the end of the block.

    The lock is on the file ``.lock`` in it, which stays, with the number of the process that had it last: to remove
    it would let a third run lock another file of that name.

    Raises:
      ConfigError: another run holds it; with its process number.
      OSError: with the path, when the file cannot be made.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, locked(folder):
      ...     with locked(folder):
      ...         pass
      Traceback (most recent call last):
      ...
      rbd_ipu.config.kinds.ConfigError: ...: another run is at work there, process ...
    """
    path = Path(folder) / NAME
    with contextlib.closing(_opened(path)) as file:
        if not _taken(file):
            file.seek(0)
            holder = file.read(20).strip()
            who = f", process {holder}" if holder.isdigit() else ""
            raise ConfigError(f"{folder}: another run is at work there{who}; wait for its end, or end it")
        yield


def _opened(path: Path) -> Any:
    with naming(path):
        return open(path, "a+", encoding="utf-8")


def _taken(file: Any) -> bool:
    """Locks the file if nobody else has, and writes this process's number into it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return True
