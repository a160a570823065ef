"""The search for an intrinsic dimension: which d, which learning rates and which seeds are measured next.

All of that is a pure function of what has been measured, so that a search that was stopped takes the same way again
and meets its own runs. Nothing here trains, writes or imports TensorFlow.
"""

import math
import statistics
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

FINISHED, NOT_FINITE = "finished", "not finite"
START = 2.0**-4  # of a walk over the rates of the full space, where nothing is known
HIGHEST, LOWEST = 2.0**12, 2.0**-24  # rates that a walk may come to


class Order(NamedTuple):
    """A run to be made: d (None for the full space), learning rate, seed."""

    dim: Optional[int]
    learning_rate: float
    seed: int


class Run(NamedTuple):
    """A run that was made: its order, and what it came to.

    Attributes:
      dim, learning_rate, seed: of its :class:`Order`.
      outcome: "finished" or "not finite".
      accuracy: in [0, 1], on the validation data after the last epoch; NaN where the run was not finished.
      epochs: finished ones.
      seconds: that it took.
    """

    dim: Optional[int]
    learning_rate: float
    seed: int
    outcome: str
    accuracy: float
    epochs: int
    seconds: float

    @property
    def order(self) -> Order:
        return Order(self.dim, self.learning_rate, self.seed)


class Point(NamedTuple):
    """A point of the curve: what one d has come to at the best of its learning rates.

    Attributes:
      dim: d; of the full space D.
      learning_rate: the one with the highest accuracy among those that were tried; None where every run diverged.
      accuracy: the mean over the seeds, in [0, 1]; NaN where every run diverged.
      std: the sample deviation over the seeds; None for one seed.
      n: how many seeds.
      share: the accuracy divided by that of the full space.
      reaches: whether that is at least the share that was asked for.
      rates: how many learning rates were tried. A d that reaches the share is not tried at further ones.
      diverged: how many runs were not finite.
    """

    dim: int
    learning_rate: Optional[float]
    accuracy: float
    std: Optional[float]
    n: int
    share: float
    reaches: bool
    rates: int
    diverged: int


class IntrinsicDimension(NamedTuple):
    """What a search has found.

    Attributes:
      dim: the smallest measured d that reaches the share; None where none does.
      below: the largest measured d under it that does not, 0 where there is none: the true one lies above it.
      full: the :class:`Point` of the full space.
      curve: a :class:`Point` for each measured d, the smallest d first.
      size: D, the number of trainable parameters.
      share: of the accuracy of the full space, that was asked for.
      runs: every :class:`Run`, in the order in which they were asked for.
      finished: whether nothing is left to measure.
    """

    dim: Optional[int]
    below: int
    full: Point
    curve: List[Point]
    size: int
    share: float
    runs: List[Run]
    finished: bool

    @property
    def threshold(self) -> float:
        """The accuracy that was to be reached."""
        return self.share * self.full.accuracy


def powers(least: int, greatest: int) -> List[int]:
    """The powers of two from ``least`` to ``greatest``, and these two.

    Example:
      >>> powers(3, 40)
      [3, 4, 8, 16, 32, 40]
    """
    found = {2**k for k in range(greatest.bit_length()) if 2**k >= least}
    return sorted({least, *found, greatest})


def following(verdicts: Mapping[int, bool], least: int, greatest: int, tolerance: float) -> Optional[int]:
    """The d to measure next; None at the end.

    With ``high`` the smallest d that reaches the share and ``low`` the largest one below it that does not, the
    answer lies in (low, high]. It is halved at powers of two, and where none is left at the geometric mean of its
    ends, until ``high <= low * (1 + tolerance)``. That takes about log2(log2(D)) + log2(1 / tolerance) measurements.
    ``greatest`` itself is measured only if everything below it fails.

    Args:
      verdicts: whether d reaches the share, for each d that was measured; they need not be monotone.
      least, greatest: the range of d.
      tolerance: relative; 0 goes on to the last whole number.

    Example:
      >>> [following(verdicts, 1, 1000, 0.1) for verdicts in ({}, {16: False}, {16: False, 128: True})]
      [32, 128, 32]
      >>> following({32: False, 64: True}, 1, 1000, 0.1), following({60: False, 64: True}, 1, 1000, 0.1)
      (45, None)
    """
    high, low = found(verdicts, least)
    rungs = [d for d in powers(least, greatest) if low < d < (greatest + 1 if high is None else high)]
    if rungs:
        return rungs[(len(rungs) - 1) // 2]
    if high is None or high - low <= 1 or low < least or high <= low * (1 + tolerance):
        return None
    return min(max(round(math.sqrt(low * high)), low + 1), high - 1)


def found(verdicts: Mapping[int, bool], least: int = 1) -> Tuple[Optional[int], int]:
    """The smallest d that reaches the share, or None; and the largest one below it that does not, or ``least - 1``.

    Example:
      >>> found({8: False, 16: True, 32: False}), found({8: False})
      ((16, 8), (None, 8))
    """
    high = min((d for d, reaches in verdicts.items() if reaches), default=None)
    below = [d for d, reaches in verdicts.items() if not reaches and (high is None or d < high)]
    return high, max(below, default=least - 1)


def next_rates(known: Mapping[float, float], start: float) -> List[float]:
    """The learning rates to try next on a walk over powers of two times ``start``; empty at its end.

    The walk ends where the rates on both sides of the best one are known. Where all have diverged it goes downwards.

    Args:
      known: accuracy by learning rate; minus infinity for one that diverged.
      start: where it begins.

    Example:
      >>> next_rates({}, 1.0), next_rates({1.0: 0.5}, 1.0), next_rates({0.5: 0.4, 1.0: 0.5, 2.0: 0.6}, 1.0)
      ([1.0], [0.5, 2.0], [4.0])
      >>> next_rates({1.0: float("-inf")}, 1.0), next_rates({0.5: 0.4, 1.0: 0.5, 2.0: 0.3}, 1.0)
      ([0.5], [])
    """
    if start not in known:
        return [start]
    finite = [rate for rate in known if known[rate] > -math.inf]
    if not finite:
        near = [min(known) / 2]
    else:
        best = _best(known)
        near = [best / 2, best * 2]
    return [rate for rate in near if rate not in known and LOWEST <= rate <= HIGHEST]


def _best(known: Mapping[float, float]) -> float:
    """The rate with the highest accuracy; of equal ones the lowest."""
    return max(known, key=lambda rate: (known[rate], -rate))


def to_measure(
    runs: Sequence[Run], seeds: Sequence[int], threshold: float, rates: Optional[Sequence[float]], start: float
) -> List[Tuple[float, int]]:
    """The runs of one d to make next, as pairs of learning rate and seed; empty where nothing is left to know.

    The first seed looks for a rate, the other seeds are run at the best one. A rate that reaches the threshold, in
    the mean over the seeds, ends it. A rate that diverged with any seed is none.

    Args:
      runs: of this d, so far.
      seeds: all that are wanted.
      threshold: the accuracy to reach; infinite for the full space, whose rate is always looked for to the end.
      rates: those to try, in this order, one after the other (all at once where the threshold is infinite); None for
        a walk, see :func:`next_rates`.
      start: of the walk.

    Example:
      >>> to_measure([], (0, 1), 0.8, None, 1.0)
      [(1.0, 0)]
      >>> to_measure([Run(8, 1.0, 0, FINISHED, 0.9, 5, 1.0)], (0, 1), 0.8, None, 1.0)
      [(1.0, 1)]
      >>> to_measure([Run(8, 1.0, 0, FINISHED, 0.7, 5, 1.0)], (0, 1), 0.8, None, 1.0)
      [(0.5, 0), (2.0, 0)]
    """
    if any(accuracy >= threshold for accuracy in means(runs, seeds).values()):
        return []
    known = {run.learning_rate: -math.inf for run in runs}
    known.update((run.learning_rate, run.accuracy) for run in runs if run.seed == seeds[0])
    known.update((run.learning_rate, -math.inf) for run in runs if run.outcome != FINISHED)
    others: List[Tuple[float, int]] = []
    if known and max(known.values()) > -math.inf:
        best = _best(known)
        done = {run.seed for run in runs if run.learning_rate == best}
        others = [(best, seed) for seed in seeds if seed not in done]
        if known[best] >= threshold and others:
            return others
    if rates is None:
        more = next_rates(known, start)
    else:
        left = [rate for rate in rates if rate not in known]
        more = left if threshold == math.inf else left[:1]
    return [(rate, seeds[0]) for rate in more] or others


def means(runs: Sequence[Run], seeds: Sequence[int]) -> Mapping[float, float]:
    """The mean accuracy by learning rate, of the rates that have finished with all seeds."""
    by_rate = {run.learning_rate: [r for r in runs if r.learning_rate == run.learning_rate] for run in runs}
    return {
        rate: statistics.mean(run.accuracy for run in own)
        for rate, own in by_rate.items()
        if {run.seed for run in own} >= set(seeds) and all(run.outcome == FINISHED for run in own)
    }


def point(dim: int, runs: Sequence[Run], seeds: Sequence[int], full: Optional[float], share: float) -> Point:
    """The point of some runs of one d.

    Args:
      dim: d; of the full space D.
      runs: its runs.
      seeds: all that are wanted.
      full: the accuracy of the full space; None where this is the full space.
      share: to reach.

    Example:
      >>> runs = [Run(8, 1.0, seed, FINISHED, 0.5 + seed / 4, 5, 1.0) for seed in (0, 1)]
      >>> point(8, runs, (0, 1), 0.625, 0.9)[:6]
      (8, 1.0, 0.625, 0.1767766952966369, 2, 1.0)
    """
    known = means(runs, seeds)
    rates, diverged = len({run.learning_rate for run in runs}), sum(run.outcome != FINISHED for run in runs)
    if not known:
        return Point(dim, None, math.nan, None, 0, math.nan, False, rates, diverged)
    best = _best(known)
    values = [run.accuracy for run in runs if run.learning_rate == best]
    std = statistics.stdev(values) if len(values) > 1 else None
    against = known[best] if full is None else full
    part = known[best] / against if against else math.nan
    reaches = full is None or known[best] >= share * against
    return Point(dim, best, known[best], std, len(values), part, reaches, rates, diverged)


def likely_rate(points: Sequence[Point], dim: int) -> float:
    """Where a walk over rates begins: the rate of the nearest measured d, times sqrt(d there / d here).

    A step in a subspace of d random directions of norm 1 meets a curvature that falls with d; the best rate rises
    about like 1 / sqrt(d). With d = D it is that of SGD.

    Args:
      points: the measured ones, the full space among them.
      dim: d here.

    Example:
      >>> likely_rate([Point(4096, 0.125, 0.9, None, 1, 1.0, True, 3, 0)], 16)
      2.0
    """
    usable = [one for one in points if one.learning_rate is not None]
    near = min(usable, key=lambda one: (abs(math.log(one.dim / dim)), one.dim))
    assert near.learning_rate is not None
    return float(near.learning_rate * 2.0 ** round(0.5 * math.log2(near.dim / dim)))


def search(
    measure: Callable[[List[Order]], List[Run]],
    size: int,
    share: float = 0.9,
    seeds: Sequence[int] = (0,),
    tolerance: float = 0.1,
    least: int = 1,
    greatest: Optional[int] = None,
    also: Sequence[int] = (),
    rates: Optional[Sequence[float]] = None,
    full_rates: Optional[Sequence[float]] = None,
    start: float = START,
) -> Iterator[IntrinsicDimension]:
    """Looks for the smallest d that reaches a share of the full space's accuracy; yields after every few runs.

    The full space comes first, then ``also``, then the bisection of :func:`following`. The last value that is yielded
    is ``finished``.

    Args:
      measure: makes runs, or gives those that were made before, in the order of what it is given.
      size: D.
      share: in (0, 1].
      seeds: the accuracy of a d is the mean over these.
      tolerance: of d, relative.
      least, greatest: the range of d; None for D.
      also: further d to measure, for the curve.
      rates, full_rates: learning rates to try, in the subspaces and in the full space; None for a walk.
      start: of the walk in the full space.

    Example:
      >>> def measure(orders):  # accuracy d / (d + 10), or 1 in the full space, whatever the rate
      ...     return [Run(*o, FINISHED, o.dim / (o.dim + 10) if o.dim else 1.0, 1, 0.0) for o in orders]
      >>> *_, result = search(measure, size=1000, tolerance=0.0, rates=[1.0], full_rates=[1.0])
      >>> result.dim, result.below, [point.dim for point in result.curve]
      (90, 89, [32, 64, 76, 83, 87, 89, 90, 91, 128, 256])
    """
    greatest = size if greatest is None else greatest
    runs: List[Run] = []
    points: List[Point] = []

    def state(full: Point, finished: bool = False) -> IntrinsicDimension:
        dim, below = found({one.dim: one.reaches for one in points}, least)
        below = below if below >= least else 0
        return IntrinsicDimension(dim, below, full, sorted(points), size, share, list(runs), finished)

    own: List[Run] = []
    while True:
        wanted = to_measure(own, seeds, math.inf, full_rates, start)
        full = point(size, own, seeds, None, share)
        if not wanted:
            break
        made = measure([Order(None, *one) for one in wanted])
        own, runs = [*own, *made], [*runs, *made]
        yield state(point(size, own, seeds, None, share))
    if full.learning_rate is None:
        yield state(full, finished=True)
        return
    threshold, left = share * full.accuracy, list(dict.fromkeys(also))
    while True:
        dim = left.pop(0) if left else following({p.dim: p.reaches for p in points}, least, greatest, tolerance)
        if dim is None:
            break
        own, begin = [], likely_rate([full, *points], dim)
        while True:
            wanted = to_measure(own, seeds, threshold, rates, begin)
            if not wanted:
                break
            made = measure([Order(dim, *one) for one in wanted])
            own, runs = [*own, *made], [*runs, *made]
            yield state(full)
        points.append(point(dim, own, seeds, full.accuracy, share))
    yield state(full, finished=True)


def notes(result: IntrinsicDimension) -> List[str]:
    """What a reader of the result must know, a sentence each: what was not reached, what diverged, what is odd."""
    full, said = result.full, []
    if full.learning_rate is None:
        return ["Every run of the full space diverged: try lower learning rates."]
    reached, failed = ([p for p in result.curve if p.reaches is verdict] for verdict in (True, False))
    if result.finished and result.dim is None:
        last = max(result.curve)
        came = "every run of it diverged" if last.learning_rate is None else f"it came to {last.accuracy:.2%}"
        said.append(
            f"No d reaches {result.threshold:.2%}, {result.share:.0%} of the full space's {full.accuracy:.2%}; the "
            f"greatest one was d = {last.dim:,}: {came}."
        )
    after = [p.dim for p in failed if result.dim is not None and p.dim > result.dim]
    if after:
        said.append(
            f"The accuracy is not monotone in d: {_listed(after)} {'do' if len(after) > 1 else 'does'} not reach "
            f"the share, though d = {result.dim:,} does. More seeds or more learning rates would tell."
        )
    falls = [(a, b) for a, b in zip(failed, failed[1:]) if a.accuracy > b.accuracy]
    for a, b in falls:
        said.append(
            f"The accuracy falls from {a.accuracy:.2%} at d = {a.dim:,} to {b.accuracy:.2%} at d = {b.dim:,}; "
            "neither reaches the share."
        )
    lost = [p.dim for p in result.curve if p.learning_rate is None]
    if lost:
        said.append(f"Every run diverged at {_listed(lost)}.")
    if result.dim is not None and len(reached) and result.below == 0 and result.finished:
        said.append(f"The smallest d that was allowed, {result.dim:,}, reaches the share already.")
    return said


def _listed(dims: Sequence[int]) -> str:
    return "d = " + ", ".join(f"{dim:,}" for dim in dims)
