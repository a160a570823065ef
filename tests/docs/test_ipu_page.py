"""docs/ipu.md: its Python runs, its commands run where they need no IPU, and it names what there is."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rbd_ipu.config import from_assignments, resolve

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ipu.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""

pytestmark = pytest.mark.skipif(not TEXT, reason="the pages are not beside the tests")


def blocks(language, before=""):
    return re.findall(rf"{re.escape(before)}```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


TESTED = blocks("bash", "<!-- tested -->\n")


@pytest.fixture
def checkout(tmp_path):
    """A folder like the checkout, but for the sources: so that the package under test is the installed one."""
    for name in ("ipu_configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def shell(block, folder, rbd_ipu):
    """Runs a block with ``rbd_ipu`` as the command of that name; gives its output."""
    command = folder / "bin" / "rbd-ipu"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{rbd_ipu}\n", encoding="utf-8")
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(command.parent), os.environ["PATH"]]),
        "RBD_PYTHON": sys.executable,
    }
    for name in ("RBD_HOSTS", "IPUOF_VIPU_API_HOST", "IPUOF_VIPU_API_PARTITION_ID", "RBD_CONFIG", "IPUS"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_box_at_the_top_says_what_has_not_run():
    _, box = TEXT.split("\n", 1)
    assert box.lstrip().startswith("> **Nothing on this page has run on an IPU.**")


def test_there_are_blocks():
    assert len(TESTED) >= 3 and len(blocks("python")) >= 1


@pytest.mark.parametrize("number", range(len(TESTED)))
def test_a_command_that_needs_no_ipu_runs(number, checkout):
    block = TESTED[number]
    printed = shell(block, checkout, f'exec "{sys.executable}" -m rbd_ipu "$@"')
    assert printed.count(": valid") == block.count(".yaml")
    if "--dry-run" in block:
        assert printed.startswith("poprun --num-instances=")


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_python_block_prints_what_it_says(number):
    block, printed = blocks("python")[number], io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, str(PAGE), "exec"), {})
    told = re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(told) >= 1
    for line, comment in zip(lines, told):
        assert comment == line or comment.startswith(f"{line} ")


def test_the_runs_of_table_1_are_those_that_the_table_looks_for(checkout):
    from rbd_ipu.lab import presets
    from rbd_ipu.lab.results import essence

    (block,) = blocks("bash", "<!-- table 1 -->\n")
    lines = shell(block, checkout, 'echo "$*"').splitlines()
    found = []
    for line in lines:
        assert (
            line.startswith("train --quiet --set device=ipu_configs/single.yaml ") and " --output runs/ipu/" in line
        )
        found.append(essence(resolve(from_assignments(re.findall(r"--set (\S+)", line)))))
    wanted = [
        essence(config)
        for cell in presets.cells(presets.load("table1"), presets.budget("full"))
        for config in cell.full
    ]
    assert len(found) == len(wanted) and all(one in wanted for one in found)
    assert all(one in found for one in wanted)


def test_every_file_of_the_bring_up_suite_and_every_configuration_is_in_the_page():
    for path in (ROOT / "tests" / "bringup").glob("test_*.py"):
        assert f"| `{path.stem}` |" in TEXT
    for path in (ROOT / "ipu_configs").glob("*.yaml"):
        assert f"`{path.name}`" in TEXT
    for name in re.findall(r"`((?:rbd_ipu|scripts|tests)/[a-z0-9_/.]+)`", TEXT):
        assert (ROOT / name).exists(), name


def test_every_key_of_a_configuration_is_in_the_page():
    from rbd_ipu.devices.ipu.description import FIELDS

    table = TEXT[TEXT.index("| key | meaning |") :]
    keys = set(re.findall(r"`([a-z_]+)`", table[: table.index("\n\n")]))
    assert set(FIELDS) - keys <= {"device", "emulator"} and "emulator" not in keys
