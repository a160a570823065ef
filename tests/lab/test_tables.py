"""Grids and their formats: what a reader sees of known numbers; SGD at lr d/D beside RBD."""

import csv
import io
import math
import re

import pytest
from fake_runs import result

from rbd_ipu.config.resolve import lookup
from rbd_ipu.lab import presets, tables
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.paper import shown_grid
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.tables import grid

FULL = budget("full")
VALIDATION = "validation acc. %"


def shown(name, rows):
    preset = presets.load(name)
    return grid(preset, cells(preset, FULL), Index(rows))


@pytest.fixture(scope="module")
def table1():
    """RBD on FC-MNIST by three seeds, SGD by one; the rest is not measured."""
    found = {(cell.row, cell.column): cell for cell in cells(presets.load("table1"), FULL)}
    rows = [
        result(config, [0.5] * 99 + [accuracy])
        for config, accuracy in zip(found["FC-MNIST", "RBD"].configs, (0.93, 0.94, 0.95))
    ]
    rows.append(result(found["FC-MNIST", "SGD"].configs[0], [0.5] * 99 + [0.98]))
    return shown("table1", rows)


def at(grid, row, column):
    line = next(line for line in grid.lines if line[0] == row)
    return line[grid.lines[0].index(column)]


def test_ours_stands_beside_the_papers(table1):
    three = ("validation acc. %", "validation acc. %, paper", "test acc. %")
    assert table1.lines[0] == ["", *(f"{c}, {t}" for c in ("NES", "FPD", "RBD", "SGD") for t in three)]
    assert at(table1, "FC-MNIST", "RBD, test acc. %") == "50.00 ± 0.00 (1.00)"
    assert at(table1, "FC-MNIST", f"RBD, {VALIDATION}") == "94.00 ± 1.00 (0.96)"
    assert at(table1, "FC-MNIST", f"RBD, {VALIDATION}, paper") == "93.893 ± 0.024 (0.96)"
    assert at(table1, "FC-MNIST", f"SGD, {VALIDATION}") == "98.00 [1]" and "[1] 1 of 3 seeds" in table1.notes
    assert at(table1, "CNN-MNIST", f"SGD, {VALIDATION}") == "not measured"
    assert all(len(line) == 13 for line in table1.lines) and len(table1.lines) == 7


def test_the_origin_of_the_runs_is_said(table1):
    assert "4 runs: commit 0123456, A processor, 2 cores, TensorFlow 2.21.0." in table1.notes


def test_the_fraction_is_of_runs_of_the_same_length():
    found = {(cell.row, cell.column): cell for cell in cells(presets.load("table1"), FULL)}
    rows = [
        result(found["FC-MNIST", "RBD"].configs[0], [0.5] * 10, "running"),
        result(found["FC-MNIST", "SGD"].configs[0], [0.9] * 20, "running"),
    ]
    assert at(shown("table1", rows), "FC-MNIST", f"RBD, {VALIDATION}") == "50.00 [1]"


def test_a_cell_whose_runs_all_diverged_says_so():
    found = {(cell.row, cell.column): cell for cell in cells(presets.load("table2"), FULL)}
    rows = [result(config, [0.1], "not finite") for config in found["FC-MNIST", "Bernoulli-0.5"].configs]
    assert at(shown("table2", rows), "FC-MNIST", f"Bernoulli-0.5, {VALIDATION}").startswith("diverged [1]")


def test_several_values_have_a_column_each():
    grid = shown("table3", [])
    assert grid.lines[0][1:5] == ["d", "d, paper", "training acc. %", "training acc. %, paper"]
    assert at(grid, "RBD, 25x reduction", "correlation, paper") == "0.40 ± 0.20"
    assert at(grid, "SGD", "d, paper") == ""


def test_points_of_a_figure_go_down_the_page():
    grid = shown("figureB7", [])
    assert [line[0] for line in grid.lines] == ["d", "10", "100", "1000", "10000"]


def test_rates_beside_the_papers():
    grid = tables.grid_of_rates(presets.load("table4"))
    assert at(grid, "FC-MNIST", "SGD, paper") == "-8 (in use: -3)"
    assert re.fullmatch(r"-?\d+ \[\d+\]", at(grid, "FC-MNIST", "RBD"))
    assert at(grid, "ResNet-8", "FPD, paper") == "-"


def test_a_budget_is_in_the_title():
    preset = presets.load("table2")
    limits = budget("smoke")
    grid = shown_grid(preset, cells(preset, limits), Index([]), limits)
    assert "[budget smoke: to see that it works, not to be compared]" in grid.title


def test_markdown_is_one_table(table1):
    lines = tables.markdown(table1).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 8 and {line.count("|") for line in table} == {14}
    assert set(table[1]) <= set("|-: ") and lines[0] == f"### {table1.title}"


def test_csv_has_a_line_for_each_cell_with_numbers_unrounded(table1):
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(table1))))
    assert len(rows) == 48
    rbd = next(row for row in rows if (row["row"], row["column"]) == ("FC-MNIST", "RBD"))
    assert float(rbd["mean"]) == pytest.approx(94.0) and float(rbd["std"]) == pytest.approx(1.0)
    assert (rbd["n"], rbd["epochs"], rbd["state"], rbd["marks"]) == ("3", "100", "measured", "")
    assert (rbd["paper_mean"], rbd["paper_std"], rbd["commit"][:7]) == ("93.893", "0.024", "0123456")
    blank = next(row for row in rows if (row["row"], row["column"]) == ("CNN-MNIST", "SGD"))
    assert (blank["mean"], blank["n"], blank["state"], blank["paper_mean"]) == ("", "0", "not measured", "99.41")


def test_latex_has_nothing_that_latex_would_not_take(table1):
    text = tables.latex(table1)
    assert text.count(r"\begin") == text.count(r"\end") == 2
    body = text.split(r"\hline")[2]
    assert body.count(r"\\") == 6 and {line.count("&") for line in body.strip().splitlines()} == {12}
    assert not re.search(r"(?<!\\)[%#_]", text) and "±" not in text and r"94.00 $\pm$ 1.00" in text


def test_text_is_aligned(table1):
    lines = tables.text(table1).splitlines()[2:9]
    assert lines[1].startswith("FC-MNIST ") and lines[0].count("SGD, ") == 3
    assert lines[1].index("93.893 ± 0.024 (0.96)") + 21 == lines[0].index(f"RBD, {VALIDATION}, paper") + len(
        f"RBD, {VALIDATION}, paper"
    )


def configs(name, row, column):
    found = cells(presets.load(name), budget("full"))
    return next(cell for cell in found if (cell.row, cell.column) == (row, column)).full


def curve(last):
    return [last * epoch / 100 for epoch in range(1, 101)]


def test_the_rate_of_sgd_is_that_of_rbd_times_d_over_its_parameters():
    for row, dataset, network, size in (
        ("FC-MNIST", "mnist", "fc", 101_770),
        ("CNN-CIFAR10", "cifar10", "cnn", 122_570),
    ):
        rate = lookup({"dataset": dataset, "network": network, "method": "rbd", "dim": 250})
        for config in configs("tableX1", row, "SGD at lr d/D"):
            assert (config.method, config.dim) == ("sgd", None)
            assert config.learning_rate == pytest.approx(rate * 250 / size, rel=1e-12)


def test_the_cost_of_the_noise_is_what_rbd_stays_behind():
    rows = [result(config, curve(0.9)) for config in configs("tableX1", "FC-MNIST", "SGD at lr d/D")]
    assert tables.grid_of_noise_by_epoch(Index(rows)).lines[1:] == []  # nothing stands beside it
    rows += [result(config, curve(0.8)) for config in configs("table1", "FC-MNIST", "RBD")]
    line = next(line for line in tables.grid_of_noise(Index(rows)).lines if line[0] == "FC-MNIST")
    shown = dict(zip(tables.grid_of_noise(Index(rows)).lines[0], line))
    assert shown["SGD at lr d/D"] == "90.00 ± 0.00 (n = 3)" and shown["RBD, hadamard"] == "not measured"
    assert shown["cost of the noise"] == "10.00"
    assert shown["in theory"] == f"{math.sqrt(250 / (250 + 101_769)):.4f}"
    along = tables.grid_of_noise_by_epoch(Index(rows)).lines
    assert [line[0] for line in along[1:]] == ["FC-MNIST: SGD at lr d/D (n = 3)", "FC-MNIST: RBD (n = 3)"]
    assert along[2][1:] == ["0.8", "1.6", "4.0", "8.0", "16.0", "40.0", "80.0"]


def test_runs_that_are_short_do_not_stand_there():
    rows = [result(configs("table1", "FC-MNIST", "RBD")[0], [0.5] * 99, "running")]
    line = next(line for line in tables.grid_of_noise(Index(rows)).lines if line[0] == "FC-MNIST")
    assert line[4] == "not measured" and line[-3] == "-"
