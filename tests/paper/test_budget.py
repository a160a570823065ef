"""Budgets: what is cut, and that every cut is said."""

import pytest

from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.presets import budget, cut


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
