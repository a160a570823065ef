"""The searches behind Table 4: ``rbd-ipu tune`` for each cell, in folders that it goes on in."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from rbd_ipu.config import Config
from rbd_ipu.paper.budget import Budget
from rbd_ipu.paper.cells import Cell
from rbd_ipu.paper.cost import Costs, Total
from rbd_ipu.paper.jobs import job
from rbd_ipu.records import strict_json

_RATES = 6  # that a search from a good start takes, about


class Search(NamedTuple):
    """One search: its settings, exponent to start from, folder."""

    config: Config
    start: int
    folder: Path

    def choice(self) -> Optional[Dict[str, Any]]:
        """What ``rbd-ipu tune`` has chosen: learning_rate, exponent, loss, accuracy; None before its end."""
        return strict_json.found(self.folder / "tune.json").get("choice")

    def command(self, limits: Budget, parallel: Optional[int]) -> List[str]:
        """The command line after ``rbd-ipu``; under the smallest budget two rates, otherwise a walk."""
        settings = [
            word for word in job(self.config, "", self.folder).words() if not word.startswith("learning_rate=")
        ]
        words = ["tune", *(part for word in settings for part in ("--set", word)), "--output", str(self.folder)]
        if limits.tiny:
            return [*words, "--from", f"2**{self.start}", "--to", f"2**{self.start - 1}"]
        return [*words, "--start", f"2**{self.start}", "--jobs", str(parallel or 1)]


def searches(found: Sequence[Cell], folder: Path) -> Dict[Any, Search]:
    """The search of each cell by (row, column); it starts at the rate on record, or at the paper's."""
    by_place = {}
    for cell in found:
        config = cell.configs[0]
        start = cell.paper.get("exponent", 0) if cell.untuned else round(math.log2(config.learning_rate))
        name = "-".join([config.dataset, config.network, config.method, *([str(config.dim)] if config.dim else [])])
        by_place[cell.row, cell.column] = Search(config, start, folder / f"{name}-{config.epochs}")
    return by_place


def cost(all_searches: Sequence[Search]) -> Total:
    """Of all searches, from the beginning."""
    return Costs().total(search.config for search in all_searches for _ in range(_RATES))


def run(to_do: Sequence[Search], limits: Budget, parallel: Optional[int], tell: Callable[[str], None]) -> int:
    """Makes the searches that have no choice yet, one after the other; returns the worst exit status.

    Raises:
      KeyboardInterrupt: Ctrl-C; rates that are done are kept.
    """
    from rbd_ipu.cli import main

    worst = 0
    for search in dict.fromkeys(to_do):
        if search.choice() is not None:
            continue
        tell(f"tuning in {search.folder}")
        search.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            status = main(search.command(limits, parallel))
        if status == 130:
            raise KeyboardInterrupt
        worst = max(worst, status)
    return worst
