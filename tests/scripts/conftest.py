"""What the tests of benchmarks/ share."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """Imports a script of benchmarks/ by its name, as if it had been started there; forgets it after the test."""
    if not BENCHMARKS.is_dir():
        pytest.skip("no benchmarks beside the tests")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(BENCHMARKS)):
            del sys.modules[name]
