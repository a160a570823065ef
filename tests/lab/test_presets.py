"""The presets: every file resolves to runs, holds the paper's numbers, and is read strictly."""

import pytest

from rbd_ipu.config.resolve import lookup
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import presets
from rbd_ipu.lab.presets import budget, cells, cut

FULL = budget("full")
TRAINED = [name for name in presets.names() if presets.load(name).kind in ("table", "curves", "points")]


def cell(name, row, column):
    return next(c for c in cells(presets.load(name), FULL) if (c.row, c.column) == (row, column))


def test_there_is_one_for_every_table_and_figure_of_the_paper():
    assert presets.names("table") == ["1", "2", "3", "4", "X1", "X3", "X5"]
    assert presets.names("figure") == [
        "1",
        "2",
        "3",
        "4",
        "5",
        *(f"B{n}" for n in range(6, 16)),
        "X1",
        "X2",
        "X3",
        "X4",
    ]


@pytest.mark.parametrize("limits", ["full", "smoke", "7x2"])
@pytest.mark.parametrize("name", presets.names())
def test_every_cell_is_a_set_of_valid_settings(name, limits):
    preset = presets.load(name)
    for found in cells(preset, budget(limits)):
        if preset.kind == "rates":
            continue
        assert [config.seed for config in found.full] == list(preset.seeds)
        assert {config.batch_size for config in found.full} == {32}  # Section 4 of the paper
        assert {config.momentum for config in found.full} == {0.0}
        assert {config.augment for config in found.full} == {True}
        assert len(found.configs) == min(len(preset.seeds), {"full": 3, "smoke": 1, "7x2": 2}[limits])


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        (n, {"table3": 80, "tableX3": 10, "figureX3": 80, "figureB13": 2000, "figureB14": 2000}.get(n, 100))
        for n in TRAINED
    ],
)
def test_epochs_are_those_of_the_paper(name, epochs):
    assert {config.epochs for found in cells(presets.load(name), FULL) for config in found.full} <= {epochs}


@pytest.mark.parametrize(
    ("name", "row", "column", "numbers"),
    [
        ("table1", "FC-MNIST", "RBD", [93.893, 0.024]),
        ("table1", "FC-MNIST", "SGD", [98.27, 0.09]),
        ("table1", "FC-CIFAR10", "NES", [17.8, 0.5]),
        ("table1", "CNN-CIFAR10", "FPD", [37.2, 0.8]),
        ("table2", "CNN-MNIST", "Bernoulli-0.5", [67, 6]),
        ("table2", "FC-MNIST", "Normal", [94.95, 0.11]),
        ("table3", "RBD, 10x reduction", "ResNet-8", [70.26, 0.02]),
        ("table3", "FPD, 10x reduction", "ResNet-8", [58.35, 0.04]),
    ],
)
def test_the_numbers_of_the_paper(name, row, column, numbers):
    assert cell(name, row, column).paper["val_accuracy"] == numbers


def test_the_numbers_are_complete():
    for name, count in (("table1", 24), ("table2", 18), ("table3", 6)):
        assert sum("val_accuracy" in entry.paper for entry in presets.load(name).cells) == count
    printed = [(e.row, e.column, e.paper["exponent"]) for e in presets.load("table4").cells]
    assert [exponent for _, column, exponent in printed if column == "RBD"] == [1, -1, -5, -1, -3, -3, 3]
    assert [exponent for _, column, exponent in printed if column == "FPD"] == [-1, -1, -5, -3, -1, -1]
    assert [exponent for _, column, exponent in printed if column == "SGD"] == [-8, -7, -12, -10, -9, -11, -3]


def test_the_fractions_that_the_paper_prints_are_those_of_its_numbers():
    preset = presets.load("table1")
    mean = {(e.row, e.column): e.paper["val_accuracy"][0] for e in preset.cells}
    for entry in preset.cells:
        if "relative" in entry.paper:
            own = mean[entry.row, entry.column] / mean[entry.row, "SGD"]
            assert entry.paper["relative"] == pytest.approx(own, abs=0.0101)  # it does not round evenly


def test_rates_are_those_on_record_where_there_is_one():
    assert {config.learning_rate for config in cell("table1", "CNN-MNIST", "SGD").full} == {
        lookup({"dataset": "mnist", "network": "cnn", "method": "sgd"})
    }
    assert not cell("table1", "CNN-MNIST", "SGD").untuned
    bernoulli = cell("table2", "FC-CIFAR10", "Bernoulli-0.5")
    assert bernoulli.untuned and bernoulli.full[0].distribution == "bernoulli-0.5"
    assert not cell("table2", "FC-MNIST", "Bernoulli-0.5").untuned


def test_table_3_has_the_factors_that_give_its_d():
    found = {entry.row: presets.load("table3").settings_of(entry) for entry in presets.load("table3").cells}
    factors = [found[row]["compartments"] for row in found if row.startswith("RBD")]
    assert factors == ["factor:10", "factor:25", "factor:50", "factor:100"]
    assert [entry.paper.get("d") for entry in presets.load("table3").cells] == [None, 7982, 3328, 1782, 1018, 7982]


GOOD = """\
title: A title
source: Table 9
kind: table
values: [val_accuracy]
settings: {epochs: 4, learning_rate: 0.5}
seeds: [0, 1]
rows: {a: {dim: 8}}
columns: {b: {method: rbd}, c: {method: sgd, dim: null}}
cells:
  - {row: a, column: b, paper: {val_accuracy: [50, 1]}}
"""


def read(tmp_path, text):
    (tmp_path / "table9.yaml").write_text(text)
    return presets.read(tmp_path / "table9.yaml")


def test_a_cell_has_the_settings_of_all_its_row_and_its_column(tmp_path):
    preset = read(tmp_path, GOOD.split("cells:")[0])  # without a list: all combinations
    one, other = cells(preset, FULL)
    assert (one.configs[1].dim, one.configs[1].seed, one.configs[1].epochs) == (8, 1, 4)
    assert (other.configs[0].method, other.configs[0].dim) == ("sgd", None)  # null takes it away again


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title:", "titel:", "unknown key 'titel'"),
        ("source: Table 9\n", "", "source missing"),
        ("kind: table", "kind: tabel", "unknown kind 'tabel'; accepted: table, curves"),
        ("[val_accuracy]", "[accurracy]", "unknown value 'accurracy'; accepted: val_accuracy"),
        ("values: [val_accuracy]", "values: val_accuracy", "values must be a list"),
        ("{dim: 8}", "{dimm: 8}", "unknown setting of 'a': 'dimm'"),
        ("epochs: 4", "epoch: 4", "unknown setting 'epoch'"),
        ("column: b,", "column: d,", "column 'd'"),
        ("paper: {val", "papers: {val", "unknown key of a cell: 'papers'"),
        ("{val_accuracy: [50, 1]}", "{accuracies: 1}", "unknown value of a, b: 'accuracies'"),
        ("cells:\n", "cells:\n  - {row: a, column: b}\n", "given twice"),
        ("title:", "relative_to: x\ntitle:", "relative_to 'x' is no column"),
        ("title:", "cells_of: table1\ntitle:", "leave out settings, seeds, rows, columns, cells"),
        ("title:", "title: x\ntitle:", "given twice"),
    ],
)
def test_what_is_wrong_is_refused_with_the_file(tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(ConfigError, match="table9.yaml: ") as error:
        read(tmp_path, GOOD.replace(old, new))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dim: 8", "dim: 0", "an integer from 1"),
        ("method: rbd", "method: sgd", "method sgd takes no dim"),
        ("method: rbd", "method: rdb", "must be one of"),
        (", learning_rate: 0.5", "", "set learning_rate"),
    ],
)
def test_settings_that_do_not_resolve_name_their_cell(tmp_path, old, new, words):
    preset = read(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match="table9, a, b: ") as error:
        cells(preset, FULL)
    assert words in str(error.value)


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ConfigError, match="there is no 'table7'; there are table1, "):
        presets.load("table7")


# --- budgets: what is cut, and that every cut is said -----------------------------------------------


@pytest.mark.parametrize("text", ["", "Full", "10", "x3", "0x3", "10x0", "10x3x1", "-1x2", "1e3x2"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="--budget") as error:
        budget(text)
    assert "full" in str(error.value) and "EPOCHSxSEEDS" in str(error.value)


def test_full_changes_nothing():
    settings = {"epochs": 100, "dim": 250, "switch_epoch": 75}
    assert cut(budget("full"), settings, (0, 1, 2)) == (settings, (0, 1, 2), [])


def test_more_than_the_paper_has_is_no_cut():
    assert cut(budget("100x3"), {"epochs": 80}, (0, 1, 2)) == ({"epochs": 80}, (0, 1, 2), [])


@pytest.mark.parametrize("switch", [1, 2, 5, 50, 75, 99])
@pytest.mark.parametrize("epochs", [2, 3, 10, 50])
def test_both_methods_have_their_turn_whatever_the_budget(switch, epochs):
    new, _, words = cut(budget(f"{epochs}x3"), {"epochs": 100, "switch_epoch": switch}, (0, 1, 2))
    assert 1 <= new["switch_epoch"] < epochs
    assert words == [f"{epochs} of 100 epochs", f"switch after {new['switch_epoch']}, not {switch}"]


def test_the_given_settings_stay_as_they_are():
    settings = {"epochs": 100, "dim": 250, "dataset": "mnist", "network": "cnn", "compartments": "even:25"}
    before = dict(settings)
    new, seeds, words = cut(budget("smoke"), settings, (0, 1, 2))
    assert settings == before and seeds == (0,)
    assert (new["dataset"], new["network"], new["epochs"], new["compartments"]) == ("digits", "fc", 2, "even:2")
    assert new["dim"] <= 8 and "digits" in words
