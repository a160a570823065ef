"""The cells of a preset under a budget: each a few runs that differ in their seed alone."""

from typing import Any, Dict, List, NamedTuple, Tuple

from rbd_ipu.config import FIELDS, Config, ConfigError, resolve
from rbd_ipu.paper.budget import Budget, cut
from rbd_ipu.paper.cost import parameters
from rbd_ipu.paper.learning_rates import lookup
from rbd_ipu.paper.presets import AS_RBD, UNTUNED, Entry, Preset


class Cell(NamedTuple):
    """One place of a table, curve or point of a figure.

    Attributes:
      row, column: its names.
      configs: the runs, a seed each.
      full: the same at the paper's setting.
      paper: the numbers that the paper prints, by value.
      note: of the preset.
      untuned: whether the learning rate is a stand-in.
      cuts: in words what the budget took away.
    """

    row: str
    column: str
    configs: Tuple[Config, ...]
    full: Tuple[Config, ...]
    paper: Dict[str, Any]
    note: str
    untuned: bool
    cuts: Tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}, {self.column}"


def cells(preset: Preset, limits: Budget) -> List[Cell]:
    """All cells in the order of the preset.

    Raises:
      ConfigError: settings that do not go together, with the cell's name.
    """
    return [_cell(preset, entry, limits) for entry in preset.cells]


def _cell(preset: Preset, entry: Entry, limits: Budget) -> Cell:
    settings = preset.settings_of(entry)
    stand_in = settings.pop(UNTUNED, None)
    settings.setdefault("epochs", FIELDS["epochs"]["default"])
    directions = settings.pop(AS_RBD, None)
    if directions is not None:
        size = parameters(settings["dataset"], settings["network"])
        settings["learning_rate"] = lookup({**settings, "method": "rbd", "dim": directions}) * directions / size
    reduced, seeds, words = cut(limits, settings, preset.seeds)
    try:
        full, untuned = _resolved(settings, stand_in, preset.seeds)
        configs, _ = _resolved(reduced, stand_in, seeds)
    except ConfigError as error:
        raise ConfigError(f"{preset.name}, {entry.row}, {entry.column}: {error}") from None
    return Cell(entry.row, entry.column, configs, full, entry.paper, entry.note, untuned, tuple(words))


def _resolved(settings: Dict[str, Any], stand_in: Any, seeds: Tuple[int, ...]) -> Tuple[Tuple[Config, ...], bool]:
    """The runs, and whether they have the stand-in for a learning rate, because none is on record."""

    def all_seeds(values: Dict[str, Any]) -> Tuple[Config, ...]:
        return tuple(resolve({**values, "seed": seed}) for seed in seeds)

    if stand_in is None or "learning_rate" in settings:
        return all_seeds(settings), False
    try:
        return all_seeds(settings), False
    except ConfigError:
        return all_seeds({**settings, "learning_rate": stand_in}), True
