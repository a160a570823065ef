"""Trials of learning rates: powers of two, lowest loss on a quarter of the training images (Section C.1).

Which rates are tried next, and which one is chosen, are pure functions of what has been measured. Neither depends on
the order in which trials end, so that a search may try several rates at once, be killed and started again, and still
choose the same one. Importing this module does not import TensorFlow.
"""

import dataclasses
import math
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from rbd_ipu.config import Config
from rbd_ipu.config.schema import Choice, Integer
from rbd_ipu.config.yaml import YamlError, scalar
from rbd_ipu.errors import ConfigError, NonFiniteError
from rbd_ipu.files import COUNT, FLAG, NUMBER, Maybe
from rbd_ipu.runs.experiment import Experiment, prepare

HIGHEST, LOWEST = 7, -19  # the exponents of the paper (Section C.1)


def written(exponent: int) -> str:
    """A power of two as settings write it.

    Example:
      >>> written(-3)
      '2**-3'
    """
    return f"2**{exponent}"


def read_exponent(text: Any) -> int:
    """The exponent of a power of two, given as a number or as text: 2**-3, 2^-3 or 0.125.

    Raises:
      ValueError: it is no power of two, or not one of float32.

    Example:
      >>> [read_exponent(text) for text in ("2**7", "2^-3", "0.25", 1)]
      [7, -3, -2, 0]
    """
    try:
        value = scalar(str(text).replace("^", "**"))
    except YamlError as error:
        raise ValueError(str(error)) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        mantissa, exponent = math.frexp(value)
        if mantissa == 0.5:
            return exponent - 1
    raise ValueError(f"must be a power of two such as 2**-3, 2^-3 or 0.125, not {text!r}")


class Wanted(NamedTuple):
    """Which rates a search looks at.

    Attributes:
      first, last: the exponents of the range, from high to low.
      start: where to begin and walk outwards; None for the whole range.
      jobs: rates at a time.
    """

    first: int = HIGHEST
    last: int = LOWEST
    start: Optional[int] = None
    jobs: int = 1

    def facts(self) -> Dict[str, Any]:
        """For the record."""
        start = None if self.start is None else written(self.start)
        return {"from": written(self.first), "to": written(self.last), "start": start, "jobs": self.jobs}


def exponents(first: int = HIGHEST, last: int = LOWEST) -> List[int]:
    """All exponents from ``first`` to ``last``, both included, in the order in which they are tried.

    Example:
      >>> exponents(1, -2)
      [1, 0, -1, -2]
    """
    return list(range(first, last - 1, -1)) if first >= last else list(range(first, last + 1))


JUDGED_AFTER = 0.25  # of the epochs
HOPED_FOR = 0.1  # of the loss at the start: what a run must promise to lose in all its epochs

FINISHED, STOPPED, NOT_FINITE = "finished", "stopped early", "not finite"
#: A line of JSON of a Trial, for :func:`rbd_ipu.files.check`.
LINE: Dict[str, Any] = {
    **{"exponent": Integer(-149, 127), "outcome": Choice(FINISHED, STOPPED, NOT_FINITE)},
    **{"initial_loss": Maybe(NUMBER, absent=False), "epochs": COUNT, "seconds": NUMBER, "again": FLAG},
    **dict.fromkeys(("losses", "accuracies", "train_losses"), [Maybe(NUMBER)]),
}


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
    answer does not depend on what else has run. The rule is coarse on purpose; and :func:`following`
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
    they might have reached, see :func:`rbd_ipu.lab.trials.reach`.

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


HELD_OUT = 0.25  # of the training images (Section C.1)


def prepared(config: Config) -> Experiment:
    """The experiment of a Config, with a quarter of its training images in the place of its validation images.

    Neither the validation images nor the test images take part.

    Raises:
      ConfigError: as :func:`rbd_ipu.runs.experiment.prepare`, or fewer images are left than a batch takes.
    """
    experiment = prepare(config)
    data = experiment.data.for_tuning(HELD_OUT)
    if config.batch_size > len(data.train):
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {len(data.train)} {data.examples} of {config.dataset} "
            "that are left to train on, a quarter of them being held out"
        )
    batches = data.batches(config.batch_size, seed=config.seed, augment=config.augment)
    return experiment._replace(data=data, batches=batches)


def train(config: Config, exponent: int, again: bool = False) -> Trial:
    """Trains at the rate 2**exponent, whatever rate the Config has.

    Args:
      config: the settings; its epochs are those of a trial.
      exponent: of the rate.
      again: without stopping early, for a rate that was stopped and might yet win.

    Raises:
      ConfigError: see :func:`prepared`.
    """
    began = time.perf_counter()
    experiment = prepared(dataclasses.replace(config, learning_rate=2.0**exponent))
    held_out = experiment.evaluation("validation")
    initial = experiment.trainer.evaluate(held_out)["loss"]
    stop = _stop_when_hopeless(initial, config.epochs)
    try:
        history = experiment.fit(callbacks=[] if again else [stop], verbose=0)
        outcome = STOPPED if stop.given_up else FINISHED
    except NonFiniteError as error:
        history, outcome = error.history, NOT_FINITE
    logs = history.history
    return Trial(
        exponent=exponent,
        outcome=outcome,
        initial_loss=initial,
        losses=[float(loss) for loss in logs.get("val_loss", [])],
        accuracies=[float(accuracy) for accuracy in logs.get("val_accuracy", [])],
        train_losses=[float(loss) for loss in logs.get("loss", [])],
        epochs=config.epochs,
        seconds=time.perf_counter() - began,
        again=again,
    )


def _stop_when_hopeless(initial: float, epochs: int) -> Any:
    """The Keras callback that ends the training by the rule of :func:`rbd_ipu.lab.trials.hopeless`."""
    from rbd_ipu._compat import keras

    class StopWhenHopeless(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.losses: Any = []
            self.train_losses: Any = []
            self.given_up = False

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.losses.append(logs["val_loss"])
            self.train_losses.append(logs["loss"])
            if hopeless(initial, self.losses, self.train_losses, epochs):
                self.given_up = self.model.stop_training = True

    return StopWhenHopeless()


__all__ = ["Trial", "best", "exponents", "following", "hopeless", "reach", "read_exponent", "written"]
