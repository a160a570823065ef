"""The presets: which runs make a table or a figure of the paper, under a budget.

How much of the full setting is run: fewer epochs, fewer seeds, or tiny stand-ins to see that all works.

The presets: one YAML file for each table and figure of the paper, read strictly.

=============  ==================================================================================
``title``      what is compared, one line
``source``     where the paper has it
``kind``       ``table``, ``curves`` (a value by epoch), ``points`` (a value by column),
               ``rates`` (learning rates on record), ``analysis`` (a function of rbd_ipu.analysis)
``values``     what is shown, names of :data:`rbd_ipu.lab.results.VALUES`; the first decides
``settings``   settings of all cells, as for ``rbd-ipu train``
``seeds``      of every cell
``rows``       name: settings; the lines of a table, the panels of curves, the lines of points
``columns``    name: settings; the columns of a table, the curves of a panel, the places on the axis
``cells``      those that exist, each with the paper's numbers; left out: all, without numbers
``best``       columns are exponents of two: a note says which rate is best for each row
``notes``      what a reader must know, a sentence or two each
``paper``      of an analysis, the paper's numbers: column: [[place on the axis, number], ...]
``cells_of``   another preset whose settings, seeds, rows, columns and cells these are
=============  ==================================================================================

The settings of a cell are those of all, then of its row, its column and itself; null takes one away again. A
learning rate that is given nowhere is the one on record; ``untuned_rate`` stands in where there is none, and the
cell is marked. ``as_rbd: d`` is the rate on record for RBD with d directions, times d / D.

The cells of a preset under a budget: each a few runs that differ in their seed alone.
"""

import functools
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import FIELDS, Config, resolve
from rbd_ipu.config.resolve import lookup
from rbd_ipu.config.yaml import YamlError, load_mapping
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.results import VALUES, parameters

_FORM = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,3})")


class Budget(NamedTuple):
    """At most so many epochs and seeds; None for as many as the paper has.

    Attributes:
      name: what the user writes.
      epochs, seeds: the limits.
      tiny: digits instead of the data set, a small network and few directions.
    """

    name: str
    epochs: Optional[int] = None
    seeds: Optional[int] = None
    tiny: bool = False


NAMED = {
    "full": Budget("full"),
    "short": Budget("short", epochs=10, seeds=1),
    "smoke": Budget("smoke", epochs=2, seeds=1, tiny=True),
}
HELP = "full, short (10x1), smoke (tiny, on digits, to see that it works), or EPOCHSxSEEDS such as 20x2"


def budget(text: str) -> Budget:
    """Reads what the user wrote.

    Raises:
      ConfigError: it is none of the names and not EPOCHSxSEEDS.

    Example:
      >>> budget("20x2")
      Budget(name='20x2', epochs=20, seeds=2, tiny=False)
    """
    if text in NAMED:
        return NAMED[text]
    form = _FORM.fullmatch(text)
    if not form:
        raise ConfigError(f"--budget {text}: must be {HELP}")
    return Budget(text, int(form.group(1)), int(form.group(2)))


def cut(
    limits: Budget, settings: Dict[str, Any], seeds: Sequence[int]
) -> Tuple[Dict[str, Any], Tuple[int, ...], List[str]]:
    """The settings and seeds under a budget, and in words what was cut.

    A change of method after so many epochs moves with the epochs, in proportion.

    Example:
      >>> cut(budget("10x1"), {"epochs": 100, "switch_epoch": 50}, (0, 1, 2))
      ({'epochs': 10, 'switch_epoch': 5}, (0,), ['10 of 100 epochs', '1 of 3 seeds', 'switch after 5, not 50'])
    """
    new, words = dict(settings), []
    epochs = settings["epochs"]
    if limits.epochs is not None and limits.epochs < epochs:
        new["epochs"] = limits.epochs
        words.append(f"{limits.epochs} of {epochs} epochs")
    kept = tuple(seeds if limits.seeds is None else seeds[: limits.seeds])
    if len(kept) < len(seeds):
        words.append(f"{len(kept)} of {len(seeds)} seeds")
    switch = settings.get("switch_epoch")
    if switch is not None and new["epochs"] < epochs:
        new["switch_epoch"] = max(1, min(new["epochs"] - 1, round(switch * new["epochs"] / epochs)))
        words.append(f"switch after {new['switch_epoch']}, not {switch}")
    if limits.tiny:
        new.update(_tiny(new))
        words.append("digits")
    return new, kept, words


def _tiny(settings: Dict[str, Any]) -> Dict[str, Any]:
    small: Dict[str, Any] = {"dataset": "digits", "network": "fc", "learning_rate": 0.25}
    if settings.get("dim") is not None:
        small["dim"] = min(settings["dim"], 8)
    if settings.get("simulate_workers") is not None:
        small["simulate_workers"] = min(settings["simulate_workers"], 2)
    if (settings.get("group_size") or 1) > 1:
        small.update(group_size=2, group_levels=1)
    scheme, _, argument = str(settings.get("compartments", "global")).partition(":")
    if scheme == "even":
        small["compartments"] = f"even:{min(int(argument), 2)}"
    if scheme == "factor":
        small["compartments"] = "factor:100"
    return small


FOLDER = Path(__file__).with_name("presets")
KINDS = ("table", "curves", "points", "rates", "analysis")
UNTUNED = "untuned_rate"
AS_RBD = "as_rbd"
SETTINGS = (*FIELDS, UNTUNED, AS_RBD)
SPECIAL = ("relative", "exponent")  # numbers of the paper that are no value of a run


class Entry(NamedTuple):
    """A cell as the file has it."""

    row: str
    column: str
    settings: Dict[str, Any]
    paper: Dict[str, Any]
    note: str


class Preset(NamedTuple):
    """One table or figure; the fields are the keys of the file (see the module)."""

    name: str
    title: str
    source: str
    kind: str
    values: List[str]
    settings: Dict[str, Any]
    seeds: Tuple[int, ...]
    rows: Dict[str, Dict[str, Any]]
    columns: Dict[str, Dict[str, Any]]
    cells: List[Entry]
    notes: List[str]
    relative_to: Optional[str]
    axis: str
    log: bool
    best: bool
    analysis: str
    options: Dict[str, Any]
    paper: Dict[str, Any]

    def settings_of(self, entry: Entry) -> Dict[str, Any]:
        """All settings of a cell, with ``untuned_rate`` and ``as_rbd`` among them where there are any."""
        merged = {**self.settings, **self.rows[entry.row], **self.columns[entry.column], **entry.settings}
        return {name: value for name, value in merged.items() if value is not None}


_DEFAULTS: Dict[str, Any] = {
    "values": [], "settings": {}, "seeds": [], "rows": {}, "columns": {}, "cells": None, "notes": [],
    "relative_to": None, "axis": "", "log": False, "best": False, "analysis": "", "options": {}, "paper": {},
}  # fmt: skip
_REQUIRED = ("title", "source", "kind")
CELLS_OF = "cells_of"
_SHARED = ("settings", "seeds", "rows", "columns", "cells")


def names(kind: Optional[str] = None) -> List[str]:
    """The presets there are, tables first, in the order of the paper.

    Example:
      >>> names("table")
      ['1', '2', '3', '4', 'X1', 'X3', 'X5']
    """

    def order(text: str) -> Tuple[str, int]:
        letter, number = re.fullmatch(r"([A-Z]?)\.?([0-9]+)", text).groups()  # type: ignore[union-attr]
        return letter, int(number)

    found = [path.stem for path in FOLDER.glob("*.yaml")]
    if kind is None:
        return [f"{which}{name}" for which in ("table", "figure") for name in names(which)]
    return sorted((name[len(kind) :] for name in found if name.startswith(kind)), key=order)


@functools.lru_cache(maxsize=None)
def load(name: str) -> Preset:
    """The preset called ``name``: table1 ... table4, figure1 ... figure5, figureB6 ... figureB15.

    Those with an X, such as tableX1, are no part of the paper: what stands beside it.

    Raises:
      ConfigError: there is none of that name.

    Example:
      >>> load("table1").cells[2].paper
      {'val_accuracy': [93.893, 0.024], 'relative': 0.96}
    """
    if name not in names():
        raise ConfigError(f"there is no {name!r}; there are {', '.join(names())}")
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Preset:
    """Reads and checks one file.

    Raises:
      ConfigError: an unknown key or name, a doubled cell or one without a row or column; with the path.
    """
    try:
        document = load_mapping(path)
        return _checked(path.stem, document)
    except (YamlError, ConfigError) as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _checked(name: str, document: Dict[str, Any]) -> Preset:
    _only(document, (*_REQUIRED, *_DEFAULTS, CELLS_OF), "key")
    document = _with_cells(document)
    missing = [key for key in _REQUIRED if key not in document]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; a preset needs {', '.join(_REQUIRED)}")
    if document["kind"] not in KINDS:
        raise ConfigError(f"unknown kind {document['kind']!r}; accepted: {', '.join(KINDS)}")
    given = {**_DEFAULTS, **document}
    for key, default in _DEFAULTS.items():
        if default is not None and not isinstance(given[key], type(default)):
            raise ConfigError(f"{key} must be a {type(default).__name__}, not {given[key]!r}")
    _only(given["values"], tuple(VALUES), "value")
    for group in ("rows", "columns"):
        for label, settings in given[group].items():
            _only(settings or {}, SETTINGS, f"setting of {label!r}:")
    _only(given["settings"], SETTINGS, "setting")
    rows = {label: settings or {} for label, settings in given["rows"].items()}
    columns = {label: settings or {} for label, settings in given["columns"].items()}
    cells = _cells(given["cells"], rows, columns)
    if given["relative_to"] not in (None, *columns):
        raise ConfigError(f"relative_to {given['relative_to']!r} is no column; there are {', '.join(columns)}")
    given.update(rows=rows, columns=columns, cells=cells, seeds=tuple(given["seeds"]))
    return Preset(name=name, **given)


def _with_cells(document: Dict[str, Any]) -> Dict[str, Any]:
    """The document with what it takes from another preset."""
    document = dict(document)
    other = document.pop(CELLS_OF, None)
    if other is None:
        return document
    twice = [key for key in _SHARED if key in document]
    if twice:
        raise ConfigError(f"cells_of: {other} gives {', '.join(_SHARED)}; leave out {', '.join(twice)}")
    if other not in names():
        raise ConfigError(f"cells_of: there is no {other!r}; there are {', '.join(names())}")
    shared = load_mapping(FOLDER / f"{other}.yaml")
    return {**document, **{key: shared[key] for key in _SHARED if key in shared}}


def _cells(listed: Any, rows: Dict[str, Any], columns: Dict[str, Any]) -> List[Entry]:
    if listed is None:
        return [Entry(row, column, {}, {}, "") for row in rows for column in columns]
    entries = []
    for cell in listed:
        _only(cell, ("row", "column", "settings", "paper", "note"), "key of a cell:")
        row, column = cell.get("row"), cell.get("column")
        if row not in rows or column not in columns:
            raise ConfigError(f"the cell of row {row!r} and column {column!r} is in no row or column of the file")
        _only(cell.get("settings", {}), SETTINGS, f"setting of {row}, {column}:")
        _only(cell.get("paper", {}), (*VALUES, *SPECIAL), f"value of {row}, {column}:")
        entries.append(Entry(row, column, cell.get("settings", {}), cell.get("paper", {}), cell.get("note", "")))
    places = [entry[:2] for entry in entries]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"the cell of row {place[0]!r} and column {place[1]!r} is given twice")
    return entries


def _only(found: Any, accepted: Tuple[str, ...], what: str) -> None:
    for name in found:
        if name not in accepted:
            raise ConfigError(f"unknown {what} {name!r}; accepted: {', '.join(accepted)}")


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
