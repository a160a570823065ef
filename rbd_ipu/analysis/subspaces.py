"""How good random subspaces are: correlation with the gradient (Fig. B.7), orthogonality (Fig. B.8), statistics."""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.analysis.loss import Surface
from rbd_ipu.basis import RandomBasis
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods.base import likeness
from rbd_ipu.seeds import fold_in_numpy
from rbd_ipu.subspace import Subspace, subspace


class Correlation(NamedTuple):
    """One entry for each subspace; n of them, each drawn r times.

    Attributes:
      dims: d, int [n].
      pearson, cosine: of P P^T g with g, float64 [n, r].
      theory: :func:`expected_cosine`, float64 [n]; of both, since means are small beside norms.
      size: D.
    """

    dims: np.ndarray
    pearson: np.ndarray
    cosine: np.ndarray
    theory: np.ndarray
    size: int


def expected_cosine(gradient: Any, compartments: Compartments, orthogonal: bool = False) -> float:
    """What the cosine of P P^T g with g is close to in high dimensions.

    With w_k the share of compartment k in |g|^2, for orthonormal directions and for independent ones of norm 1::

        sqrt(sum_k w_k d_k / D_k)
        sum_k w_k d_k / D_k  /  sqrt(sum_k w_k d_k (d_k + D_k - 1) / D_k^2)

    For one compartment this is sqrt(d / D) and sqrt(d / (d + D - 1)): the same as long as d << D, but directions
    that are not orthogonal never get the gradient back, not even with d = D of them. The second one follows from
    E P P^T = (d / D) I and E (P P^T)^2 = d (d + D - 1) / D^2 I, by which <g, P P^T g> and |P P^T g|^2 are known.

    Args:
      gradient: g, [D].
      compartments: the cut, with its D_k and d_k.
      orthogonal: whether the directions of a compartment are orthonormal.

    Example:
      >>> gradient, cut = np.ones(100_000), Compartments.of([(100_000,)], "global", 10_000)
      >>> round(expected_cosine(gradient, cut), 3), round(expected_cosine(gradient, cut, orthogonal=True), 3)
      (0.302, 0.316)
    """
    g = np.asarray(gradient, np.float64)
    along, length = 0.0, 0.0  # <g, u> / |g|^2 and |u|^2 / |g|^2
    for piece in compartments:
        part = g[piece.start : piece.start + piece.size]
        share = np.dot(part, part) / np.dot(g, g)
        d, n = piece.dim, piece.size
        along += share * d / n
        length += share * (d / n if orthogonal else d * (d + n - 1) / n**2)
    return float(along / math.sqrt(length))


def correlation(
    gradient: Any, subspaces: Sequence[Subspace], repeats: int = 3, seed: int = 0, orthogonal: bool = False
) -> Correlation:
    """Pearson correlation and cosine of the update P P^T g with the gradient g, for each subspace.

    Args:
      gradient: g, [D].
      subspaces: from :func:`rbd_ipu.subspace.subspace`, all of size D.
      repeats: how many times each is drawn.
      seed: of the draws.
      orthogonal: whether their directions are orthonormal, for the theory.

    Raises:
      ValueError: no subspaces, or sizes differ.

    Example:
      >>> from rbd_ipu.subspace import subspace
      >>> bases = [subspace(Compartments.of([(1000,)], "global", d), "normal", "unit", "auto") for d in (10, 100)]
      >>> few, many = correlation(np.sin(np.arange(1000)), bases).pearson.mean(axis=1)
      >>> bool(few < many)
      True
    """
    g = np.asarray(gradient, np.float32)
    sizes = [each.size for each in subspaces]
    if not sizes or any(g.shape != (size,) for size in sizes):
        raise ValueError(f"gradient and subspaces must have one size D, got {list(g.shape)} and {sizes}")
    repeats = checks.positive_int("repeats", repeats)
    measured = np.array([[_likeness(g, each, seed, step) for step in range(repeats)] for each in subspaces])
    return Correlation(
        dims=np.array([each.dim for each in subspaces]),
        pearson=measured[..., 1],
        cosine=measured[..., 0],
        theory=np.array([expected_cosine(g, each.compartments, orthogonal) for each in subspaces]),
        size=len(g),
    )


def gradient_correlation(
    model: Any,
    batch: Any,
    dims: Sequence[Optional[int]],
    loss: Any = None,
    distribution: str = "normal",
    compartments: str = "global",
    repeats: int = 3,
    seed: int = 0,
    source: str = "auto",
    orthogonalize: bool = False,
) -> Correlation:
    """:func:`correlation` of a model's gradient on a batch, against d.

    Args:
      model, batch, loss: as for :class:`rbd_ipu.analysis.Surface`.
      dims: d of each subspace; [None] where the scheme fixes it ("factor:f").
      distribution, compartments, source, orthogonalize: as for :class:`rbd_ipu.methods.RBD`.
      repeats, seed: as for :func:`correlation`.

    Raises:
      TypeError, ValueError: an argument is not as above.

    Example:
      >>> from rbd_ipu import models
      >>> model, batch = models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4))
      >>> gradient_correlation(model, batch, [10, 1000], repeats=2).pearson.shape
      (2, 2)
    """
    cuts: List[Compartments] = [Compartments.of(model.trainable_variables, compartments, dim) for dim in dims]
    subspaces = [subspace(cut, distribution, "unit", source, orthogonalize) for cut in cuts]
    orthogonal = orthogonalize or distribution == "hadamard"
    return correlation(Surface(model, batch, loss).gradient(), subspaces, repeats, seed, orthogonal)


def _likeness(gradient: np.ndarray, each: Subspace, seed: int, step: int) -> List[float]:
    """(cosine, Pearson)."""
    update = each.filter(tf.constant(gradient), seed, step)
    return [float(value) for value in likeness(update, tf.constant(gradient))]


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

    Args:
      size: n.

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

    Raises:
      TypeError, ValueError: an argument is not as above.

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

    Args:
      values: the array, or what NumPy makes one of.

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

    Example:
      >>> from rbd_ipu import models
      >>> from rbd_ipu.subspace import subspace
      >>> model, batch = models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4))
      >>> bases = subspace(Compartments.of(model.trainable_variables, "layer", 10), "normal", "unit", "auto")
      >>> coordinates(Surface(model, batch), bases, steps=range(3)).shape
      (3, 10)
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

    Example:
      >>> from rbd_ipu import models
      >>> model = models.build("fc", (8, 8, 1))
      >>> weights(model)["all"].size, weights(model, since=model.get_weights())["all"].norm
      (9610, 0.0)
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
