"""The search for an intrinsic dimension, against brute force: no training."""

import math
import random

import pytest

from rbd_ipu.dimension.search import (
    FINISHED,
    NOT_FINITE,
    Order,
    Point,
    Run,
    following,
    found,
    likely_rate,
    next_rates,
    notes,
    powers,
    search,
    to_measure,
)


def bisected(reaches, least=1, greatest=1000, tolerance=0.0, also=()):
    """(answer, d in the order in which they were measured)."""
    verdicts = {dim: reaches(dim) for dim in also}
    while True:
        dim = following(verdicts, least, greatest, tolerance)
        if dim is None:
            return found(verdicts)[0], list(verdicts)
        assert dim not in verdicts and least <= dim <= greatest
        verdicts[dim] = reaches(dim)


@pytest.mark.parametrize("least, greatest", [(1, 1), (1, 2), (1, 70), (5, 64), (6, 63), (64, 70), (17, 17)])
def test_it_finds_what_brute_force_finds(least, greatest):
    for true in range(1, greatest + 3):
        dims = [dim for dim in range(least, greatest + 1) if dim >= true]
        answer, measured = bisected(lambda dim, true=true: dim >= true, least, greatest)
        assert answer == (dims[0] if dims else None)
        assert len(measured) <= 2 + 2 * math.ceil(math.log2(greatest + 1))


@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.5, 1.0])
def test_the_answer_is_within_the_tolerance(tolerance):
    for true in [*range(1, 60), 290, 750, 2900, 9000, 199_210]:
        answer, measured = bisected(lambda dim, true=true: dim >= true, 1, 199_210, tolerance)
        assert true <= answer <= max(true * (1 + tolerance), true)
        assert len(measured) <= 8 + math.log2(1 / tolerance + 1)


def test_powers_of_two_come_first():
    _, measured = bisected(lambda dim: dim >= 750, 1, 199_210, 0.1)
    coarse = [dim for dim in measured if dim & (dim - 1) == 0]
    assert measured[: len(coarse)] == coarse == [512, 16_384, 2_048, 1_024]
    assert powers(1, 8) == [1, 2, 4, 8] and powers(3, 3) == [3] and powers(5, 7) == [5, 7]


def test_the_greatest_d_is_measured_only_if_nothing_else_reaches():
    answer, measured = bisected(lambda dim: False, 1, 1000)
    assert answer is None and measured[-1] == 1000
    assert bisected(lambda dim: dim == 1000, 1, 1000, 0.1)[0] == 1000
    assert 1000 not in bisected(lambda dim: dim >= 3, 1, 1000)[1]


def test_any_verdicts_end_with_the_smallest_d_that_was_measured_to_reach():
    rng = random.Random(0)
    for _ in range(300):
        greatest = rng.randint(1, 300)
        table = {dim: rng.random() < dim / greatest for dim in range(1, greatest + 1)}
        also = rng.sample(range(1, greatest + 1), min(3, greatest))
        answer, measured = bisected(table.get, 1, greatest, 0.1, also)
        assert answer == min((dim for dim in measured if table[dim]), default=None)
        below = [dim for dim in measured if answer is not None and dim < answer]
        assert answer in (None, 1) or answer - max(below) <= max(1, 0.1 * max(below))


# --- learning rates and seeds ------------------------------------------------------------------------


def walked(accuracy, start):
    """(rates in the order of the walk, the best one)."""
    known = {}
    while True:
        rates = next_rates(known, start)
        if not rates:
            return list(known), max(known, key=known.get)
        known.update((rate, accuracy(rate)) for rate in rates)


@pytest.mark.parametrize("start", [2.0**k for k in range(-6, 7)])
def test_a_walk_ends_at_the_best_rate_wherever_it_begins(start):
    def accuracy(rate):
        return -math.inf if rate > 4.0 else 1.0 - abs(math.log2(rate)) / 10

    tried, best = walked(accuracy, start)
    assert best == 1.0 and {0.5, 2.0} <= set(tried) and tried[0] == start


def test_a_walk_ends_where_everything_diverges():
    tried, _ = walked(lambda rate: -math.inf, 1.0)
    assert tried[-1] == 2.0**-24 and len(tried) == 25


def test_rates_are_scaled_from_the_nearest_d():
    points = [
        Point(100_000, 2.0**-3, 0.9, None, 1, 1.0, True, 3, 0),
        Point(64, None, math.nan, None, 0, 0, False, 1, 1),
    ]
    assert likely_rate(points, 100_000) == 2.0**-3 and likely_rate(points, 250) == 2.0**1
    points.append(Point(256, 2.0**3, 0.9, None, 1, 1.0, True, 3, 0))
    assert likely_rate(points, 64) == 2.0**4


def run(rate, seed, accuracy):
    return Run(8, rate, seed, FINISHED if accuracy is not None else NOT_FINITE, accuracy or math.nan, 1, 0.0)


def test_other_seeds_are_run_at_the_best_rate_only():
    first = [run(0.5, 0, 0.3), run(1.0, 0, 0.4), run(2.0, 0, 0.2)]
    assert to_measure(first, (0, 1, 2), 0.9, None, 1.0) == [(1.0, 1), (1.0, 2)]
    assert to_measure([*first, run(1.0, 1, 0.4), run(1.0, 2, 0.5)], (0, 1, 2), 0.9, None, 1.0) == []


def test_a_rate_that_diverges_with_one_seed_is_none():
    first = [run(0.5, 0, 0.3), run(1.0, 0, 0.4), run(2.0, 0, 0.2), run(1.0, 1, None)]
    assert to_measure(first, (0, 1), 0.9, [0.5, 1.0, 2.0], 1.0) == [(0.5, 1)]


def test_rates_are_tried_until_the_mean_of_the_seeds_reaches():
    rates = [1.0, 2.0, 4.0]
    assert to_measure([], (0, 1), 0.9, rates, 1.0) == [(1.0, 0)]
    assert to_measure([], (0, 1), math.inf, rates, 1.0) == [(1.0, 0), (2.0, 0), (4.0, 0)]
    assert to_measure([run(1.0, 0, 0.95)], (0, 1), 0.9, rates, 1.0) == [(1.0, 1)]
    low = [run(1.0, 0, 0.95), run(1.0, 1, 0.8)]
    assert to_measure(low, (0, 1), 0.9, rates, 1.0) == [(2.0, 0)]
    assert to_measure([*low, run(2.0, 0, 0.97)], (0, 1), 0.9, rates, 1.0) == [(2.0, 1)]
    assert to_measure([*low, run(2.0, 0, 0.97), run(2.0, 1, 0.9)], (0, 1), 0.9, rates, 1.0) == []


# --- the whole search --------------------------------------------------------------------------------


class Measured:
    """Runs by a formula; counts them."""

    def __init__(self, accuracy, best=1.0, diverges=math.inf):
        self.accuracy, self.best, self.diverges, self.orders = accuracy, best, diverges, []

    def __call__(self, orders):
        self.orders += orders
        return [self.made(order) for order in orders]

    def made(self, order):
        if order.learning_rate > self.diverges:
            return Run(*order, NOT_FINITE, math.nan, 0, 0.0)
        loss = 0.01 * abs(math.log2(order.learning_rate / self.best)) + 0.001 * order.seed
        return Run(*order, FINISHED, max(0.0, self.accuracy(order.dim) - loss), 1, 0.0)


def rising(dim):
    return 1.0 if dim is None else min(1.0, 0.9 * dim / 750)


def test_a_search_measures_the_full_space_first_and_yields_after_every_few_runs():
    measure = Measured(rising, best=0.25)
    results = list(search(measure, 199_210, seeds=(3, 4)))
    assert [result.finished for result in results] == [False] * (len(results) - 1) + [True]
    last = results[-1]
    assert measure.orders[0] == Order(None, 2.0**-4, 3) and last.full[:2] == (199_210, 0.25)
    assert 750 <= last.dim <= 825 and last.below < last.dim <= 1.1 * last.below
    assert last.threshold == pytest.approx(0.9 * last.full.accuracy) and last.full.n == 2
    assert [run.order for run in last.runs] == measure.orders and len(set(measure.orders)) == len(measure.orders)
    assert [one.dim for one in last.curve] == sorted(one.dim for one in last.curve)
    for one in last.curve:
        assert one.reaches == (one.dim >= last.dim) == (one.accuracy >= last.threshold)
        assert one.share == pytest.approx(one.accuracy / last.full.accuracy)
    assert notes(last) == []


def test_nothing_reaches():
    *_, last = search(Measured(lambda dim: 0.5 if dim else 1.0), 100, rates=[1.0], full_rates=[1.0])
    assert last.dim is None and last.finished and last.below == 100
    assert notes(last) == [
        "No d reaches 90.00%, 90% of the full space's 100.00%; the greatest one was d = 100: it came to 50.00%."
    ]


def test_the_full_space_diverges():
    *_, last = search(Measured(rising, diverges=0.0), 100, full_rates=[1.0, 2.0])
    assert last.finished and last.dim is None and last.full.learning_rate is None and last.full.diverged == 2
    assert notes(last) == ["Every run of the full space diverged: try lower learning rates."] and last.curve == []


def test_a_d_at_which_everything_diverges_is_a_point_that_says_so():
    class Half(Measured):
        def made(self, order):
            self.diverges = 0.0 if order.dim and order.dim > 16 else math.inf
            return super().made(order)

    *_, last = search(Half(lambda dim: 0.5 if dim else 1.0), 40, rates=[1.0], full_rates=[1.0])
    lost = [one for one in last.curve if one.learning_rate is None]
    assert [(one.dim, one.n, one.diverged, one.reaches) for one in lost] == [(32, 0, 1, False), (40, 0, 1, False)]
    assert last.dim is None and "Every run diverged at d = 32, 40." in notes(last)


def test_accuracies_that_are_not_monotone_are_said():
    def bump(dim):
        return 1.0 if dim is None or dim == 20 or dim > 500 else dim / 1000

    *_, last = search(Measured(bump), 1000, rates=[1.0], full_rates=[1.0], also=[20, 300])
    assert last.dim == 20 and last.below == 19
    assert any(
        "not monotone in d: d = 300 does not reach the share, though d = 20 does" in note for note in notes(last)
    )

    def dip(dim):
        return 1.0 if dim is None else 0.4 if dim < 30 else 0.3

    *_, last = search(Measured(dip), 64, rates=[1.0], full_rates=[1.0])
    assert any("The accuracy falls from 40.00%" in note for note in notes(last))


def test_the_smallest_allowed_d_may_reach():
    *_, last = search(Measured(lambda dim: 1.0), 64, rates=[1.0], full_rates=[1.0], least=4)
    assert (last.dim, last.below) == (4, 0) and "The smallest d that was allowed, 4" in notes(last)[0]
