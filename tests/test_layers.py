"""The order of the package, as pyproject.toml gives it to import-linter, holds; and a planted circle is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SETTINGS = CHECKOUT / "pyproject.toml"

pytest.importorskip("importlinter", reason="import-linter is not installed")
pytestmark = pytest.mark.skipif(not SETTINGS.is_file(), reason="no pyproject.toml beside the tests")


def linted(folder):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    "file, planted",
    [
        (None, None),
        ("seeds.py", "from rbd_ipu import training"),
        ("devices/ipu/options.py", "def late():\n    from rbd_ipu.devices.ipu import description"),
        ("directions/source.py", "def late():\n    from rbd_ipu.directions import dense"),
        ("new.py", '"""A module without a layer."""'),
    ],
)
def test_layers(file, planted, tmp_path):
    shutil.copytree(CHECKOUT / "rbd_ipu", tmp_path / "rbd_ipu", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SETTINGS, tmp_path)
    if file:
        with open(tmp_path / "rbd_ipu" / file, "a", encoding="utf-8") as code:
            code.write(f"\n\n{planted}\n")
    done = linted(tmp_path)
    assert (done.returncode == 0) == (file is None), done.stdout
