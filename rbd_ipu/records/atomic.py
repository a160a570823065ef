"""Files that are either whole or not there, and write errors that say which file."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Iterator, Union


@contextlib.contextmanager
def naming(path: Union[str, Path]) -> Iterator[None]:
    """Lets an OSError leave with the path it is about; HDF5 and buffered writes forget it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, os.fspath(path)) from error


def draft_of(path: Union[str, Path]) -> Path:
    """The temporary name beside ``path``; the ending, by which writers choose a format, stays."""
    path = Path(path)
    return path.with_name(f".draft-{path.name}")


def check_room(path: Union[str, Path], size: int) -> None:
    """Raises the OSError that writing ``size`` bytes would meet, by writing them for a moment.

    For writers that do not survive a full disk: HDF5 ends the process with a segmentation fault.
    """
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


@contextlib.contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success that file, safe on disk, takes its place.

    On an error the temporary file goes and what was at ``path`` stays as it was.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(Path(folder) / "a.txt") as draft:
      ...         _ = draft.write_text("whole")
      ...     (Path(folder) / "a.txt").read_text()
      'whole'
    """
    draft = draft_of(path)
    try:
        with naming(path):
            yield draft
            if draft.exists():  # a writer may have had nothing to say
                _flush(draft)
                os.replace(draft, path)
                _flush_folder(Path(path).parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Makes a new name in a folder survive a loss of power, where folders can be flushed."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def write_text(path: Union[str, Path], text: str) -> None:
    """Writes a whole UTF-8 file atomically; ends of lines stay as they are."""
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8"))
