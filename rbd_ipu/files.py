"""Files: written whole or not at all, locked, as strict JSON.

A write error says which file. A lock keeps a folder for one run at a time; the kernel frees it, however the process
that holds it ends. JSON is what every parser reads: NaN and infinities become null, NumPy numbers become numbers.
Packages that a run can do without are asked for here, and what is missing in its folder without them is said.
"""

import contextlib
import errno
import importlib
import importlib.abc
import importlib.util
import json
import math
import numbers
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Union

from rbd_ipu.config.schema import Boolean, Integer, Kind, Real
from rbd_ipu.errors import ConfigError


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


def append(path: Union[str, Path], content: bytes, flush: bool = False) -> None:
    """Adds bytes to a file; if that fails, the file is as before.

    Args:
      path: of the file, which is made if it is missing.
      content: what to add.
      flush: whether to wait until it is safe on the disk.

    Raises:
      OSError: with the path.
    """
    with naming(path), open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(content)
            if written != len(content):  # a disk that fills up takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if flush:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def write_text(path: Union[str, Path], text: str) -> None:
    """Writes a whole UTF-8 file atomically; ends of lines stay as they are."""
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8"))


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

    The lock is on the file ``.lock`` in it, which stays, with the number of the process that had it last. Only who
    holds it may remove it: a run that had opened it by then locks the file that takes its place.

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
      rbd_ipu.errors.ConfigError: ...: another run is at work there, process ...
    """
    path = Path(folder) / NAME
    with contextlib.ExitStack() as held:
        while True:
            file = held.enter_context(contextlib.closing(_opened(path)))
            with naming(path):
                taken = _taken(file)
            if not taken:
                file.seek(0)
                holder = file.read(20).strip()
                who = f", process {holder}" if holder.isdigit() else ""
                raise ConfigError(f"{folder}: another run is at work there{who}; wait for its end, or end it")
            if _is_at(path, file):
                break
        yield


def _is_at(path: Path, file: Any) -> bool:
    """Whether an open file is the one that has this name: a lock on one that was removed keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


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


_WITHOUT = {
    "matplotlib": 'no curves.png: matplotlib is missing; pip install "rbd-ipu[plots]"',
    "tensorboard": "no TensorBoard events: tensorboard is missing; pip install tensorboard",
}


def installed(package: str) -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(package) is not None


def missing() -> List[str]:
    """One line for each of these packages that is not there."""
    return [text for package, text in _WITHOUT.items() if not installed(package)]


def plain(value: Any) -> Any:
    """``value`` in the types JSON has.

    Example:
      >>> plain({"loss": float("nan"), "steps": [1, 2.5]})
      {'loss': None, 'steps': [1, 2.5]}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # a NumPy number or array
        return plain(value.tolist())
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{value!r} has no JSON form")


def found(path: Path) -> Dict[str, Any]:
    """The mapping in a file; an empty one where there is no file, or no whole one yet.

    Example:
      >>> found(Path("nowhere.json"))
      {}
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no JSON, or no UTF-8
        return {}
    return found if isinstance(found, dict) else {}


class _Of(Kind):
    def __init__(self, rule: str, kind: type):
        self.rule, self.kind = rule, kind

    def read(self, value: Any) -> Any:
        return value if isinstance(value, self.kind) else None


class _Number(Real):
    def __init__(self) -> None:
        super().__init__(least=-math.inf)
        self.rule = "a finite number"


TEXT, LIST, MAPPING = _Of("text", str), _Of("a list", list), _Of("a mapping", dict)
NUMBER, COUNT, FLAG = _Number(), Integer(0), Boolean()


class Maybe(NamedTuple):
    """What a field holds that may be null, and unless ``absent`` is False may be missing."""

    accepted: Any
    absent: bool = True


def check(value: Any, accepted: Any, where: str) -> None:
    """Refuses what was read from a file of JSON and is not of the form that is accepted.

    Args:
      value: what came.
      accepted: a Kind; ``[a]`` for a list of such, ``(a, b)`` for one of so many, ``{str: a}`` for a mapping to such,
        ``{"name": a}`` for a mapping with such fields, and maybe others; a Maybe.
      where: what the message begins with.

    Raises:
      ConfigError: with the field, what it holds and what is accepted.

    Example:
      >>> check({"seconds": 1, "losses": [0.5, None]}, {"seconds": NUMBER, "losses": [Maybe(NUMBER)]}, "a.json")
      >>> check({"test": {"loss": "x"}}, {"test": {str: NUMBER}}, "a.json")
      Traceback (most recent call last):
      ...
      rbd_ipu.errors.ConfigError: a.json: test: loss: must be a finite number, not the text 'x'
    """
    if isinstance(accepted, Maybe):
        if value is not None:
            check(value, accepted.accepted, where)
    elif isinstance(accepted, dict):
        check(value, MAPPING, where)
        names = value if str in accepted else accepted
        for name in names:
            one = accepted.get(str, accepted.get(name))
            if name in value:
                check(value[name], one, f"{where}: {name}")
            elif not (isinstance(one, Maybe) and one.absent):
                raise ConfigError(f"{where}: {name}: is missing")
    elif isinstance(accepted, (list, tuple)):
        check(value, LIST, where)
        if isinstance(accepted, tuple) and len(value) != len(accepted):
            raise ConfigError(f"{where}: must be a list of {len(accepted)}, not of {len(value)}")
        for item, one in zip(value, accepted if isinstance(accepted, tuple) else accepted * len(value)):
            check(item, one, where)
    else:
        try:
            accepted.check(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def lines(
    path: Path, unfinished: bool = False, said: str = "no line of JSON", accepted: Any = MAPPING
) -> List[Dict[str, Any]]:
    """The mappings in a file of JSON, one a line; none where there is no file.

    Args:
      path: of the file.
      unfinished: whether the last line may be half written, by a process that was killed; it is left out.
      said: what a line is called that is no mapping.
      accepted: the form of a line, see :func:`check`.

    Raises:
      ConfigError: there is one of another form; with its number.
    """
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for number, text in enumerate(texts[:-1] if unfinished or not texts[-1] else texts, start=1):
        try:
            row = json.loads(text.decode("utf-8"))
            if not isinstance(row, dict):
                raise ValueError(f"{text[:40]!r} is no mapping")
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {said}: {error}") from None
        check(row, accepted, f"{path}:{number}")
        rows.append(row)
    return rows


def line(value: Any) -> str:
    """One line of JSON, with its end of line."""
    return json.dumps(plain(value), allow_nan=False) + "\n"


def document(value: Any) -> str:
    """Indented JSON for people."""
    return json.dumps(plain(value), allow_nan=False, indent=2) + "\n"
