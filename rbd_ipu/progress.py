"""Where a training is, in plain numbers: a checkpoint keeps them, and a resumed epoch ends with the same metrics."""

from typing import Dict, NamedTuple, Sequence, Tuple

from rbd_ipu import objective
from rbd_ipu.step.step import MEASURES


class Progress(NamedTuple):
    """A place in a run, between two calls of the loop.

    Attributes:
      epoch: finished epochs.
      step: finished steps of the present one.
      steps_per_epoch: how many it has; 0 is unknown.
      sums: over these steps, of what ``MEASURES`` names; behind them what Keras' metrics keep, if there are any, for
        each worker that has its own.
      seconds: training of the present epoch so far.
      timed_steps, timed_seconds: those that count for the speed: not the first call, which traces.
    """

    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    sums: Tuple[float, ...] = (0.0,) * len(MEASURES)
    seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0

    def after(self, steps: int, sums: Sequence[float], seconds: float, timed: bool) -> "Progress":
        """The place after a call of the loop that took so many steps; ``sums`` are the epoch's up to there."""
        return self._replace(
            step=self.step + steps,
            sums=tuple(sums),
            seconds=self.seconds + seconds,
            timed_steps=self.timed_steps + (steps if timed else 0),
            timed_seconds=self.timed_seconds + (seconds if timed else 0.0),
        )

    def within(self, steps_per_epoch: int) -> "Progress":
        """This place in epochs of so many steps.

        Raises:
          ValueError: it is a place in epochs of another number of steps.
        """
        if self.steps_per_epoch not in (0, steps_per_epoch) or not 0 <= self.step <= steps_per_epoch:
            raise ValueError(
                f"start is at step {self.step} of an epoch of {self.steps_per_epoch or '(unknown)'} steps, but the "
                f"data give {steps_per_epoch} steps an epoch: they are not those that were trained on"
            )
        if self.step and len(self.sums) < len(MEASURES):
            raise ValueError(
                f"start is in the middle of an epoch and holds {len(self.sums)} sums where this version has "
                f"{len(MEASURES)}: another version of rbd_ipu wrote it, which can go on from there"
            )
        sums = self.sums if self.step else Progress().sums
        return self._replace(steps_per_epoch=steps_per_epoch, sums=sums)


def means(sums: Sequence[float]) -> Dict[str, float]:
    """Metrics of an epoch from sums over its steps; ``accuracy`` only where outputs are classes.

    Example:
      >>> means([2.0, 0.0, 4.0, 2.0, 4.0, 3.0, 0.0, 0.0])
      {'loss': 0.5, 'accuracy': 0.75}
    """
    total = dict(zip(MEASURES, sums))
    found = objective.means([total[name] for name in objective.REPORTED])
    if total["compared"]:
        found.update({name: total[name] / total["compared"] for name in ("cosine", "correlation")})
    return found
