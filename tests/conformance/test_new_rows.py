"""A row added to a registry is a setting of runs at once: a distribution, wire formats, an inner optimizer."""

import numpy as np
import pytest
from nets import blobs, dense

import rbd_ipu
from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.config import resolve
from rbd_ipu.directions.stream import DISTRIBUTIONS, Distribution, shift_right, word_at
from rbd_ipu.errors import ConfigError
from rbd_ipu.methods.base import INNER
from rbd_ipu.parallel.plan import WIRES
from rbd_ipu.parallel.wire import VALUES

KNOWN = {"distribution": DISTRIBUTIONS, "bits": VALUES, "wire": WIRES}


def ternary(pairs, size, start=0, words=word_at):
    """-1, 0, 0 or 1."""
    bits = shift_right(words(pairs, start + tf.range(size)), 30)
    return tf.gather(tf.constant([-1.0, 0.0, 0.0, 1.0]), bits)


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setitem(DISTRIBUTIONS._rows, "ternary", Distribution("ternary", 0.5, ternary, "-1, 0, 0 or 1"))
    monkeypatch.setitem(VALUES._rows, "whole", VALUES.get("float32"))
    monkeypatch.setitem(WIRES._rows, "whole", WIRES.get("float32"))
    monkeypatch.setitem(INNER, "steps", keras.optimizers.SGD)


def test_a_distribution_is_drawn_by_every_source(rows):
    g = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    found = []
    for source in ("counter", "native", "auto"):
        basis = rbd_ipu.RandomBasis(50, 4, "ternary", source=source)
        P = np.asarray(basis.directions(3), np.float64)
        found.append(P)
        np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1.0, rtol=1e-6)
        assert all(len(np.unique(np.round(row, 6))) == 3 for row in P)
        np.testing.assert_allclose(np.asarray(basis.project(g, 3)), P @ g, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("settings", [
    {"method": "rbd", "dim": 4, "distribution": "ternary", "wire": "whole"},
    {"method": "compressed", "fraction": 0.5, "bits": "whole", "inner": "steps"},
])  # fmt: skip
def test_a_run_takes_it(rows, settings):
    config = resolve({"learning_rate": 0.25, **settings})
    assert {name: getattr(config, name) for name in settings} == settings
    options = {name: settings[name] for name in set(settings) - {"method", "wire"}}
    device = rbd_ipu.open_device("cpu", simulate_workers=2, wire=config.wire)
    trainer = rbd_ipu.Trainer(dense(), methods.create(config.method, learning_rate=0.25, **options), device)
    losses = trainer.fit(blobs(64), batch_size=8, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("key", ["distribution", "bits", "wire", "inner"])
def test_without_a_row_it_is_refused(key):
    method = "compressed" if key in ("bits", "inner") else "rbd"
    with pytest.raises(ConfigError, match="none_such"):
        resolve({"learning_rate": 0.25, "method": method, key: "none_such"})


@pytest.mark.parametrize("key", sorted(KNOWN))
def test_the_help_names_every_row(key):
    from rbd_ipu.config import FIELDS

    rule = FIELDS[key]["kind"].rule.replace(" ", "").split("|")
    assert set(KNOWN[key].names()) <= set(rule)
