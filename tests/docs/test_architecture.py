"""What docs/architecture.md names is there: files, functions, registries, and the order of the layers."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "architecture.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="no docs beside the tests")


def page():
    return PAGE.read_text(encoding="utf-8")


def names_of(path):
    found = set()
    for node in ast.parse((CHECKOUT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            found |= {f"{node.name}.{part.name}" for part in getattr(node, "body", []) if hasattr(part, "name")}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


def named():
    """(name, file) pairs of the text: `name` in `file`."""
    found = re.findall(r"`([\w.]+)`(?: and\s+`([\w.]+)`)? in\s+`(rbd_ipu/[\w/]+\.py)`", page())
    return [(name, path) for one, other, path in found for name in (one, other) if name]


def test_every_name_is_where_the_page_says():
    assert len(named()) >= 12
    missing = [(name, path) for name, path in named() if name not in names_of(path)]
    assert not missing


def test_every_file_exists():
    paths = set(re.findall(r"rbd_ipu/[\w/]+\.py", page()))
    assert [path for path in paths if not (CHECKOUT / path).is_file()] == []


def test_a_step_takes_at_most_five_files():
    for heading in ("## One step of the Trainer", "## One step of an optimizer", "## One step of SubspaceOptimizer"):
        section = page().split(heading)[1].split("\n## ")[0]
        steps = re.findall(r"^\d\. .*", section, flags=re.MULTILINE)
        assert 3 <= len(steps) <= 5


def test_the_layers_are_those_of_the_linter():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has the first reader of TOML")
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    wanted = [sorted(re.findall(r"\w+", layer)) for layer in layers]
    rows = re.findall(r"^\| (`.*?) \|", page().split("## One step")[0], flags=re.MULTILINE)
    shown = [sorted(re.findall(r"`(\w+)`", row)) for row in rows]
    hidden = {"__main__", "_compat", "_imports"}
    assert shown == [left for layer in wanted for left in [sorted(set(layer) - hidden)] if left]
