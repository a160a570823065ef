"""Statistics of what random bases work with: the coordinates of a step, and the weights."""

from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np

from rbd_ipu._stack import tf
from rbd_ipu.analysis.surface import Surface
from rbd_ipu.subspace import Subspace


class Summary(NamedTuple):
    """How numbers are distributed.

    Attributes:
      size: how many there are.
      mean, deviation: the deviation that of the numbers themselves, not of a sample.
      least, greatest: the extremes.
      norm: Euclidean.
      skewness: E z^3 of the standardised numbers; 0 where they do not vary.
      kurtosis: E z^4 - 3: 0 for normal ones.
    """

    size: int
    mean: float
    deviation: float
    least: float
    greatest: float
    norm: float
    skewness: float
    kurtosis: float


def summary(values: Any) -> Summary:
    """The statistics of an array of any shape, in float64.

    Raises:
      ValueError: the array is empty.

    Example:
      >>> summary([1.0, 2.0, 3.0]).mean
      2.0
    """
    x = np.asarray(values, np.float64).ravel()
    if not x.size:
        raise ValueError("values must hold at least one number, got an empty array")
    deviation = float(x.std())
    z = (x - x.mean()) / deviation if deviation else np.zeros_like(x)
    return Summary(
        size=x.size,
        mean=float(x.mean()),
        deviation=deviation,
        least=float(x.min()),
        greatest=float(x.max()),
        norm=float(np.linalg.norm(x)),
        skewness=float(np.mean(z**3)),
        kurtosis=float(np.mean(z**4) - 3) if deviation else 0.0,
    )


def coordinates(surface: Surface, subspace: Subspace, seed: int = 0, steps: Sequence[int] = (0,)) -> np.ndarray:
    """c = P^T grad L of the bases of some steps, at the same weights: float64 [steps, d].

    Args:
      surface: the loss.
      subspace: from :func:`rbd_ipu.subspace.subspace`, of size D.
      seed: of a run.
      steps: whose bases are drawn.

    Raises:
      ValueError: surface and subspace differ in D.
    """
    if subspace.size != surface.size:
        raise ValueError(f"the subspace is of size {subspace.size}, the model has D = {surface.size} parameters")
    gradient = tf.constant(surface.gradient())
    return np.array([subspace.project(gradient, seed, step).numpy() for step in steps], np.float64)


def weights(model: Any, since: Optional[Sequence[Any]] = None) -> Dict[str, Summary]:
    """The statistics of each trainable variable, by its name, and of all of them, as "all".

    Args:
      model: a built Keras model.
      since: the values of ``model.trainable_variables`` at another time, as arrays; the statistics are then those of
        how far the weights have moved.

    Raises:
      ValueError: ``since`` does not fit the model.
    """
    variables = model.trainable_variables
    values = [np.asarray(variable.numpy(), np.float64) for variable in variables]
    if since is not None:
        shapes, others = [v.shape for v in values], [np.shape(v) for v in since]
        if shapes != others:
            raise ValueError(f"since must be arrays of the shapes {shapes}, got {others}")
        values = [value - np.asarray(other, np.float64) for value, other in zip(values, since)]
    names = [str(getattr(variable, "path", variable.name)).split(":")[0] for variable in variables]
    together = np.concatenate([value.ravel() for value in values])
    return {**{name: summary(value) for name, value in zip(names, values)}, "all": summary(together)}
