"""Second derivatives of the loss along directions, and the Hessian inside the subspace that they span."""

from typing import Any, NamedTuple

import numpy as np

from rbd_ipu import checks
from rbd_ipu.analysis.surface import Surface, rows


class Curvature(NamedTuple):
    """One entry for each direction.

    Attributes:
      slopes: <grad L, phi>, float64 [d].
      curvatures: phi^T H phi, float64 [d]; for directions of norm 1 their mean is close to trace(H) / D.
      norms: |H phi|, float64 [d].
    """

    slopes: np.ndarray
    curvatures: np.ndarray
    norms: np.ndarray


def curvature(surface: Surface, directions: Any) -> Curvature:
    """Slopes and second derivatives along each direction, by one Hessian-vector product each.

    These are derivatives in the strict sense. The gradient of a network with ReLUs or max pools jumps where a unit
    switches, and no derivative sees that; :func:`curvature_by_differences` does. The two are different questions, and
    their answers can be an order of magnitude apart.

    Args:
      surface: the loss.
      directions: rows [d, D].

    Raises:
      ValueError: see :meth:`rbd_ipu.analysis.Surface.hessian_product`.

    Example:
      >>> from rbd_ipu import RandomBasis, models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> curvature(surface, RandomBasis(9610, 3).directions(0)).curvatures.shape
      (3,)
    """
    phi = rows(directions, surface.size).astype(np.float64)
    return _along(phi, _products(surface, phi), surface.gradient())


def curvature_by_differences(surface: Surface, directions: Any, step: float = 2.0**-6) -> Curvature:
    """The same from gradients at two points: H phi = (grad L(theta + a phi) - grad L(theta - a phi)) / 2a + O(a^2).

    A check on :func:`curvature` where the loss is smooth. Elsewhere it adds the jumps of the gradient within a of
    theta, which a step of that length does meet.

    Args:
      surface, directions: as for :func:`curvature`.
      step: a, in units of the directions' length; too small a step drowns in the rounding of float32.

    Raises:
      TypeError, ValueError: the step is not a finite number above 0.
    """
    a = checks.finite_float("step", step)
    if a == 0:
        raise ValueError(f"step must be above 0, got {step!r}")
    phi = rows(directions, surface.size).astype(np.float64)
    ends = [[surface.gradient(sign * a * each).astype(np.float64) for sign in (1, -1)] for each in phi]
    products = np.array([(ahead - behind) / (2 * a) for ahead, behind in ends])
    return _along(phi, products, surface.gradient())


def subspace_hessian(surface: Surface, directions: Any) -> np.ndarray:
    """P^T H P, the Hessian with respect to the coordinates of the directions: float64 [d, d], symmetric."""
    phi = rows(directions, surface.size).astype(np.float64)
    inside = phi @ _products(surface, phi).T
    return (inside + inside.T) / 2  # rounding apart it is symmetric


def _products(surface: Surface, phi: np.ndarray) -> np.ndarray:
    """H phi_i as rows: float64 [d, D]."""
    return np.array([surface.hessian_product(each) for each in phi], np.float64)


def _along(phi: np.ndarray, products: np.ndarray, gradient: np.ndarray) -> Curvature:
    return Curvature(
        slopes=phi @ gradient.astype(np.float64),
        curvatures=np.einsum("ij,ij->i", phi, products),
        norms=np.linalg.norm(products, axis=1),
    )
