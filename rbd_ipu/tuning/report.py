"""A search in words: the table for the screen, and the row for ``learning_rates.yaml``."""

import math
from typing import List, Optional

from rbd_ipu.config import FIELDS, Config
from rbd_ipu.tuning.grid import written
from rbd_ipu.tuning.search import Trials, best
from rbd_ipu.tuning.trial import FINISHED, Trial

HEADING = f"{'rate':>7}  {'loss':>8}  {'accuracy':>8}  {'epochs':>7}  {'seconds':>7}  outcome"
# What a row of learning_rates.yaml has columns for; it holds for the usual values of everything else.
_COLUMNS = ("dataset", "network", "method", "dim")
_IDLE = ("learning_rate", "epochs", "seed", "device", "data_dir", "source", *_COLUMNS)


def line(trial: Trial, mark: str = "") -> str:
    """One trial as a line of the table; loss and accuracy are those of its last epoch on the held-out images."""

    def number(values: List[float], digits: int) -> str:
        if not values or not math.isfinite(values[-1]):
            return "-"
        return f"{values[-1]:.{digits}f}" if values[-1] < 1000 else f"{values[-1]:.1e}"

    accuracy = number([100 * value for value in trial.accuracies], 2)
    return (
        f"{written(trial.exponent):>7}  {number(trial.losses, 4):>8}  {accuracy:>8}  "
        f"{len(trial.losses):>3}/{trial.epochs:<3}  {trial.seconds:>7.1f}  {trial.outcome}{mark}"
    )


def table(trials: Trials) -> str:
    """All trials, the highest rate first; the lowest loss is marked."""
    chosen = best(trials)
    rows = [
        line(trial, "  <- lowest" if trial is chosen else "") for _, trial in sorted(trials.items(), reverse=True)
    ]
    return "\n".join([HEADING, *rows])


def row(config: Config, trials: Trials) -> Optional[str]:
    """The chosen rate as a row of ``rbd_ipu/paper/learning_rates.yaml``; None where no trial was finished.

    Its note has the losses of the rates beside it, the epochs, and every setting that is not the usual one.
    """
    chosen = best(trials)
    if chosen is None:
        return None
    around = [trials[e] for e in range(chosen.exponent - 1, chosen.exponent + 2) if e in trials]
    losses = [
        f"{written(t.exponent)}: {t.loss:.4f}" if t.outcome == FINISHED else f"{written(t.exponent)} {t.outcome}"
        for t in around
    ]
    settings = config.as_dict()
    unusual = [f"{k} {v}" for k, v in settings.items() if k not in _IDLE and v != FIELDS[k]["default"]]
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    note = "; ".join([", ".join(losses), f"{epochs}, seed {config.seed}", *unusual])
    items = [f"{key}: {settings[key]}" for key in _COLUMNS if key in settings]
    items += [f"learning_rate: {written(chosen.exponent)}", 'source: "rbd-ipu tune"', f'note: "{note}"']
    return f"  - {{{', '.join(items)}}}"
