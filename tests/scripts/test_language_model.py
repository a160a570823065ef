"""The script that compares optimizers on a language model."""

import json
import math
import sys

import numpy as np
import pytest

from rbd_ipu._compat import KERAS_3

pytestmark = pytest.mark.skipif(not KERAS_3, reason="the script compares optimizers of Keras 3")


@pytest.fixture
def script(scripts):
    return scripts("language_model")


SOME = ["adam", "adam-dense", "rbd", "largest-rms", "adam-in-coordinates", "powersgd-1-adam"]


@pytest.mark.parametrize("recipes", [SOME, pytest.param(["all"], marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_recipe_is_a_row_and_is_not_run_again(recipes, script, tmp_path, monkeypatch, capsys):
    output = tmp_path / "rows.jsonl"
    sizes = [
        "--layers",
        "1",
        "--width",
        "8",
        "--heads",
        "2",
        "--context",
        "16",
        "--batch",
        "4",
        "--data",
        "shakespeare_excerpt",
    ]
    arguments = ["language_model.py", *sizes, "--recipe", *recipes, "--steps", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["recipe"] for row in rows] == (list(script.RECIPES) if recipes == ["all"] else recipes)
    for row in rows:
        assert math.isfinite(row["validation_loss"]) and row["done"] == 2 and row["versions"]["keras"]
        assert row["first_loss"] == pytest.approx(math.log(59), abs=0.1)
        assert row["D"] == 12 * 64 + 3 * 8 + (2 * 59 + 16) * 8
    by_name = {row["recipe"]: row for row in rows}
    assert by_name["adam"]["bytes_a_step"] == 4 * rows[0]["D"] and by_name["adam"]["state_floats"] == 2 * rows[0]["D"]
    assert by_name["rbd"]["bytes_a_step"] == 4 * round(rows[0]["D"] / 10)
    capsys.readouterr()
    script.main()
    assert capsys.readouterr().out.count("is there already") == len(rows)
    assert len(output.read_text().splitlines()) == len(rows)


def test_the_rate_rises_and_falls(script):
    rate = script.schedule(2.0, 1100)
    values = [float(rate(step)) for step in (0, 49, 99, 100, 600, 1099)]
    np.testing.assert_allclose(values, [0.02, 1.0, 2.0, 2.0, 2.0 * (1 - 0.9 * 500 / 999), 0.2], rtol=1e-4)


def test_windows_follow_from_the_generator(script):
    tokens = np.arange(100)
    x, y = script.draw(tokens, 5, 3, np.random.default_rng(1), 4)
    assert x.shape == y.shape == (4, 3, 5) and (y == x + 1).all() and y.max() < 100
    again, _ = script.draw(tokens, 5, 3, np.random.default_rng(1), 4)
    assert (x == again).all()


def test_signum_moves_by_the_sign_of_its_average(script):
    from rbd_ipu._compat import tf

    variable = tf.Variable([1.0, 1.0])
    optimizer = script.RECIPES["signum"].make(script.Made(0.1, 9, 2, 1, 0, 8))
    average = np.zeros(2)
    for g in ([1.0, -2.0], [-20.0, 1.0], [1.0, 3.0]):
        before = variable.numpy()
        optimizer.apply_gradients([(tf.constant(g), variable)])
        average = 0.9 * average + 0.1 * np.array(g)
        np.testing.assert_allclose(variable.numpy() - before, -0.1 * np.sign(average), rtol=1e-5)


def test_what_is_refused(script, monkeypatch, capsys):
    for words, message in (
        (["--recipe", "adm"], "unknown recipe 'adm'; accepted: adam, adam-dense, adamw"),
        (["--data", "digits"], "--data 'digits' is no text; accepted: tiny_shakespeare, shakespeare_excerpt"),
    ):
        monkeypatch.setattr(sys, "argv", ["language_model.py", *words])
        with pytest.raises(SystemExit):
            script.main()
        assert message in capsys.readouterr().err
