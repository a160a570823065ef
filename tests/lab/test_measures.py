"""The numbers of a cell: against NumPy, with every departure from the paper's setting in its marks."""

import numpy as np
import pytest
from fake_runs import result

from rbd_ipu.config import resolve
from rbd_ipu.lab import presets
from rbd_ipu.lab.measures import Index, brackets, measure
from rbd_ipu.lab.presets import Cell, budget, cells
from rbd_ipu.lab.tables import grid


def configs(epochs=4, seeds=(0, 1, 2), **settings):
    return tuple(resolve({"learning_rate": 0.5, "dim": 8, "epochs": epochs, "seed": s, **settings}) for s in seeds)


def cell(wanted, full=None, **settings):
    facts = {"row": "a", "column": "b", "paper": {}, "note": "", "untuned": False, "cuts": ()}
    return Cell(configs=wanted, full=full or wanted, **{**facts, **settings})


CURVES = np.random.default_rng(0).random((3, 4))
ROWS = [result(config, curve.tolist()) for config, curve in zip(configs(), CURVES)]


def test_mean_and_sample_deviation_over_the_seeds():
    found = measure(cell(configs()), Index(ROWS))
    mean = found.means["val_accuracy"]
    assert mean.mean == pytest.approx(100 * CURVES[:, -1].mean())
    assert mean.std == pytest.approx(100 * CURVES[:, -1].std(ddof=1))
    assert (mean.n, found.n, found.epochs, found.marks) == (3, 3, 4, [])
    assert found.means["correlation"].mean == pytest.approx(0.25)  # a mean over the epochs
    assert found.means["images_per_second"].mean == pytest.approx(250.0)  # a median
    assert found.means["hours"].mean == pytest.approx(8.0 / 3600)
    assert found.means["d"].mean == 8


def test_one_run_has_no_deviation():
    found = measure(cell(configs()), Index(ROWS[:1]))
    assert found.means["val_accuracy"].std is None and found.marks == ["1 of 3 seeds"]


def test_shorter_runs_are_shown_and_marked():
    short = [result(config, curve[:2].tolist()) for config, curve in zip(configs(epochs=2), CURVES)]
    found = measure(cell(configs()), Index(short))
    assert found.epochs == 2 and found.marks == ["2 of 4 epochs"]
    assert found.means["val_accuracy"].mean == pytest.approx(100 * CURVES[:, 1].mean())


def test_longer_runs_serve_with_their_first_epochs_but_not_with_their_test():
    found = measure(cell(configs(epochs=2), configs(epochs=4)), Index(ROWS))
    assert found.means["val_accuracy"].mean == pytest.approx(100 * CURVES[:, 1].mean())
    assert "test_accuracy" not in found.means and found.marks == ["2 of 4 epochs"]
    assert found.means["hours"].mean == pytest.approx(4.0 / 3600)


def test_a_run_of_the_very_length_comes_before_a_longer_one():
    exact = result(configs(epochs=2)[0], [0.1, 0.2])
    found = measure(cell(configs(epochs=2, seeds=(0,))), Index([ROWS[0], exact]))
    assert found.means["test_accuracy"].mean == 50.0 and found.means["val_accuracy"].mean == pytest.approx(20.0)


def test_means_are_over_runs_of_one_length():
    mixed = [ROWS[0], result(configs()[1], [0.9, 0.9], "running")]
    found = measure(cell(configs()), Index(mixed))
    assert found.means["val_accuracy"].mean == pytest.approx(100 * CURVES[0, -1])
    assert found.marks == ["1 of 3 seeds"]


def test_runs_that_diverged_are_counted_and_not_averaged():
    broken = result(configs()[2], [0.1], "not finite")
    found = measure(cell(configs()), Index([*ROWS[:2], broken]))
    assert found.means["val_accuracy"].mean == pytest.approx(100 * CURVES[:2, -1].mean())
    assert found.marks == ["1 diverged"] and found.diverged == 1
    alone = measure(cell(configs()), Index([broken]))
    assert alone.means == {} and alone.diverged == 1


def test_seeds_of_different_data_are_marked():
    other = {**ROWS[1], "data": {"images.npz": "decaf" * 8}}
    found = measure(cell(configs()), Index([ROWS[0], other, ROWS[2]]))
    assert found.marks == ["seeds trained on 2 different copies of the data"]
    unknown = {**ROWS[1], "data": None}  # a row from before they said so
    assert measure(cell(configs()), Index([ROWS[0], unknown, ROWS[2]])).marks == []


def test_cuts_and_rates_are_marked():
    found = measure(cell(configs(), untuned=True, cuts=("4 of 9 epochs", "digits")), Index(ROWS))
    assert found.marks == ["digits", "learning rate not tuned"]


def test_nothing_is_marked_where_nothing_is_known():
    found = measure(cell(configs(), untuned=True), Index([]))
    assert (found.means, found.n, found.marks) == ({}, 0, [])


def test_other_settings_are_other_runs():
    others = [result(config, [0.5] * 4) for config in configs(learning_rate=0.25)]
    assert measure(cell(configs()), Index(others)).n == 0


def test_what_is_left_to_run():
    index = Index([ROWS[0], result(configs()[1], [0.1], "not finite"), result(configs()[2], [0.1, 0.2], "running")])
    assert [index.has(config) for config in configs()] == [True, True, False]
    assert index.has(configs(epochs=3)[0]) and not index.has(configs(epochs=5)[0])


# --- the best rate of a row: only where both neighbours were run in full is it settled --------------


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
