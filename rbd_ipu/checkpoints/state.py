"""The state of a Trainer: what a checkpoint holds of it, how it is saved, and how it is restored."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from rbd_ipu import provenance
from rbd_ipu._compat import KERAS_3, tf
from rbd_ipu.checkpoints import file
from rbd_ipu.checkpoints.file import SUMS, Checkpoint, CheckpointError, key
from rbd_ipu.methods import METHODS, Method
from rbd_ipu.methods.base import options_of
from rbd_ipu.provenance import now

_PLAIN = (bool, int, float, str, type(None))


def variables(trainer: Any) -> Dict[str, List[Tuple[str, Any]]]:
    """Every variable that a step reads or changes, as (name, variable), in an order that is the model's own.

    The groups are ``model`` (weights, moving statistics and, with Keras 3, the states of random layers),
    ``optimizer`` (number of steps, learning rate, velocities) and ``method`` (its slots).
    """
    optimizer = trainer.optimizer
    if KERAS_3:
        known = list(optimizer.variables)
    else:
        known = list(optimizer.variables())
        if isinstance(optimizer.learning_rate, tf.Variable):  # no variable of the optimizer's to Keras 2
            known.append(optimizer.learning_rate)
    return {
        "model": [(_name(v), v) for v in trainer.model.variables],
        "optimizer": [(_name(v), v) for v in known],
        "method": sorted(trainer.method.saved().items()),
    }


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def shape_of(variable: Any) -> List[int]:
    """The shape in plain numbers."""
    return [int(length) for length in variable.shape]


def dtype_of(variable: Any) -> str:
    """The type as its NumPy name, whichever Keras the variable is of."""
    return str(tf.as_dtype(variable.dtype).name)


def stored(variable: Any) -> np.ndarray:
    """The value in a type that a checkpoint holds: bfloat16 as float32, which is exact."""
    value = np.asarray(variable.numpy())
    return value if value.dtype.kind in "biuf" else value.astype(np.float32)


def described(method: Method) -> Dict[str, Any]:
    """The method with d, D and those of its hyper-parameters that are plain values.

    Example:
      >>> from rbd_ipu import methods
      >>> described(methods.create("sgd", learning_rate=0.5))
      {'name': 'sgd', 'd': 0, 'D': 0, 'learning_rate': 0.5, 'momentum': 0.0}
    """
    names, _ = options_of(METHODS.get(method.name))
    basis = getattr(method, "basis", None)

    def given(name: str) -> Any:
        return getattr(basis if name in method.of_basis else method, name)

    # d is what became of dim
    options = {name: method.chosen[name] if name in method.chosen else given(name) for name in names if name != "dim"}
    plain = {
        name: value
        for name, value in options.items()
        if isinstance(value, _PLAIN) and not (name in method.added and value == method.added[name])
    }
    return {"name": method.name, "d": method.dim, "D": method.size, **plain}


def save(path: Union[str, Path], trainer: Any, about: Optional[Mapping[str, Any]] = None) -> None:
    """Writes the state of a Trainer between two calls of its loop: in a callback, or when it has stopped.

    Args:
      path: of the file, which is whole at every moment: either as it was or as it shall be.
      trainer: a :class:`rbd_ipu.Trainer`.
      about: what the user wants to find beside it, in the types JSON has.

    Raises:
      OSError: with the path, when it cannot be written.

    Example:
      >>> import tempfile, rbd_ipu
      >>> from rbd_ipu import checkpoints, methods, models
      >>> def trainer(seed):
      ...     model = models.build("fc", shape=(8, 8, 1), seed=seed)
      ...     return rbd_ipu.Trainer(model, methods.create("rbd", learning_rate=1.0, dim=16), "cpu")
      >>> one, other = trainer(seed=0), trainer(seed=1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoints.save(f"{folder}/a", one, about={"seed": 0})
      ...     found = checkpoints.load(f"{folder}/a")
      >>> checkpoints.restore(other, found) == one.progress, found.about
      (True, {'seed': 0})
      >>> all((a == b).all() for a, b in zip(one.model.get_weights(), other.model.get_weights()))
      True
    """

    arrays: Dict[str, Any] = {}
    listed: Dict[str, Any] = {}
    with trainer.device:
        for group, members in variables(trainer).items():
            listed[group] = [[name, dtype_of(v), shape_of(v)] for name, v in members]
            arrays.update({key(group, i): stored(v) for i, (_, v) in enumerate(members)})
    place = trainer.progress._asdict()
    arrays[SUMS] = np.array(place.pop("sums"), np.float64)
    facts = {
        "saved": now(),
        "step": trainer.step,
        "progress": place,
        "method": described(trainer.method),
        "variables": listed,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "about": dict(about or {}),
    }
    file.write(path, facts, arrays)


_SHOWN = 4  # of a list of differences; a network of other layers differs in all


def restore(trainer: Any, checkpoint: Checkpoint) -> Any:
    """Gives a Trainer the weights, optimizer state, slots and place of a checkpoint; any worker may do so.

    Whether they fit is checked before the first of them is changed.

    Args:
      trainer: of the same method and network.
      checkpoint: from :func:`rbd_ipu.checkpoints.load` or :func:`rbd_ipu.checkpoints.newest`.

    Returns:
      The place to go on at: ``trainer.fit(..., start=restore(trainer, checkpoint))``.

    Raises:
      CheckpointError: the checkpoint is of another method or network; the message has the difference.

    Example:
      >>> import tempfile, rbd_ipu
      >>> from rbd_ipu import checkpoints, methods, models
      >>> trainer = rbd_ipu.Trainer(models.build("fc", (8, 8, 1)), methods.create("sgd", learning_rate=1.0), "cpu")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(f"{folder}/a", trainer)
      ...     restore(trainer, checkpoints.load(f"{folder}/a")).epoch
      0
    """
    check(trainer, checkpoint)
    with trainer.device:
        for group, members in variables(trainer).items():
            for (_, variable), value in zip(members, checkpoint.arrays[group]):
                variable.assign(tf.cast(value, variable.dtype))
    trainer.progress = checkpoint.progress
    trainer.method.restored(trainer.step)
    return checkpoint.progress


def check(trainer: Any, checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint that was not written by a Trainer like this one; changes nothing.

    Raises:
      CheckpointError: with the difference.
    """

    here, there = described(trainer.method), checkpoint.method
    # Files of before have null, or nothing, for all of these; those of today have a word for one of them at least.
    chosen = trainer.method.chosen
    unknown = (
        chosen if any(isinstance(value, str) and there.get(name) is None for name, value in chosen.items()) else ()
    )
    found = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in dict.fromkeys([*here, *there])  # the name comes first
        if there.get(name) != here.get(name) and name not in unknown
    ]
    if found:
        raise CheckpointError(f"it was written with another method: {_short(found)}")
    for group, members in variables(trainer).items():
        own = [(name, dtype_of(v), shape_of(v)) for name, v in members]
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
