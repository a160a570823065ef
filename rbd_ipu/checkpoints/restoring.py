"""Restoring: a checkpoint's values into a Trainer of the same kind."""

from typing import Any, List

from rbd_ipu.checkpoints.checkpoint import Checkpoint
from rbd_ipu.checkpoints.container import CheckpointError

_SHOWN = 4  # of a list of differences; a network of other layers differs in all


def restore(trainer: Any, checkpoint: Checkpoint) -> Any:
    """Gives a Trainer the weights, optimizer state, slots and place of a checkpoint; any worker may do so.

    Whether they fit is checked before the first of them is changed.

    Returns:
      The place to go on at: ``trainer.fit(..., start=restore(trainer, checkpoint))``.

    Raises:
      CheckpointError: the checkpoint is of another method or network; the message has the difference.
    """
    from rbd_ipu._stack import tf
    from rbd_ipu.checkpoints import contents

    check(trainer, checkpoint)
    with trainer.device:
        for group, members in contents.variables(trainer).items():
            for (_, variable), value in zip(members, checkpoint.arrays[group]):
                variable.assign(tf.cast(value, variable.dtype))
    trainer.progress = checkpoint.progress
    return checkpoint.progress


def check(trainer: Any, checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint that was not written by a Trainer like this one; changes nothing.

    Raises:
      CheckpointError: with the difference.
    """
    from rbd_ipu.checkpoints import contents

    here, there = contents.described(trainer.method), checkpoint.method
    found = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in dict.fromkeys([*here, *there])  # the name comes first
        if there.get(name) != here.get(name)
    ]
    if found:
        raise CheckpointError(f"it was written with another method: {_short(found)}")
    for group, members in contents.variables(trainer).items():
        own = [(name, contents.dtype_of(v), contents.shape_of(v)) for name, v in members]
        _check_group(group, checkpoint, own)


def _check_group(group: str, checkpoint: Checkpoint, own: List[Any]) -> None:
    theirs, arrays = checkpoint.variables.get(group), checkpoint.arrays.get(group)
    if theirs is None or arrays is None or len(theirs) != len(own):
        count = "no" if theirs is None else len(theirs)
        raise CheckpointError(f"it has {count} variables of the {group}, and there are {len(own)} here")
    found = [
        f"{name} is {dtype} {shape} here and {other[1]} {other[2]} there"
        for (name, dtype, shape), other, array in zip(own, theirs, arrays)
        if [dtype, shape] != other[1:] or shape != list(array.shape)
    ]
    if found:
        raise CheckpointError(f"its variables of the {group} are of another shape: {_short(found)}")


def _short(found: List[str]) -> str:
    rest = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
