"""The registry: names in, objects out, nothing silently."""

import pytest

from rbd_ipu.checks import Registry


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
