"""What the runs of a cell have come to: means over seeds, what is not as in the paper, and rates bracketed."""

import statistics
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import Config
from rbd_ipu.lab.presets import Cell, Preset
from rbd_ipu.lab.results import ENDED, VALUES, Mean, Row, config_of, merge, ours, stem


class Measured(NamedTuple):
    """What is known of a cell.

    Attributes:
      means: by value name; a value that no run has is missing.
      epochs: after how many, the same for all runs that count.
      rows: the results, a seed each, cut to those epochs.
      diverged: how many runs ended with a number that is not finite.
      marks: in words, what is not as at the paper's setting.
    """

    means: Dict[str, Mean]
    epochs: int
    rows: List[Row]
    diverged: int
    marks: List[str]

    @property
    def n(self) -> int:
        return len(self.rows)


class Index:
    """Results by what they train, whatever their number of epochs."""

    def __init__(self, rows: Iterable[Row] = ()):
        self._rows: Dict[Tuple[str, int], List[Row]] = {}
        for row in merge(rows):
            config = config_of(row)
            self._rows.setdefault((stem(config), config.seed), []).append(row)

    def find(self, config: Config) -> Optional[Row]:
        """The result for a run: a longer run serves, as its first epochs are the same; else the longest there is.

        A finished run of the very length comes first: it alone has a test accuracy.
        """
        found = self._rows.get((stem(config), config.seed), [])
        return max(found, key=lambda row: _fitness(row, config.epochs), default=None)

    def has(self, config: Config) -> bool:
        """Whether nothing is left to run for these settings."""
        row = self.find(config)
        return row is not None and (row["epochs"] >= config.epochs or row["outcome"] == "not finite")


def _fitness(row: Row, wanted: int) -> Tuple[bool, bool, int]:
    exact = row["epochs"] == wanted and row["outcome"] in ENDED
    return row["epochs"] >= wanted or row["outcome"] == "not finite", exact, min(row["epochs"], wanted)


def measure(cell: Cell, index: Index) -> Measured:
    """The numbers of a cell from what has been run, its marks in terms of the paper's setting.

    Seeds that have fewer epochs than the longest are left out: means are over runs of one length.
    """
    configs = cell.configs
    found = [row for row in map(index.find, configs) if row is not None]
    wanted = configs[0].epochs if configs else 0
    diverged = sum(row["outcome"] == "not finite" and row["epochs"] < wanted for row in found)
    whole = [row for row in found if not (row["outcome"] == "not finite" and row["epochs"] < wanted)]
    epochs = max((min(row["epochs"], wanted) for row in whole), default=0)
    rows = [_cut(row, epochs) for row in whole if row["epochs"] >= epochs]
    means = {name: mean for name in VALUES for mean in [_mean(name, rows)] if mean is not None}
    return Measured(means, epochs, rows, diverged, [*_marks(cell, epochs, len(rows), diverged), *_mixed(rows)])


def _mixed(rows: Sequence[Row]) -> List[str]:
    """Says so where seeds were trained on different files; rows that do not say on which are taken to be alike."""
    copies = {tuple(sorted(row["data"].values())) for row in rows if row.get("data")}
    return [f"seeds trained on {len(copies)} different copies of the data"] if len(copies) > 1 else []


def _marks(cell: Cell, epochs: int, n: int, diverged: int) -> List[str]:
    if not cell.configs or n + diverged == 0:
        return []
    words = [word for word in cell.cuts if not word.endswith(("epochs", "seeds"))]
    full = cell.full[0].epochs
    if epochs < full and n:
        words.append(f"{epochs} of {full} epochs")
    if n + diverged < len(cell.full):
        words.append(f"{n + diverged} of {len(cell.full)} seeds")
    if diverged:
        words.append(f"{diverged} diverged")
    if cell.untuned:
        words.append("learning rate not tuned")
    return words


def _cut(row: Row, epochs: int) -> Row:
    if row["epochs"] == epochs:
        return row
    curves = {name: curve[:epochs] for name, curve in row["curves"].items()}
    values = {name: curve[-1] for name, curve in curves.items() if curve and name != "seconds"}
    seconds = sum(value for value in curves.get("seconds", []) if value is not None)
    return {**row, "epochs": epochs, "curves": curves, "values": values, "seconds": seconds}


def _curve(row: Mapping[str, Any], name: str) -> List[float]:
    return [value for value in row["curves"].get(name, []) if value is not None]


def _correlation(row: Row) -> Optional[float]:
    values = _curve(row, "correlation")
    return statistics.mean(values) if values and row["settings"]["method"] != "sgd" else None


def _speed(row: Row) -> Optional[float]:
    values = _curve(row, "images_per_second")
    return statistics.median(values) if values else None


# What is not the number of the last epoch.
_OF_A_RUN: Dict[str, Callable[[Row], Optional[float]]] = {
    "correlation": _correlation,
    "images_per_second": _speed,
    "hours": lambda row: row["seconds"] / 3600,
    "d": lambda row: row.get("d"),
}


def value_of(name: str, row: Row) -> Optional[float]:
    """A value of one run in the units of the tables; None where it has not measured it."""
    found = _OF_A_RUN[name](row) if name in _OF_A_RUN else row["values"].get(name)
    return None if found is None else VALUES[name].scale * found


def _mean(name: str, rows: Sequence[Row]) -> Optional[Mean]:
    values = [value for row in rows for value in [value_of(name, row)] if value is not None]
    if not values:
        return None
    return Mean(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


class Bracket(NamedTuple):
    """What is known of the rates of a row.

    Attributes:
      row: its name.
      exponent: k of the best rate 2**k; None where no run has come to its end.
      measured: what the runs at that rate came to.
      sides: for the rate below and the one above, whether it is worse; None where it has not been run.
    """

    row: str
    exponent: Optional[int]
    measured: Optional[Measured]
    sides: Tuple[Optional[bool], Optional[bool]]

    @property
    def closed(self) -> bool:
        """Whether both neighbours were run in full and are worse."""
        return self.sides == (True, True)

    def words(self) -> str:
        """One sentence."""
        if self.exponent is None or self.measured is None:
            return f"{self.row}: no rate has been run in full."
        means = self.measured.means
        test = f", test {ours('test_accuracy', means['test_accuracy'])}" if "test_accuracy" in means else ""
        found = f"{ours('val_accuracy', means['val_accuracy'])}{test}, n = {self.measured.n}"
        if self.closed:
            return f"{self.row}: best at 2^{self.exponent} ({found}), worse on both sides."
        places = zip((self.exponent - 1, self.exponent + 1), self.sides)
        missing = " and ".join(f"2^{exponent}" for exponent, side in places if side is None)
        return f"{self.row}: best so far at 2^{self.exponent} ({found}); not run: {missing}."


def brackets(preset: Preset, cells: Sequence[Cell], index: Index) -> List[Bracket]:
    """The best rate of every row of a preset whose columns are exponents of two.

    Only runs of the preset's full length count; one that diverged is worse than any that did not. Of the seeds, those
    that all rates of a row have are compared, so that three seeds of one rate do not stand against one of another.
    """
    return [_bracket(row, [cell for cell in cells if cell.row == row], index) for row in preset.rows]


def _bracket(name: str, own: Sequence[Cell], index: Index) -> Bracket:
    found = {int(cell.column): measure(cell, index) for cell in own}
    ended = {
        k: m
        for k, m in found.items()
        if m.diverged or m.epochs == own[0].full[0].epochs and all("val_accuracy" in row["values"] for row in m.rows)
    }
    if not any(m.n for m in ended.values()):
        return Bracket(name, None, None, (None, None))
    seeds = [{row["seed"] for row in m.rows} for m in ended.values() if m.n and not m.diverged]
    shared = set.intersection(*seeds) if seeds else set()

    def accuracy(exponent: int) -> float:
        m = ended[exponent]
        if m.diverged or not m.n:
            return float("-inf")
        rows = [row for row in m.rows if row["seed"] in shared] or m.rows
        return float(sum(row["values"]["val_accuracy"] for row in rows)) / len(rows)

    best = max(ended, key=lambda k: (accuracy(k), -k))
    below, above = (k in ended or None for k in (best - 1, best + 1))
    return Bracket(name, best, found[best], (below, above))
