"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import rbd_ipu

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(rbd_ipu.__path__, "rbd_ipu.")
    if not module.name.endswith(("__main__", ".keras_2", ".keras_3"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [t for name in ("basis", "seeds", "training") for t in finder.find(_module(name))]
    assert sum(bool(t.examples) for t in tests) >= 4


def _module(name):
    return importlib.import_module(f"rbd_ipu.{name}")
