"""A checkpoint that has been read: plain numbers and arrays."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Union

import numpy as np

from rbd_ipu.checkpoints import container
from rbd_ipu.checkpoints.container import CheckpointError
from rbd_ipu.checkpoints.saving import SUMS, key


class Checkpoint(NamedTuple):
    """The state of a training, as :func:`rbd_ipu.checkpoints.save` wrote it.

    Attributes:
      path: the file it is from.
      step: the number of updates.
      progress: a :class:`rbd_ipu.progress.Progress`, the place in the run.
      method: name, d, D and hyper-parameters.
      variables: for each group ("model", "optimizer", "method") the (name, dtype, shape) of its arrays.
      arrays: for each group the values, in that order.
      versions, machine, saved: with what, where and when it was written.
      about: what the user put beside it.
    """

    path: Path
    step: int
    progress: Any
    method: Dict[str, Any]
    variables: Dict[str, List[List[Any]]]
    arrays: Dict[str, List[np.ndarray]]
    versions: Dict[str, Any]
    machine: Dict[str, Any]
    saved: str
    about: Dict[str, Any]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        within = f", {self.progress.step} steps into the next" if self.progress.step else ""
        return f"step {self.step}, after {self.progress.epoch} epochs{within}"


def load(path: Union[str, Path]) -> Checkpoint:
    """Reads a checkpoint, once its checksum has been found right. Nothing in it is executed: there is no pickle.

    Raises:
      CheckpointError: it is damaged, something else, or of a newer format; the message says which.
      OSError: with the path, when the file cannot be read.
    """
    from rbd_ipu.progress import Progress  # late: it needs TensorFlow

    facts, arrays = container.read(path)
    try:
        listed = facts["variables"]
        sums = tuple(float(value) for value in arrays[SUMS])
        return Checkpoint(
            path=Path(path),
            step=int(facts["step"]),
            progress=Progress(**facts["progress"], sums=sums),
            method=dict(facts["method"]),
            variables=listed,
            arrays={group: [arrays[key(group, i)] for i in range(len(listed[group]))] for group in listed},
            versions=dict(facts["versions"]),
            machine=dict(facts["machine"]),
            saved=str(facts["saved"]),
            about=dict(facts["about"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"it does not hold the state of a training: {error!r}") from None
