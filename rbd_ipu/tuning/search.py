"""Which rates are tried next, and which one is chosen: pure functions of what has been measured.

Neither depends on the order in which trials end, so that a search may try several rates at once, be killed and
started again, and still try the same rates and choose the same one.
"""

import math
from typing import Dict, List, Optional, Sequence

from rbd_ipu.tuning.trial import STOPPED, Trial

PATIENCE = 2  # a side of the walk ends after so many rates in a row that do not improve on the best of this side

Trials = Dict[int, Trial]  # by exponent


def best(trials: Trials) -> Optional[Trial]:
    """The trial with the lowest held-out loss after its last epoch; of equal ones that of the lower rate.

    None where no trial was finished.
    """
    finished = [trial for trial in trials.values() if math.isfinite(trial.loss)]
    return min(finished, key=lambda trial: (trial.loss, trial.exponent), default=None)


def following(grid: Sequence[int], trials: Trials, start: Optional[int] = None) -> List[int]:
    """The exponents to try next; none of them waits for another. Empty at the end of the search.

    Args:
      grid: the exponents of the search, in the order in which they are tried.
      trials: what has been measured so far.
      start: None tries the whole grid. An exponent of the grid begins there and walks outwards on either side, and on
        each until two rates in a row have not improved on the best of that side, the start included. Where nothing
        has been finished yet it goes on to the end of the grid.

    Rates that were stopped early come again, to be run in full, where the best of the others has not got below what
    they might have reached, see :func:`rbd_ipu.tuning.reach`.

    Example:
      >>> following([2, 1, 0], {})
      [2, 1, 0]
      >>> following([3, 2, 1, 0, -1, -2], {}, start=0)
      [0]
    """
    if start is None:
        wanted = [exponent for exponent in grid if exponent not in trials]
    elif start not in trials:
        wanted = [start]
    else:
        sides = sorted(e for e in grid if e > start), sorted((e for e in grid if e < start), reverse=True)
        wanted = [exponent for side in sides for exponent in _outwards([start, *side], trials)]
    return wanted or _unsettled(grid, trials)


def _outwards(side: Sequence[int], trials: Trials) -> List[int]:
    """The next exponent of one side of the walk, or none where the side is at its end."""
    lowest, idle = math.inf, 0
    for exponent in side:
        if exponent not in trials:
            return [exponent]
        loss = _at_first(trials[exponent])
        idle = 0 if loss < lowest or lowest == math.inf else idle + 1
        lowest = min(lowest, loss)
        if idle == PATIENCE:
            return []
    return []


def _unsettled(grid: Sequence[int], trials: Trials) -> List[int]:
    """The stopped trials that might have come below the best of those that were not."""
    bound = min(map(_at_first, trials.values()), default=math.inf)
    stopped = [trials[e] for e in grid if e in trials and trials[e].outcome == STOPPED]
    return [trial.exponent for trial in stopped if trial.reach <= bound]


def _at_first(trial: Trial) -> float:
    """The loss that the search goes by: a trial that was run again counts as the stopped one that it was.

    Otherwise what is tried would depend on the order in which trials are run again.
    """
    return math.inf if trial.again else trial.loss
