"""The best rate of a row: only where both neighbours were run in full is it settled."""

import pytest
from fake_runs import result

from rbd_ipu.lab import presets
from rbd_ipu.lab.measures import Index, brackets
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.tables import grid

ROW = "FC-MNIST, RBD"


def run(column, accuracy, seed=0, epochs=100, outcome="finished"):
    found = cells(presets.load("figureX1"), budget("full"))
    cell = next(cell for cell in found if (cell.row, cell.column) == (ROW, str(column)))
    return result(cell.configs[seed], [accuracy] * epochs, outcome)


def of(*rows):
    preset = presets.load("figureX1")
    found = brackets(preset, cells(preset, budget("full")), Index(rows))
    return next(one for one in found if one.row == ROW)


def test_worse_on_both_sides():
    found = of(run(0, 0.8), run(1, 0.9), run(2, 0.7))
    assert (found.exponent, found.closed) == (1, True) and "best at 2^1 (90.00, test 50.00, n = 1)" in found.words()


def test_a_rate_that_diverged_is_worse():
    assert of(run(0, 0.8), run(1, 0.9), run(2, 0.1, epochs=3, outcome="not finite")).closed


@pytest.mark.parametrize("rows", [[run(1, 0.9), run(2, 0.7)], [run(0, 0.8, epochs=99), run(1, 0.9), run(2, 0.7)]])
def test_at_an_edge_it_is_not_settled(rows):
    found = of(*rows)
    assert (found.exponent, found.closed, found.sides) == (1, False, (None, True))
    assert "best so far" in found.words() and "not run: 2^0" in found.words()


def test_rates_are_compared_by_the_seeds_that_all_have():
    found = of(run(0, 0.80), run(1, 0.90), run(1, 0.60, seed=1), run(2, 0.85))
    assert (found.exponent, found.measured.n) == (1, 2)


def test_nothing_run():
    assert of().words() == f"{ROW}: no rate has been run in full."


def test_the_notes_of_the_figure_say_it():
    preset = presets.load("figureX1")
    shown = grid(preset, cells(preset, budget("full")), Index([run(1, 0.9)]))
    assert sum("no rate has been run in full" in note for note in shown.notes) == len(preset.rows) - 1
    assert len(shown.lines) == 1 + len(preset.rows)  # more rows than rates: a line each
