"""The folder of a search for an intrinsic dimension, its table and its picture.

====================  =================================================================
``dimension.json``    settings, what was found, the curve, every run; each sitting with its command, commit, versions
``curve.csv``         a line for each d, and one for the full space
``curve.png``         the same as a picture, where matplotlib is installed
====================  =================================================================
"""

import contextlib
import csv
import io
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from rbd_ipu import files, plots, provenance, text_table
from rbd_ipu.dimension.search import FINISHED, IntrinsicDimension, Point, Run, notes
from rbd_ipu.errors import ConfigError
from rbd_ipu.runs import check_search, facts_of

FACTS, CURVE, PICTURE = "dimension.json", "curve.csv", "curve.png"


def check(folder: Optional[Path], decisive: Mapping[str, Any], name: str = "folder") -> None:
    """Refuses a folder that a search can neither have nor go on in; writes nothing.

    Args:
      folder: where; None for none.
      decisive: the settings that decide the numbers of a run.
      name: what the folder is called where it is given.

    Raises:
      ConfigError: it holds something else, or a search with other settings, which are named.
    """
    if folder is None:
        return
    if not (folder / FACTS).exists():
        if folder.is_dir() and all(path.name == files.NAME for path in folder.iterdir()) or not folder.exists():
            return
        what = "exists and is not empty" if folder.is_dir() else "is a file"
        raise ConfigError(f"{name} {folder}: it {what}, and holds no search ({FACTS}) to go on with; choose another")
    check_search(folder / FACTS, decisive, name)


class Record:
    """Keeps what a search has found in its folder; see :func:`opened`."""

    def __init__(self, path: Path, facts: Dict[str, Any]):
        self.path, self.facts = path, facts

    def write(self, result: IntrinsicDimension, outcome: str = "running") -> None:
        """Writes everything that is known, each file whole or not at all."""
        self.facts.update(document(result))
        self.end("finished" if result.finished else outcome)
        files.write_text(self.path / CURVE, table_csv(result))
        if result.finished and files.installed("matplotlib"):
            draw(self.path / PICTURE, result, self.facts["title"])

    def end(self, outcome: str) -> None:
        """Notes how the sitting went."""
        ended = None if outcome == "running" else provenance.now()
        self.facts["sittings"][-1].update(outcome=outcome, ended=ended)
        files.write_text(self.path / FACTS, files.document(self.facts))


@contextlib.contextmanager
def opened(
    folder: Path, title: str, settings: Mapping[str, Any], decisive: Mapping[str, Any], command: str, name: str
) -> Iterator[Record]:
    """The folder of a search, new or as an earlier sitting left it; no other search can have it meanwhile.

    Args:
      folder: where.
      title: one line, for the picture.
      settings: all, for the record.
      decisive: those that decide the numbers of a run; the others may change from sitting to sitting.
      command: what made the search.
      name: what the folder is called where it is given.

    Raises:
      ConfigError: see :func:`check`; or another search is at work in it.
    """
    check(folder, decisive, name)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder):
        origin = provenance.origin()
        sitting = {"command": command, "started": provenance.now(), "ended": None, "outcome": "running", **origin}
        before = facts_of(folder / FACTS)
        sittings = [*before.pop("sittings", []), sitting]
        facts = {"kind": "dimension", "command": command, **origin, "title": title, "settings": dict(settings)}
        record = Record(folder, {**before, **facts, "decisive": dict(decisive), "sittings": sittings})
        record.end("running")
        try:
            yield record
        except BaseException as error:
            record.end("interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed")
            raise


def document(result: IntrinsicDimension) -> Dict[str, Any]:
    """What was found, for JSON."""
    return {
        "dim": result.dim,
        "below": result.below,
        "size": result.size,
        "share": result.share,
        "threshold": result.threshold,
        "finished": result.finished,
        "notes": notes(result),
        "full": result.full._asdict(),
        "curve": [one._asdict() for one in result.curve],
        "runs": [run._asdict() for run in result.runs],
    }


def written(rate: Optional[float]) -> str:
    """A learning rate for people.

    Example:
      >>> written(0.125), written(0.3), written(None)
      ('2**-3', '0.3', '-')
    """
    if rate is None:
        return "-"
    mantissa, exponent = math.frexp(rate)
    return f"2**{exponent - 1}" if mantissa == 0.5 else f"{rate:g}"


def line(run: Run) -> str:
    """One run, as it ends."""
    where = "full space" if run.dim is None else f"d = {run.dim:,}"
    came = f"{run.accuracy:.2%}" if run.outcome == FINISHED else run.outcome
    return f"{where:<12}  rate {written(run.learning_rate):<6}  seed {run.seed}  {came:>10}  {run.seconds:>7.1f} s"


def table(result: IntrinsicDimension) -> str:
    """The curve for people, the full space last."""
    lines = [["d", "rate", "accuracy", "of full", "seeds", "rates tried", "diverged", "reaches"]]
    lines += [_cells(one, "yes" if one.reaches else "no") for one in result.curve]
    lines.append(_cells(result.full, "full space"))
    return text_table.text(lines, 0)


def _cells(one: Point, verdict: str) -> List[str]:
    spread = "" if one.std is None else f" ± {100 * one.std:.2f}"
    accuracy = f"{100 * one.accuracy:.2f}{spread} %" if one.n else "-"
    share = f"{one.share:.3f}" if one.n else "-"
    numbers = [one.n, one.rates, one.diverged]
    return [f"{one.dim:,}", written(one.learning_rate), accuracy, share, *map(str, numbers), verdict]


def answer(result: IntrinsicDimension) -> str:
    """The result in one sentence."""
    if result.dim is None:
        return "; ".join(notes(result)) or "nothing has been found yet"
    between = f"; d = {result.below:,} does not" if result.below else ""
    return (
        f"d = {result.dim:,} of D = {result.size:,} reaches {result.threshold:.2%}, {result.share:.0%} of the full "
        f"space's {result.full.accuracy:.2%}{between}"
    )


def table_csv(result: IntrinsicDimension) -> str:
    """The curve as CSV; the line of the full space has space "full"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["space", *Point._fields])
    for space, one in [*(("subspace", one) for one in result.curve), ("full", result.full)]:
        writer.writerow([space, *("" if value is None or value != value else value for value in one)])
    return text.getvalue()


def draw(path: Path, result: IntrinsicDimension, title: str) -> None:
    """Writes the picture: accuracy against d, with the full space and the share that was to be reached."""
    panel = plots.Panel(_heading(result), "d", "validation accuracy (%)", lines(result), log_x=True)
    plots.draw(path, title, [panel])


def _heading(result: IntrinsicDimension) -> str:
    return "not reached" if result.dim is None else f"reached at d = {result.dim:,} of D = {result.size:,}"


def lines(result: IntrinsicDimension) -> List[plots.Line]:
    """The lines of the picture; nothing for a d at which every run diverged."""
    points = [one for one in result.curve if one.n]
    if not points or not result.full.n:
        return []
    ends = [float(points[0].dim), float(result.size)]

    def level(name: str, value: float) -> plots.Line:
        return plots.Line(name, ends, [100 * value] * 2, [0.0] * 2, None, 1)

    y, std = [100 * one.accuracy for one in points], [100 * (one.std or 0.0) for one in points]
    curve = plots.Line("d random directions", [float(one.dim) for one in points], y, std, None, points[0].n)
    full = f"full space, {100 * result.full.accuracy:.2f} %"
    return [curve, level(full, result.full.accuracy), level(f"{result.share:.0%} of it", result.threshold)]
