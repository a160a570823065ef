"""Figures: their numbers against NumPy, and the pictures of all kinds of panels."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import result

from rbd_ipu import files
from rbd_ipu.config import resolve
from rbd_ipu.lab import analyses, presets
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.pool import Job
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.tables import panels
from rbd_ipu.plots import _colours, svgs

FULL = budget("full")


def cells_of(name):
    return {(cell.row, cell.column): cell for cell in cells(presets.load(name), FULL)}


def shown(name, rows):
    preset = presets.load(name)
    return panels(preset, cells(preset, FULL), Index(rows))


@pytest.mark.parametrize("seed", [0])
def test_curves_are_means_over_the_seeds_with_their_deviation(seed):
    values = np.random.default_rng(seed).random((3, 100))
    configs = cells_of("figureB6")["CNN-MNIST", "RBD"].full
    found = shown("figureB6", [result(config, own.tolist()) for config, own in zip(configs, values)])
    assert [panel.title for panel in found] == list(presets.load("figureB6").rows)
    (line,) = [one for one in found[3].lines if one.n]
    assert (line.name, line.n, line.x) == ("RBD", 3, list(range(1, 101)))
    np.testing.assert_allclose(line.y, 100 * values.mean(axis=0))
    np.testing.assert_allclose(line.std, 100 * values.std(axis=0, ddof=1))
    assert all(panel.lines == [] for panel in found if panel is not found[3])


def test_points_are_at_their_setting():
    found = cells_of("figureB7")
    rows = [
        result(config, [0.5] * 99 + [0.5 + 0.01 * config.seed])
        for column in ("10", "1000")
        for config in found["RBD", column].full
    ]
    accuracy, correlation = shown("figureB7", rows)
    (line,) = accuracy.lines
    assert (line.x, line.n) == ([10.0, 1000.0], 3)
    assert line.y == pytest.approx([51.0, 51.0]) and line.std == pytest.approx([1.0, 1.0])
    assert accuracy.log_x and accuracy.xlabel == "d" and "correlation" in correlation.ylabel


def test_the_orthogonality_of_the_figure_is_that_of_theory():
    preset = presets.load("figureB8")._replace(options={"pairs": 40, "sizes": [100, 1600]})
    row = json.loads(files.line(analyses.analyse(preset, FULL, [], "rbd-ipu figure B8")))
    assert (row["kind"], row["preset"], row["budget"]) == ("analysis", "figureB8", "full")
    (panel,) = analyses.panels(preset, row)
    measured, theory, printed = panel.lines
    assert theory.y == pytest.approx([np.sqrt(2 / (np.pi * n)) for n in (100, 1600)], rel=0.01)
    # The mean of 40 has a standard error of 0.756 / sqrt(40) of itself; the test allows four.
    assert measured.y == pytest.approx(theory.y, rel=4 * 0.756 / 40**0.5)
    grid = analyses.grid(preset, row)
    assert [line[0] for line in grid.lines] == ["n", "100", "1600"] and len(grid.records) == 4
    assert (printed.name, printed.x, printed.y, printed.n) == ("measured, paper", [100_000.0], [0.02], 0)


def test_the_papers_number_stands_beside_that_of_an_analysis():
    preset = presets.load("figureB8")._replace(options={"pairs": 2, "sizes": [10, 1000]})
    preset = preset._replace(paper={"mean |cos|": [[1000, 0.25]]})
    grid = analyses.grid(preset, analyses.analyse(preset, FULL, [], "rbd-ipu figure B8"))
    assert grid.lines[0] == ["n", "mean |cos|", "mean |cos|, paper", "theory"]
    assert [line[2] for line in grid.lines[1:]] == ["", "0.25"] and len(grid.records) == 5


def test_an_analysis_that_was_not_made_says_so():
    preset = presets.load("figure2")
    assert analyses.grid(preset, None).lines[1][1] == "not measured" and analyses.panels(preset, None) == []


def test_the_latest_analysis_of_the_same_budget_counts():
    rows = [{"preset": "figure2", "budget": name, "n": n} for n, name in enumerate(("full", "smoke", "full", "1x1"))]
    assert analyses.latest(rows, presets.load("figure2"), FULL) == rows[2]
    assert analyses.latest(rows[1:2], presets.load("figure2"), FULL) is None
    assert set(analyses.ANALYSES) == {p.analysis for p in map(presets.load, presets.names()) if p.kind == "analysis"}


def test_the_walk_of_the_noise(monkeypatch):
    configs = [
        cells_of("figureX4")["FC-MNIST", "2^1"].full[0],
        cells_of("tableX1")["FC-MNIST", "SGD at lr d/D"].full[0],
    ]
    jobs = [Job(config, config.method, Path("nowhere")) for config in configs]
    size = 101_770
    weights = np.full(size, 5 / size**0.5), np.full(size, 10 / size**0.5)
    monkeypatch.setattr(analyses, "_moved", lambda job, batches: (*weights, 2.0, 1000, (101_770.0, 5.0)))
    found = analyses.walk({"batches": 1}, FULL, jobs)
    share = 250 / 101_770
    expected = 2.0 * np.sqrt(share * (1 - share) * 1000 * 2.0)
    assert found.lines[1] == ["rbd, lr 2, 100 epochs", "5.0", "10.0", "5.0", f"{expected:.1f}", "0.99"]
    assert found.lines[2] == ["sgd, lr 0.00246, 100 epochs", "5.0", "10.0", "5.0", "-", "0.2"]
    assert [(line.x, line.y) for line in found.panels[0].lines] == [
        ([2.0], [pytest.approx(5.0)]),
        ([2.0], [pytest.approx(expected)]),
    ]


def test_directions_of_zero_mean_have_the_slope_of_theory(monkeypatch):
    config = resolve({"dataset": "digits", "network": "fc", "method": "rbd", "dim": 4, "learning_rate": 1.0})
    monkeypatch.setattr(analyses, "_moments", lambda jobs: [(jobs[0], analyses._START)])
    options = {**presets.load("figure2").options, "points": 3, "images": 64}
    found = analyses.landscape(options, FULL, [Job(config, "rbd", Path("nowhere"))])
    heading, line = found.lines
    slopes = dict(zip(heading[1:], (float(text.split(" ")[0]) for text in line[1:])))
    assert list(slopes) == [*analyses.DISTRIBUTIONS, *analyses.PUBLISHED]
    assert list(slopes) == [one.name for one in found.panels[0].lines]
    # The mean of 20 draws of 25 has a standard error of 0.756 / sqrt(500); the test allows four.
    for name in ("normal", "uniform", "rademacher"):
        assert slopes[name] == pytest.approx(1.0, abs=4 * 0.756 / 500**0.5)
    # Entries that are not of zero mean have the slope along the vector of ones, nearly the same for all of them.
    deviation = float(line[heading.index("in [0, 1)")].split(" ± ")[1])
    assert deviation < float(line[heading.index("normal")].split(" ± ")[1])
    assert all(one.y[0] > one.y[2] for one in found.panels[0].lines)  # all turned downhill


def test_both_correlations_are_those_of_theory():
    options = {**presets.load("figureX2").options, "dataset": "digits", "network": "fc", "images": 64, "draws": 5}
    preset = presets.load("figureX2")._replace(options={**options, "factors": [50, 500], "seeds": [0]})
    row = analyses.analyse(preset, FULL, [], "rbd-ipu figure X2")
    flat, flat_theory, mean, mean_theory, printed = analyses.panels(preset, row)[0].lines
    assert flat.y == pytest.approx(flat_theory.y, rel=0.2) and mean.y == pytest.approx(mean_theory.y, rel=0.2)
    assert max(flat.y) < min(mean.y)  # of four variables two are small
    assert (printed.n, printed.y) == (0, [0.42, 0.40])
    assert [line[0] for line in row["lines"]] == ["d", *(f"{x:.0f}" for x in flat.x)]


def test_the_papers_numbers_stand_beside_ours():
    configs = cells_of("figureB6")["FC-MNIST", "RBD"].full
    found = shown("figureB6", [result(configs[0], [0.5] * 100)])
    names = {line.name: line for line in found[0].lines}
    assert set(names) == {"RBD", "RBD, paper", "NES, paper", "FPD, paper", "SGD, paper"}
    theirs = names["RBD, paper"]
    assert (theirs.x, theirs.y, theirs.std, theirs.n) == ([100.0], [93.893], [0.024], 0)
    assert all(panel.lines == [] for panel in found[1:])  # where nothing is measured, the picture says so
    pytest.importorskip("matplotlib")
    picture = svgs(found[:1])[0].decode()
    for name, line in names.items():  # a bar for the deviation of each point of the paper, in the colour of our line
        assert picture.count(_colours(found)[name.replace(", paper", "")].lower()) >= 2 and line.n in (0, 1)
    assert "the paper, same colours" in picture


def test_points_of_other_budgets_are_not_joined():
    found = cells_of("figure4")
    rows = [result(found["d = 250", "1"].full[0], [0.5] * 100)]
    rows += [result(found["d = 250", "2"].full[0], [0.4] * 10, "running")]
    rows += [result(config, [0.3] * 10, "running") for config in found["d = 250", "5"].full]
    rows += [result(config, [0.3] * 10, "running") for config in found["d = 250", "10"].full]
    lines = {line.name: line.x for line in shown("figure4", rows)[0].lines}
    assert lines == {
        "d = 250, 100 epochs, n = 1": [1.0],
        "d = 250, 10 epochs, n = 3": [5.0, 10.0],
        "d = 250, 10 epochs, n = 1": [2.0],
    }


def test_figure_b15_shows_the_runs_of_table_2():
    for figure, table in (("figureB15", "table2"), ("figureB6", "table1")):
        ours, theirs = presets.load(figure), presets.load(table)
        assert [cell.full for cell in cells(ours, FULL)] == [cell.full for cell in cells(theirs, FULL)]
        assert [cell.paper for cell in cells(ours, FULL)] == [cell.paper for cell in cells(theirs, FULL)]
    assert cells_of("figureB15")["FC-MNIST", "Bernoulli-0.5"].full[0].learning_rate == 2.0**-2
