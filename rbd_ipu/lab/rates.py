"""Table 4: the learning rates on record beside the paper's, as exponents of two."""

import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

from rbd_ipu.config import rates
from rbd_ipu.lab.presets import Preset
from rbd_ipu.lab.tables import Grid
from rbd_ipu.lab.tuning import Search

_BATCH = 5  # 2**5 = 32: the paper's SGD rates are those before a factor of the batch size


def grid(preset: Preset, searches: Optional[Mapping[Any, Search]] = None) -> Grid:
    """The grid: for every method our exponent and the paper's, and below where ours come from.

    Args:
      preset: Table 4.
      searches: those of :mod:`rbd_ipu.lab.tuning` by (row, column); where one has ended, its choice counts.
    """
    paper = {(entry.row, entry.column): entry.paper.get("exponent") for entry in preset.cells}
    lines: List[List[str]] = [["", *(text for column in preset.columns for text in (column, f"{column}, paper"))]]
    records: List[Dict[str, Any]] = []
    sources: Dict[str, int] = {}
    for row, row_settings in preset.rows.items():
        line = [row]
        for column, column_settings in preset.columns.items():
            settings = {**row_settings, **column_settings}
            rate, source = _ours((searches or {}).get((row, column)), settings)
            printed = paper.get((row, column))
            text = "not on record"
            if rate is not None:
                text = f"{exponent(rate)} [{sources.setdefault(source, len(sources) + 1)}]"
            line += [text, _printed(printed, column)]
            records.append(
                {
                    "preset": preset.name,
                    "row": row,
                    "column": column,
                    "exponent": None if rate is None else math.log2(rate),
                    "paper_exponent": printed,
                    "source": source,
                }
            )
        lines.append(line)
    notes = [f"[{number}] {source}" for source, number in sources.items()]
    return Grid(f"{preset.source}: {preset.title}", lines, notes + preset.notes, records)


def _ours(search: Optional[Search], settings: Mapping[str, Any]) -> Tuple[Optional[float], str]:
    choice = search.choice() if search else None
    if search and choice:
        config = search.config
        tiny = f" on {config.dataset}" if config.dataset != settings["dataset"] else ""
        epochs = f"{config.epochs} epoch{'' if config.epochs == 1 else 's'}"
        return choice["learning_rate"], f"rbd-ipu tune{tiny}, {epochs}, seed {config.seed}"
    place = tuple(settings.get(key) for key in ("dataset", "network", "method", "dim"))
    rate = rates.rates().get(place)  # type: ignore[arg-type]
    return (None, "") if rate is None else (float(rate.learning_rate), rate.source)


def exponent(rate: float) -> str:
    """k of a rate 2**k; of others to two places.

    Example:
      >>> exponent(0.125), exponent(3.0)
      ('-3', '1.58')
    """
    power = math.log2(rate)
    return f"{power:.0f}" if power == round(power) else f"{power:.2f}"


def _printed(printed: Any, column: str) -> str:
    if printed is None:
        return "-"
    return f"{printed} (in use: {printed + _BATCH})" if column == "SGD" else str(printed)
