"""The notebooks of docs/notebooks run, cell by cell, and print little."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from rbd_ipu._compat import KERAS_3

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="docs/ is not beside the tests")


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


# The readers of the site have today's stack; on the other one they take minutes.
RUN = [pytest.param(path, marks=() if KERAS_3 else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", RUN)
def test_its_code_runs_in_order(path):
    namespace, printed = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells(path)):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
    assert printed.getvalue()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_short_text(path):
    for cell in cells(path):
        for output in cell.get("outputs", ()):
            assert output["output_type"] == "stream" and output["name"] == "stdout"
            assert len(output["text"]) <= 12


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_a_title_and_imports_only_what_the_package_needs(path):
    first, *others = cells(path)
    assert first["cell_type"] == "markdown" and first["source"][0].startswith("# ")
    code = "".join(line for cell in others if cell["cell_type"] == "code" for line in [*cell["source"], "\n"])
    imported = {line.split()[1].split(".")[0] for line in code.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= {"numpy", "rbd_ipu", "tensorflow"}
