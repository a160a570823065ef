"""How orthogonal random directions are: the mean |cosine| of pairs, against their dimension (Fig. B.8)."""

import math
from typing import List, NamedTuple, Sequence

import numpy as np

from rbd_ipu import checks
from rbd_ipu.basis import RandomBasis
from rbd_ipu.seeds import fold_in_numpy


class Orthogonality(NamedTuple):
    """One entry for each dimension n.

    Attributes:
      sizes: n, int [s].
      mean, deviation: of |cos| over the pairs, float64 [s]; the sample deviation.
      theory: :func:`expected_abs_cosine`, float64 [s].
      cosines: cos itself, float64 [s, pairs].
    """

    sizes: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    theory: np.ndarray
    cosines: np.ndarray


def expected_abs_cosine(size: int) -> float:
    """E |cos| of two independent directions that are uniform on the sphere of R^n.

        Gamma(n / 2) / (sqrt(pi) Gamma((n + 1) / 2)),   which tends to sqrt(2 / (pi n))

    That is 0.0025 at n = 100,000, where the paper (Section B.3, Fig. B.8) says "around 0.02", the value at n = 1,600.
    One decade of it is the published script's, which builds its graph before it sets the next dimension and so
    records every mean under ten times its n: 0.008 for 100,000. Random directions are closer to orthogonal than the
    figure says.

    The same number is the expected |slope| of a unit direction in units of the norm of the gradient.

    Raises:
      TypeError, ValueError: size is no integer from 1.

    Example:
      >>> f"{expected_abs_cosine(1):.4f} {expected_abs_cosine(100_000):.4f} {math.sqrt(2 / (math.pi * 100_000)):.4f}"
      '1.0000 0.0025 0.0025'
    """
    n = checks.positive_int("size", size)
    return math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2)) / math.sqrt(math.pi)


def orthogonality(
    sizes: Sequence[int], pairs: int = 100, distribution: str = "normal", seed: int = 0, source: str = "auto"
) -> Orthogonality:
    """Cosines of independent pairs of directions for each dimension.

    Args:
      sizes: the dimensions n.
      pairs: how many pairs each; the paper takes 100.
      distribution: of the entries, as for :class:`rbd_ipu.RandomBasis`. The theory is for directions of zero mean.
      seed: of the directions.
      source: what draws them.

    Example:
      >>> result = orthogonality([10, 1000], pairs=20)
      >>> result.mean.shape, result.cosines.shape
      ((2,), (2, 20))
    """
    pairs = checks.positive_int("pairs", pairs)
    theory = [expected_abs_cosine(size) for size in sizes]  # refuses wrong sizes
    seeds = fold_in_numpy(seed, "pair", np.arange(pairs, dtype=np.int32))
    cosines = np.array([_cosines(RandomBasis(size, 2, distribution, source=source), seeds) for size in sizes])
    absolute = np.abs(cosines)
    return Orthogonality(
        sizes=np.array(sizes),
        mean=absolute.mean(axis=1),
        deviation=absolute.std(axis=1, ddof=min(1, pairs - 1)),
        theory=np.array(theory),
        cosines=cosines,
    )


def _cosines(basis: RandomBasis, seeds: np.ndarray) -> List[float]:
    """The cosine of the two directions that each seed draws."""
    return [float(np.dot(*basis.directions(seed).numpy().astype(np.float64))) for seed in seeds]
