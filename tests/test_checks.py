"""Checks of numbers: what is accepted comes back, what is not is quoted."""

import math

import numpy as np
import pytest

from rbd_ipu import checks
from rbd_ipu.checks import Registry


@pytest.mark.parametrize("value", [1, 250, np.int64(7)])
def test_positive_integers_come_back_as_ints(value):
    assert checks.positive_int("dim", value) == value
    assert type(checks.positive_int("dim", value)) is int


@pytest.mark.parametrize(
    "value, error",
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), ("3", TypeError), (None, TypeError)],
)
def test_others_are_refused_by_name(value, error):
    with pytest.raises(error, match="dim must be an integer >= 1, got"):
        checks.positive_int("dim", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_learning_rate_is_finite_and_not_negative(value):
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0, got"):
        checks.learning_rate(value)


@pytest.mark.parametrize("value", [1e-60, 2.0**-127, 1e39])
def test_a_learning_rate_is_one_in_float32_too(value):
    with pytest.raises(ValueError, match="learning_rate must be 0 or a number in float32, 1.2e-38 to 3.4e38, got"):
        checks.learning_rate(value)
    assert [checks.learning_rate(rate) for rate in (0, 2.0**-126, float(np.finfo(np.float32).max))]


@pytest.mark.parametrize("value", [None, "0.1", True, [0.1]])
def test_a_learning_rate_is_a_number_or_a_schedule(value):
    with pytest.raises(TypeError, match="learning_rate must be a finite number >= 0, got"):
        checks.learning_rate(value)


def test_a_callable_learning_rate_is_passed_on():
    schedule = lambda: 0.1  # noqa: E731
    assert checks.learning_rate(schedule) is schedule
    assert type(checks.learning_rate(np.float32(0.5))) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_momentum_has_an_upper_bound(value):
    with pytest.raises(ValueError, match=r"momentum must be a number in \[0, 1\], got"):
        checks.finite_float("momentum", value, 0.0, 1.0)


@pytest.mark.parametrize("value, error", [(2**64, ValueError), (-(2**63) - 1, ValueError), (0.5, TypeError)])
def test_a_seed_has_64_bits(value, error):
    with pytest.raises(error, match="seed must be an integer of at most 64 bits"):
        checks.seed(value)


# --- the registry: names in, objects out, nothing silently ------------------------------------------


def test_rows_keep_their_order_and_come_back():
    table = Registry("colour")
    red, blue = table.register("red")(object()), table.register("blue")(object())
    assert table.names() == tuple(table) == ("red", "blue")
    assert table.get("red") is red and table.get("blue") is blue
    assert "red" in table and "green" not in table and len(table) == 2


@pytest.mark.parametrize("name", ["green", "", None, 3, ["red"]])
def test_an_unknown_name_is_quoted_with_the_accepted_ones(name):
    table = Registry("colour")
    table.register("red")(1)
    with pytest.raises(ValueError, match=r"unknown colour .*accepted: 'red'"):
        table.get(name)


def test_a_name_cannot_be_taken_twice():
    table = Registry("colour")
    table.register("red")(1)
    with pytest.raises(ValueError, match="already registered"):
        table.register("red")
