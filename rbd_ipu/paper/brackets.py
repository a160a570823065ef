"""Which of several learning rates is best, and whether worse ones stand on both sides of it."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.paper.cells import Cell
from rbd_ipu.paper.measure import Index, Measured, measure
from rbd_ipu.paper.presets import Preset
from rbd_ipu.paper.values import ours


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
    ended = {k: m for k, m in found.items() if m.diverged or m.epochs == own[0].full[0].epochs}
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
