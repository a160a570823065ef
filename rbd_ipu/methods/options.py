"""The options of RBD that change its step: checked once, and against each other."""

from typing import Any, NamedTuple, Optional

from rbd_ipu import checks
from rbd_ipu.directions import DISTRIBUTIONS


class Options(NamedTuple):
    """See :class:`rbd_ipu.methods.RBD` for their meaning.

    Attributes:
      ratio: of the learning rate of SGD to that of the descent in random bases.
    """

    sgd_layers: Optional[str]
    transform: str
    accumulate: int
    top_k: Optional[int]
    sgd_below: Optional[float]
    redraw_lowest: Optional[float]
    ratio: float

    @property
    def filters(self) -> bool:
        """Whether the update is P P^T g, so that coordinates need not be known."""
        return self[:4] == (None, "none", 1, None) and self.redraw_lowest is None

    def not_parallel_because(self) -> str:
        """Why several workers cannot share a step, or nothing."""
        if self.accumulate > 1:
            return f"accumulate={self.accumulate} keeps sums of coordinates, which every worker would have its own of"
        if self.sgd_below is not None:
            return f"sgd_below={self.sgd_below:g} makes steps of SGD, for which workers send no gradients"
        if self.redraw_lowest is not None:
            return f"redraw_lowest={self.redraw_lowest:g} looks at the coordinates of one worker's directions"
        return ""

    def check_dim(self, dim: int) -> None:
        """Refuses what needs more directions than there are.

        Raises:
          ValueError: both numbers are quoted.
        """
        if self.top_k is not None and self.top_k > dim:
            raise ValueError(f"top_k={self.top_k} is more than the dim={dim} directions there are")
        if self.transform != "none" and dim == 1:
            raise ValueError(f"transform={self.transform!r} compares coordinates, but dim=1 gives one alone")


def checked(
    method: Any,
    sgd_layers: Optional[str],
    transform: str,
    accumulate: int,
    top_k: Optional[int],
    sgd_below: Optional[float],
    redraw_lowest: Optional[float],
    sgd_learning_rate: Optional[float],
) -> Options:
    """Options that go together, and with the rest of a method.

    Raises:
      TypeError, ValueError: one is wrong, or two contradict each other; both are quoted.
    """
    if sgd_layers is not None and not (isinstance(sgd_layers, str) and sgd_layers.strip()):
        raise TypeError(f"sgd_layers must be names or patterns of layers, separated by commas, got {sgd_layers!r}")
    accumulate = checks.positive_int("accumulate", accumulate)
    top_k = None if top_k is None else checks.positive_int("top_k", top_k)
    sgd_below = None if sgd_below is None else checks.finite_float("sgd_below", sgd_below, -1.0, 1.0)
    if redraw_lowest is not None:
        redraw_lowest = checks.finite_float("redraw_lowest", redraw_lowest, 0.0, 1.0)
    made = Options(
        sgd_layers, transform, accumulate, top_k, sgd_below, redraw_lowest, _ratio(method, sgd_learning_rate)
    )
    for contradiction, why in _contradictions(method, made, sgd_learning_rate):
        if contradiction:
            raise ValueError(why)
    return made


def _contradictions(method: Any, use: Options, sgd_learning_rate: Optional[float]) -> Any:
    """(whether, why) for every pair."""
    k, share = use.accumulate, use.redraw_lowest
    sgd = use.sgd_layers is not None or use.sgd_below is not None
    name = f"sgd_layers={use.sgd_layers!r}" if use.sgd_layers is not None else f"sgd_below={use.sgd_below}"
    yield (
        not sgd and sgd_learning_rate is not None,
        f"sgd_learning_rate={sgd_learning_rate} is for sgd_layers or sgd_below, but neither is given",
    )
    yield sgd and sgd_learning_rate is None, f"{name} needs sgd_learning_rate, the learning rate of its SGD"
    yield (
        use.sgd_layers is not None and use.sgd_below is not None,
        f"sgd_below={use.sgd_below} compares the update with the gradient, but with sgd_layers={use.sgd_layers!r} a "
        "part of it is the gradient",
    )
    yield (
        k > 1 and method.redraw_every % k > 0,
        f"accumulate={k} sums up coordinates of one basis, so redraw_every must be a multiple of it, "
        f"got redraw_every={method.redraw_every}",
    )
    yield (
        k > 1 and method.momentum > 0,
        f"accumulate={k} leaves the weights alone between its updates, but momentum={method.momentum} moves them",
    )
    yield (
        k > 1 and use.sgd_below is not None,
        f"sgd_below={use.sgd_below} compares every update with the gradient, but accumulate={k} makes none at most "
        "steps",
    )
    yield (
        share is not None and not 0 < share < 1,
        f"redraw_lowest must be a number above 0 and below 1, got {share}; 1 is what RBD does without it, 0 is fpd",
    )
    yield (
        share is not None and (method.distribution not in DISTRIBUTIONS or method.orthogonalize),
        f"redraw_lowest={share} draws directions one by one, but with distribution={method.distribution!r} and "
        f"orthogonalize={method.orthogonalize} they are made as a whole",
    )
    yield (
        share is not None and method.source not in ("auto", "counter"),
        f"redraw_lowest={share} gives every direction a seed of its own, which source={method.source!r} does not "
        "take; leave it 'auto'",
    )


def _ratio(method: Any, sgd_learning_rate: Optional[float]) -> float:
    if sgd_learning_rate is None:
        return 0.0
    sgd = checks.finite_float("sgd_learning_rate", sgd_learning_rate)
    if callable(method.learning_rate) or not method.learning_rate > 0:
        raise ValueError(
            f"sgd_learning_rate={sgd} is applied in proportion to learning_rate, which must be a number > 0, "
            f"got {method.learning_rate!r}"
        )
    return sgd / method.learning_rate
