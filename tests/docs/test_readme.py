"""The Python in the README and on the pages for beginners runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

import rbd_ipu
from rbd_ipu._compat import keras, tf

README = Path(__file__).resolve().parents[2] / "README.md"
PAGES = [README, *(README.parent / "docs" / f"{name}.md" for name in ("first-model", "workers"))]


def blocks(page):
    if not page.is_file():
        return []
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


BLOCKS = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


@pytest.mark.parametrize("page, least", list(zip(PAGES, (1, 3, 1))), ids=lambda value: getattr(value, "stem", None))
def test_there_are_blocks(page, least):
    if not page.is_file():
        pytest.skip(f"{page.name} is not beside the tests")
    assert len(blocks(page)) >= least


@pytest.mark.parametrize("page, number", BLOCKS, ids=lambda value: getattr(value, "stem", value))
def test_a_block_runs(page, number, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28), dtype=np.uint8), rng.integers(0, 10, 64, dtype=np.uint8)
    # The images would be fetched from the net.
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (images, images))
    seen = {
        "rbd_ipu": rbd_ipu,
        "seed": rbd_ipu.fold_in(0),
        "gradient": tf.ones(101_770),
    }
    exec(compile(blocks(page)[number], str(page), "exec"), seen)
    if "history" in seen:
        assert seen["history"].history["val_accuracy"][-1] > 0.5


@pytest.mark.skipif(not README.is_file(), reason="the README is not beside the tests")
def test_the_readme_is_about_a_page():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.skipif(not (README.parent / "dev").is_file(), reason="the checkout is not beside the tests")
def test_the_two_commands_are_those_of_the_launcher():
    named = re.findall(r"^\./dev (\w+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert named == ["demo", "test"]
    usage = (README.parent / "dev").read_text(encoding="utf-8")
    assert all(re.search(rf"^#: +{name}\b", usage, flags=re.MULTILINE) for name in named)
