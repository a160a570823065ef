"""How alike a subspace's update and the full gradient are, against the number of directions (Fig. B.7, Table 3)."""

import math
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np

from rbd_ipu import checks
from rbd_ipu._stack import tf
from rbd_ipu.analysis.surface import Surface
from rbd_ipu.compartments import Compartments
from rbd_ipu.statistics import likeness
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
