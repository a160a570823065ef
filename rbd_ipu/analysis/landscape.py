"""The loss along random directions, from where the model stands (Fig. 2)."""

from typing import Any, NamedTuple, Sequence

import numpy as np

from rbd_ipu import checks
from rbd_ipu.analysis.surface import Surface, rows
from rbd_ipu.basis import RandomBasis


class Landscape(NamedTuple):
    """The loss at m displacements along d directions.

    Attributes:
      displacements: a, float64 [m].
      losses: L(theta + a phi_i), float64 [d, m].
      slopes: <grad L, phi_i>, float64 [d].
    """

    displacements: np.ndarray
    losses: np.ndarray
    slopes: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the directions: [m]."""
        return self.losses.mean(axis=0)

    @property
    def deviation(self) -> np.ndarray:
        """Over the directions: [m], the sample deviation; 0 for a single one."""
        return self.losses.std(axis=0, ddof=min(1, len(self.losses) - 1))

    def downhill(self) -> "Landscape":
        """The same with every direction turned so that the loss falls along it.

        phi and -phi are equally likely for directions of zero mean, so that a plain average has no slope; descent
        does turn them, by the sign of their coordinate.

        Raises:
          ValueError: the displacements are not symmetric about 0.
        """
        if not np.allclose(self.displacements, -self.displacements[::-1], rtol=1e-6, atol=0):
            raise ValueError(f"displacements must be symmetric about 0, got {self.displacements.tolist()}")
        up = self.slopes > 0
        return self._replace(
            losses=np.where(up[:, None], self.losses[:, ::-1], self.losses), slopes=-np.abs(self.slopes)
        )


def landscape(surface: Surface, directions: Any, displacements: Sequence[float]) -> Landscape:
    """The loss along each direction.

    Args:
      surface: the loss to look at.
      directions: rows [d, D].
      displacements: a, [m], in units of the directions' length.

    Raises:
      ValueError: the directions are no rows of length D; the displacements are none or not finite.
    """
    phi = rows(directions, surface.size)
    a = np.asarray(displacements, np.float64)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all():
        raise ValueError(f"displacements must be finite numbers, at least one, got {displacements!r}")
    losses = np.array([surface.along(each, a) for each in phi])
    slopes = phi.astype(np.float64) @ surface.gradient().astype(np.float64)
    return Landscape(displacements=a, losses=losses, slopes=slopes)


def random_landscape(
    model: Any,
    batch: Any,
    displacements: Sequence[float],
    distribution: str = "normal",
    count: int = 25,
    loss: Any = None,
    normalize: str = "unit",
    seed: int = 0,
    source: str = "auto",
) -> Landscape:
    """:func:`landscape` along directions of one distribution, in the full space.

    The paper (Section 4.5) finds the slope pronounced along normal directions and hardly any along uniform and
    Bernoulli ones. For directions of zero mean and one norm the slopes are alike: E |<g, phi>| = |g| times
    :func:`rbd_ipu.analysis.expected_abs_cosine`. (In the published script of the figure uniform entries come from
    [0, 1) and Bernoulli ones from {0, 1}, which are not of zero mean.)

    Args:
      model, batch, loss: as for :class:`rbd_ipu.analysis.Surface`.
      displacements: as for :func:`landscape`.
      distribution, normalize, source: of the directions, as for :class:`rbd_ipu.RandomBasis`.
      count: how many; the paper takes 25.
      seed: of the directions.

    Example:
      >>> from rbd_ipu import models
      >>> model, batch = models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4))
      >>> random_landscape(model, batch, [-0.1, 0.0, 0.1], count=5).downhill().losses.shape
      (5, 3)
    """
    surface = Surface(model, batch, loss)
    basis = RandomBasis(surface.size, checks.positive_int("count", count), distribution, normalize, source)
    return landscape(surface, basis.directions(seed), displacements)
