"""Saving: everything of a Trainer that its next step depends on, in one file."""

from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from rbd_ipu.checkpoints import container
from rbd_ipu.records import provenance
from rbd_ipu.records.folder import now

#: Fields of the progress that are float64 arrays: JSON has no NaN, and a sum over steps may be one.
SUMS = "progress/sums"


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
    from rbd_ipu.checkpoints import contents  # late: it needs TensorFlow

    arrays: Dict[str, Any] = {}
    listed: Dict[str, Any] = {}
    with trainer.device:
        for group, members in contents.variables(trainer).items():
            listed[group] = [[name, contents.dtype_of(v), contents.shape_of(v)] for name, v in members]
            arrays.update({key(group, i): contents.stored(v) for i, (_, v) in enumerate(members)})
    place = trainer.progress._asdict()
    arrays[SUMS] = np.array(place.pop("sums"), np.float64)
    facts = {
        "saved": now(),
        "step": trainer.step,
        "progress": place,
        "method": contents.described(trainer.method),
        "variables": listed,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "about": dict(about or {}),
    }
    container.write(path, facts, arrays)


def key(group: str, index: int) -> str:
    """The name of a variable's array: names of variables need not be unique."""
    return f"{group}/{index}"
