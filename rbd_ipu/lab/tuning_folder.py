"""The folder of a search: every finished trial is in it, none is made twice; and its table.

====================  =================================================================
``tune.json``         settings, range, rule; each sitting with its command, commit, versions and machine; the choice
``grid.jsonl``        one line a trial, as they ended; of two lines for one rate the later one holds
====================  =================================================================
"""

import contextlib
import json
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Union

from rbd_ipu import files, provenance
from rbd_ipu.config import FIELDS, Config
from rbd_ipu.files import locked
from rbd_ipu.lab.results import essence
from rbd_ipu.lab.trials import FINISHED, HELD_OUT, HOPED_FOR, JUDGED_AFTER, Trial, Trials, best, written
from rbd_ipu.provenance import now
from rbd_ipu.runs import check_free, check_search, facts_of, new_folder

FACTS, GRID = "tune.json", "grid.jsonl"
RULE = (
    f"a rate is given up after {JUDGED_AFTER:.0%} of its epochs or later, if at the pace of its best loss so far "
    f"(held out or training) it would lose less than {HOPED_FOR:.0%} of its loss before the first step; it is run in "
    "full after all, if no other rate ends below what it would have come to"
)


class Folder:
    """The folder of one search; see :func:`opened`."""

    def __init__(self, path: Path, facts: Dict[str, Any], trials: Trials):
        self.path, self.facts, self.trials = path, facts, trials

    def add(self, trial: Trial) -> None:
        """Keeps a trial, on disk before this returns."""
        lines = _lines(self.path / GRID)
        lines.append({**trial.as_dict(), "sitting": len(self.facts["sittings"])})
        files.write_text(self.path / GRID, "".join(map(files.line, lines)))
        self.trials[trial.exponent] = trial

    def end(self, outcome: str) -> None:
        """Writes how the search went, and its choice if it is finished."""
        chosen = best(self.trials) if outcome == "finished" else None
        self.facts["sittings"][-1].update(ended=now(), outcome=outcome)
        self.facts["choice"] = chosen and {
            "learning_rate": chosen.learning_rate,
            "exponent": chosen.exponent,
            "loss": chosen.loss,
            "accuracy": chosen.accuracies[-1] if chosen.accuracies else None,
        }
        self._write()

    def _write(self) -> None:
        files.write_text(self.path / FACTS, files.document(self.facts))


def check(output: Optional[Union[str, Path]], config: Config) -> None:
    """Refuses a folder that this search can neither make nor go on in; writes nothing.

    Raises:
      ConfigError: it holds something else, or a search with other settings, which are named.
    """
    if output is None:
        return
    if not (Path(output) / FACTS).exists():
        check_free(output)
        return
    check_search(Path(output) / FACTS, _decisive(config))


@contextlib.contextmanager
def opened(
    output: Optional[Union[str, Path]], config: Config, options: Mapping[str, Any], command: str
) -> Iterator[Folder]:
    """The folder of a search, new or as an earlier sitting left it; no other search can have it meanwhile.

    Args:
      output: where; None makes a new one under runs/.
      config: the settings; its learning rate does not count.
      options: range, start and jobs of this sitting.
      command: the command line of this sitting.

    Raises:
      ConfigError: see :func:`check`; or another search is at work in it.
    """
    check(output, config)
    if output is not None and (Path(output) / FACTS).exists():
        path = Path(output)
    else:
        path = new_folder(output, f"tune-{config.dataset}-{config.network}-{config.method}", FACTS)
    with locked(path):
        facts = {**facts_of(path / FACTS), "settings": _settings(config), "decisive": _decisive(config)}
        facts.update(held_out=HELD_OUT, rule=RULE, choice=None)
        facts.setdefault("sittings", []).append(
            {
                "command": command,
                **options,
                "started": now(),
                "ended": None,
                "outcome": "running",
                **provenance.origin(),
            }
        )
        trials = {trial.exponent: trial for trial in map(Trial.of, _lines(path / GRID))}
        folder = Folder(path, facts, trials)
        folder._write()
        yield folder


def _settings(config: Config) -> Dict[str, Any]:
    return {key: value for key, value in config.as_dict().items() if key != "learning_rate"}


def _decisive(config: Config) -> Dict[str, Any]:
    """The settings that decide the numbers of a trial beside its rate, less those at their defaults."""
    return {key: value for key, value in essence(config).items() if key != "learning_rate"}


def _lines(path: Path) -> List[Dict[str, Any]]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(text) for text in file]


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
    """The chosen rate as a row of ``rbd_ipu/config/learning_rates.yaml``; None where no trial was finished.

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
