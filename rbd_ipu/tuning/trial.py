"""One rate that was tried: what it came to, and when nothing more is to be hoped for."""

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

JUDGED_AFTER = 0.25  # of the epochs
HOPED_FOR = 0.1  # of the loss at the start: what a run must promise to lose in all its epochs

FINISHED, STOPPED, NOT_FINITE = "finished", "stopped early", "not finite"


class Trial(NamedTuple):
    """The training at one learning rate.

    Attributes:
      exponent: the rate is 2**exponent.
      outcome: "finished", "stopped early" or "not finite" (a loss or an update was NaN or infinite).
      initial_loss: on the held-out images before the first step.
      losses, accuracies: on the held-out images after each finished epoch.
      train_losses: the means over the steps of each finished epoch.
      epochs: how many there were to be.
      seconds: that it took, its preparation included.
      again: whether it was stopped early before, and has now been run without that rule.
    """

    exponent: int
    outcome: str
    initial_loss: float
    losses: List[float]
    accuracies: List[float]
    train_losses: List[float]
    epochs: int
    seconds: float
    again: bool = False

    @property
    def learning_rate(self) -> float:
        return 2.0**self.exponent

    @property
    def loss(self) -> float:
        """What rates are compared by: the held-out loss after the last epoch; infinite for a rate without one."""
        complete = self.outcome == FINISHED and self.losses and math.isfinite(self.losses[-1])
        return self.losses[-1] if complete else math.inf

    @property
    def reach(self) -> float:
        """:func:`reach` of all its epochs."""
        return reach(self.initial_loss, [*self.losses, *self.train_losses], len(self.losses), self.epochs)

    def as_dict(self) -> Dict[str, Any]:
        """For a line of JSON."""
        return {**self._asdict(), "learning_rate": self.learning_rate}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Trial":
        """From a line of JSON, where NaN and infinity are null; keys that are not a Trial's are left alone."""

        def number(value: Optional[float]) -> float:
            return math.nan if value is None else value

        own: Dict[str, Any] = {name: facts[name] for name in cls._fields}
        for name in ("losses", "accuracies", "train_losses"):
            own[name] = [number(value) for value in own[name]]
        return cls(**{**own, "initial_loss": number(own["initial_loss"])})


def reach(initial: float, losses: Sequence[float], done: int, epochs: int) -> float:
    """The loss that a run would come to if it went on losing at the pace it has shown, which is to hope for much.

        L_0 - max(0, L_0 - min_t L_t) * epochs / done

    The lowest loss counts, not the last, so that a rough beginning is forgiven.

    Args:
      initial: L_0, before the first step.
      losses: those seen since; NaN counts as none.
      done: epochs done.
      epochs: epochs in all.

    Example:
      >>> reach(2.5, [2.0, 2.25], done=2, epochs=4), reach(2.5, [9.0], done=1, epochs=8)
      (1.5, 2.5)
    """
    lost = max([initial - loss for loss in losses if math.isfinite(loss)], default=0.0)
    return initial - max(0.0, lost) * epochs / max(done, 1)


def hopeless(initial: float, losses: Sequence[float], train_losses: Sequence[float], epochs: int) -> bool:
    """Whether to give a run up after its latest epoch.

    After a quarter of its epochs a run is given up if by going on at its pace (:func:`reach`) it would not lose a
    tenth of the loss it began with: it diverged, or it hardly moves. Only the run itself is looked at, so that the
    answer does not depend on what else has run. The rule is coarse on purpose; and :func:`rbd_ipu.tuning.following`
    has a run finished after all where no other one got below what it might have reached.

    Args:
      initial: the loss before the first step.
      losses: on the held-out images, an epoch each.
      train_losses: in training, an epoch each. The better of the two speaks for the run: with batch normalisation
        the held-out loss may lag behind.
      epochs: in all.

    Example:
      >>> hopeless(2.3, [2.299], [2.301], epochs=4), hopeless(2.3, [2.299], [2.301], epochs=5)
      (True, False)
    """
    done = len(losses)
    if done >= epochs or done < JUDGED_AFTER * epochs:
        return False
    return reach(initial, [*losses, *train_losses], done, epochs) > (1.0 - HOPED_FOR) * initial
