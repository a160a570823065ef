"""The pure part of tuning: grid, early stopping, which rates come next, which one wins, how it is written."""

import json
import math
import random

import pytest

from rbd_ipu import files
from rbd_ipu.config import resolve
from rbd_ipu.config.resolve import Rate
from rbd_ipu.config.yaml import loads
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import tuning
from rbd_ipu.lab.trials import (
    FINISHED,
    LINE,
    NOT_FINITE,
    STOPPED,
    Trial,
    best,
    exponents,
    following,
    hopeless,
    reach,
    read_exponent,
    written,
)

EPOCHS = 8


def trial(exponent, loss=None, outcome=FINISHED, again=False, initial=2.3, done=EPOCHS):
    """A trial that ended at ``loss``, or was stopped there after ``done`` epochs."""
    losses = [] if loss is None else [initial] * (done - 1) + [loss]
    return Trial(exponent, outcome, initial, losses, [0.5] * len(losses), list(losses), EPOCHS, 1.0, again)


# --- the grid ----------------------------------------------------------------------------------------


def test_the_grid_of_the_paper_has_27_powers():
    assert exponents() == list(range(7, -20, -1)) and len(exponents()) == 27
    assert exponents(-1, 2) == [-1, 0, 1, 2] and exponents(3, 3) == [3]


@pytest.mark.parametrize("exponent", [7, 1, 0, -1, -19, -126, 127])
def test_powers_are_read_as_they_are_written(exponent):
    for text in (written(exponent), written(exponent).replace("**", "^"), 2.0**exponent, repr(2.0**exponent)):
        assert read_exponent(text) == exponent


@pytest.mark.parametrize("text", ["0.3", "3", "0", "-2", "2**", "1e-3", "", "true", "nan", "inf", ".inf", "2**-999"])
def test_what_is_no_power_of_two_is_refused(text):
    with pytest.raises(ValueError, match="power of two|exponent must be"):
        read_exponent(text)


# --- early stopping ----------------------------------------------------------------------------------


def test_reach_is_the_loss_at_the_pace_of_the_best_epoch():
    assert reach(2.0, [1.9, 1.7, 1.8], done=3, epochs=10) == pytest.approx(2.0 - 0.3 * 10 / 3)
    assert reach(2.0, [2.5, 3.0], done=2, epochs=10) == 2.0
    assert reach(2.0, [math.nan, 1.8], done=2, epochs=4) == pytest.approx(1.6)
    assert reach(2.0, [math.nan], done=1, epochs=4) == reach(2.0, [], done=0, epochs=4) == 2.0


@pytest.mark.parametrize(
    "losses, train, given_up",
    [
        ([2.31, 2.4], [2.5, 2.6], True),  # it diverges
        ([1e9, 1e12], [1e5, 1e9], True),
        ([2.30, 2.299], [2.305, 2.30], True),  # it hardly moves
        ([math.nan, math.nan], [math.nan, math.nan], True),
        ([2.30, 2.20], [2.30, 2.25], False),  # 0.1 in a quarter is 0.4 in all, more than a tenth of 2.3
        ([2.10, 9.0], [2.2, 5.0], False),  # it has been good once
        ([9.0, 9.0], [2.2, 1.9], False),  # training goes well: batch norm may lag behind
        ([2.31], [2.5], False),  # too early to say
    ],
)
def test_a_rate_is_given_up_only_when_it_diverges_or_hardly_moves(losses, train, given_up):
    assert hopeless(2.3, losses, train, EPOCHS) is given_up


def test_nothing_is_given_up_in_the_last_epoch_and_short_runs_are_judged_after_one():
    assert not hopeless(2.3, [9.0] * EPOCHS, [9.0] * EPOCHS, EPOCHS)
    assert not hopeless(2.3, [9.0], [9.0], 1) and hopeless(2.3, [9.0], [9.0], 2)


# --- the search --------------------------------------------------------------------------------------


def searched(grid, measure, start=None, jobs=1, seed=0):
    """Runs a search in which trials end in a random order; returns (trials by exponent, what was run)."""
    trials, running, made, order = {}, [], [], random.Random(seed)
    while True:
        waiting = [e for e in following(grid, trials, start) if e not in running]
        running += waiting[: jobs - len(running)]
        if not running:
            return trials, made
        exponent = running.pop(order.randrange(len(running)))
        trials[exponent] = measure(exponent, exponent in trials)
        made.append(exponent)


def bowl(lowest, width=8.0):
    return lambda exponent, again: trial(exponent, 0.3 + (exponent - lowest) ** 2 / width)


def test_the_whole_grid_is_tried_once_and_in_order():
    trials, made = searched(exponents(3, -3), bowl(0))
    assert made == exponents(3, -3) and best(trials).exponent == 0


@pytest.mark.parametrize("lowest", [7, 3, 0, -4, -19])
@pytest.mark.parametrize("start", [7, 1, -19])
def test_a_walk_ends_where_the_whole_grid_does(lowest, start):
    trials, made = searched(exponents(), bowl(lowest), start)
    assert best(trials).exponent == lowest and made[0] == start
    assert len(made) == len(set(made)) <= abs(lowest - start) + 5


def test_a_walk_forgives_one_bad_rate_but_not_two():
    losses = {0: 1.0, 1: 1.1, 2: 0.5, 3: 0.6, 4: 0.7, 5: 0.1, -1: 1.2, -2: 1.3, -3: 0.0}
    trials, made = searched(exponents(5, -3), lambda e, again: trial(e, losses[e]), start=0)
    assert sorted(made) == [-2, -1, 0, 1, 2, 3, 4] and best(trials).exponent == 2


def test_a_walk_from_where_nothing_trains_goes_on_until_something_does():
    def measure(exponent, again):
        return trial(exponent, outcome=NOT_FINITE) if exponent > 0 else trial(exponent, 0.3 - exponent / 10)

    trials, made = searched(exponents(), measure, start=4)
    assert best(trials).exponent == 0 and min(made) == -2


@pytest.mark.parametrize("start", [None, 2])
def test_what_is_tried_and_chosen_does_not_depend_on_the_order_in_which_trials_end(start):
    def measure(exponent, again):
        if exponent in (3, -3) and not again:
            return trial(exponent, 2.0, STOPPED, done=2)
        return trial(exponent, {3: 0.8, -3: 0.7}.get(exponent, 1.2 + abs(exponent) / 100), again=again)

    grid = exponents(4, -4)
    outcomes = [searched(grid, measure, start, jobs, seed) for jobs in (1, 2, 3, 5) for seed in range(6)]
    for trials, made in outcomes[1:]:
        assert trials == outcomes[0][0] and sorted(made) == sorted(outcomes[0][1])


def test_a_search_that_is_killed_tries_what_is_missing_only():
    grid, (whole, made) = exponents(4, -4), searched(exponents(4, -4), bowl(1), start=-2)
    for kept in range(len(made)):
        trials = {e: whole[e] for e in made[:kept]}
        while following(grid, trials, -2):
            exponent = following(grid, trials, -2)[0]
            assert exponent not in trials
            trials[exponent] = whole[exponent]
        assert trials == whole


def test_a_stopped_rate_is_run_in_full_where_it_might_yet_win():
    # Stopped at 2.25 after 2 of 8 epochs it could have come to 2.3 - 0.05 * 4 = 2.1.
    stopped = trial(-5, 2.25, STOPPED, done=2)
    assert stopped.reach == pytest.approx(2.1)
    assert following([0, -5], {0: trial(0, 2.05), -5: stopped}) == []
    assert following([0, -5], {0: trial(0, 2.2), -5: stopped}) == [-5]
    assert following([0, -5], {0: trial(0, outcome=NOT_FINITE), -5: stopped}) == [-5]
    again = trial(-5, 2.0, again=True)
    assert following([0, -5], {0: trial(0, 2.2), -5: again}) == [] and best({0: trial(0, 2.2), -5: again}) is again


def test_the_lowest_final_loss_wins_and_of_equal_ones_the_lower_rate():
    assert best({}) is None and best({1: trial(1, 0.1, STOPPED), 2: trial(2, outcome=NOT_FINITE)}) is None
    assert best({3: trial(3, 0.5), 1: trial(1, 0.5), 2: trial(2, 0.6)}).exponent == 1
    assert best({3: trial(3, math.nan), 1: trial(1, 9.0)}).exponent == 1
    dipped = trial(2, 0.9)._replace(losses=[0.1, 0.9])
    assert best({2: dipped, 1: trial(1, 0.5)}).exponent == 1  # the last epoch counts, not the best one


# --- on paper ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [trial(-3, 0.5), trial(7, outcome=NOT_FINITE), trial(0, 2.0, STOPPED, done=3)])
def test_a_trial_survives_json(values):
    assert Trial.of(json.loads(files.line({**values.as_dict(), "sitting": 3}))) == values


def test_numbers_that_are_none_come_back_as_nan():
    back = Trial.of(json.loads(files.line(trial(1, math.inf).as_dict())))
    assert math.isnan(back.losses[-1]) and back.loss == math.inf


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"losses": None}, "losses: must be a list, not null"),
        ({"losses": ["x"]}, "losses: must be a finite number, not the text 'x'"),
        ({"outcome": "lost"}, "outcome: must be one of finished, stopped early, not finite, not the text 'lost'"),
        ({"exponent": 5000}, "exponent: must be an integer from -149 to 127, not 5000"),
    ],
)
def test_a_damaged_line_of_the_grid_is_named(tmp_path, changed, message):
    grid = tmp_path / "grid.jsonl"
    facts = json.loads(files.line(trial(-3, 0.5).as_dict()))
    grid.write_text(files.line({**facts, **changed}))
    with pytest.raises(ConfigError, match=f"grid.jsonl:1: {message}"):
        files.lines(grid, accepted=LINE)
    grid.write_text('{"exponent": 3}\n')
    with pytest.raises(ConfigError, match="grid.jsonl:1: outcome: is missing"):
        files.lines(grid, accepted=LINE)


def test_a_damaged_choice_is_named(tmp_path):
    search = tuning.Search(resolve({"learning_rate": 1.0}), 0, tmp_path)
    assert search.choice() is None
    (tmp_path / "tune.json").write_text('{"choice": {"learning_rate": 0}}')
    with pytest.raises(ConfigError, match="tune.json: choice: learning_rate: must be a finite number above 0, not 0"):
        search.choice()


def test_the_table_marks_the_lowest_loss():
    text = tuning.table_of({0: trial(0, 0.5), 1: trial(1, 12345.0), 2: trial(2, outcome=NOT_FINITE)}).splitlines()
    assert [line.split()[0] for line in text] == ["rate", "2**2", "2**1", "2**0"]
    assert text[3].endswith("finished  <- lowest") and "0.5000" in text[3] and "50.00" in text[3]
    assert "1.2e+04" in text[2] and text[1].split()[1] == "-" and text[1].endswith("not finite")
    assert len({line.index(word) for line, word in zip(text, ("outcome", "not f", "finished", "finished"))}) == 1


def test_the_row_is_one_of_the_rates_on_record():
    config = resolve({"method": "fpd", "dim": 32, "momentum": 0.5, "epochs": 1, "learning_rate": 1.0})
    trials = {-2: trial(-2, 0.75), -1: trial(-1, 0.5), 0: trial(0, outcome=NOT_FINITE), 1: trial(1, 0.9)}
    (row,) = loads(tuning.row_of(config, trials))
    rate = Rate(**row)
    assert rate[:4] == ("digits", "fc", "fpd", 0.5) and rate.dim == 32 and rate.source == "rbd-ipu tune"
    assert rate.note == "2**-2: 0.7500, 2**-1: 0.5000, 2**0 not finite; 1 epoch, seed 0; momentum 0.5"
    (row,) = loads(tuning.row_of(resolve({"method": "sgd", "learning_rate": 1.0}), {7: trial(7, 0.1)}))
    assert Rate(**row).dim is None and row["learning_rate"] == 128
    assert tuning.row_of(config, {0: trial(0, outcome=NOT_FINITE)}) is None
