"""A folder of checkpoints: their names, which of them can be used, and which can go."""

import contextlib
import re
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Union

from rbd_ipu.checkpoints.checkpoint import Checkpoint, load
from rbd_ipu.checkpoints.container import CheckpointError
from rbd_ipu.records.atomic import draft_of

_NAME = re.compile(r"step-(\d{9,})\.checkpoint")


class Found(NamedTuple):
    """What a search of a folder gave.

    Attributes:
      checkpoint: the latest that can be used; None where there never was one.
      refused: (path, reason) of those that are later and cannot be used.
    """

    checkpoint: Optional[Checkpoint]
    refused: Tuple[Tuple[Path, str], ...] = ()


def path_for(folder: Union[str, Path], step: int) -> Path:
    """The file for the state after so many steps.

    Example:
      >>> path_for("checkpoints", 370).name
      'step-000000370.checkpoint'
    """
    return Path(folder) / f"step-{step:09d}.checkpoint"


def listed(folder: Union[str, Path]) -> List[Path]:
    """The checkpoints in a folder, the latest first, by their names; unread."""
    found = [(match, path) for path in Path(folder).glob("step-*") for match in [_NAME.fullmatch(path.name)] if match]
    return [path for _, path in sorted(((int(match.group(1)), path) for match, path in found), reverse=True)]


def search(folder: Union[str, Path], check: Callable[[Checkpoint], Any] = lambda checkpoint: None) -> Found:
    """The latest checkpoint that is whole and passes ``check``; files that are refused stay where they are.

    Args:
      folder: may be missing: there is no checkpoint in it then.
      check: raises CheckpointError to refuse one.

    Raises:
      CheckpointError: there are checkpoints, and none of them can be used; with the reason for each.
    """
    refused = []
    for path in listed(folder):
        try:
            checkpoint = load(path)
            check(checkpoint)
        except CheckpointError as error:
            refused.append((path, str(error)))
        except OSError as error:
            refused.append((path, f"it cannot be read: {error.strerror or error}"))
        else:
            return Found(checkpoint, tuple(refused))
    if refused:
        reasons = "\n".join(f"  {path.name}: {reason}" for path, reason in refused)
        raise CheckpointError(f"none of the checkpoints in {folder} can be used:\n{reasons}")
    return Found(None)


def newest(folder: Union[str, Path]) -> Optional[Checkpoint]:
    """The latest checkpoint of a folder that is not damaged; None if the folder has none.

    Raises:
      CheckpointError: there are checkpoints, and all are damaged.
    """
    return search(folder).checkpoint


def clean(folder: Union[str, Path]) -> None:
    """Removes the drafts of checkpoints during whose writing a run was killed."""
    for path in Path(folder).glob(draft_of("step-*.checkpoint").name):
        _remove(path)


def prune(paths: List[Path], keep: int) -> List[Path]:
    """Removes all but the last ``keep`` of these files, oldest first; gives those that stay.

    A file that cannot be removed is in nobody's way: the run goes on.
    """
    for path in paths[:-keep]:
        _remove(path)
    return paths[-keep:]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
