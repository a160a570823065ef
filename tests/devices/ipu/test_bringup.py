"""The bring-up suite: it runs here, with the stand-in in the place of IPUs, so that on hardware it is right at once.

What it says about numbers, memory and speed means something on hardware only.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rbd_ipu._compat import KERAS_3

TESTS = Path(__file__).resolve().parents[2]
FILES = sorted((TESTS / "bringup").glob("test_*.py"))
CONFIGS = TESTS.parent / "ipu_configs"

needs_standin = pytest.mark.skipif(KERAS_3, reason="the stand-in plays on TensorFlow 2.6")
needs_configs = pytest.mark.skipif(not CONFIGS.is_dir(), reason="ipu_configs is not beside the tests")

# Too much for a CPU: blocks as large as the memory of an IPU, and a hundred steps of large networks.
LARGE = "(fits and not fc) or (directions_fits and not 101770) or (images_a_second and not sgd)"


def suite(config, choice, output):
    """Runs a part of the suite on the stand-in; gives (the last line, all of what it printed)."""
    environment = {
        **os.environ,
        "RBD_IPU_CONFIG": str(CONFIGS / config),
        "RBD_BRINGUP_OUTPUT": str(output),
        # The stand-in is loaded before pytest looks for plugins, and finds some in what TensorFlow has imported.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "bringup.with_standin",
        "-p",
        "no:cacheprovider",
        "-m",
        "ipu",
    ]
    command += ["-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(TESTS.parent), "-k", choice]
    done = subprocess.run([*command, str(TESTS / "bringup")], env=environment, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1], done.stdout + done.stderr


def counts(line):
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", line)}


def test_the_files_are_in_an_order_and_say_what_they_establish():
    assert [path.name[:8] for path in FILES] == [f"test_{n:02d}_" for n in range(1, len(FILES) + 1)]
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert tests and all(ast.get_docstring(test) for test in tests), path
        assert "pytestmark = pytest.mark.ipu" in path.read_text(encoding="utf-8")


@needs_standin
@needs_configs
def test_the_suite_runs_on_replicas_of_the_stand_in(tmp_path):
    """A few tests of most files, on four replicas."""
    chosen = (
        "01_configuration or (wraps_round and edges) or two_draws or methods_of_a_basis or replicas_are_not "
        "or replicas_know or mean_over or (one_update and normal and global)"
    )
    line, printed = suite("pod4.yaml", chosen, tmp_path / "bringup.json")
    found = counts(line)
    assert found.get("passed", 0) >= 13 and set(found) == {"passed"}, printed


@needs_standin
@needs_configs
@pytest.mark.slow
@pytest.mark.parametrize("config", ["single.yaml", "pod4.yaml"])
def test_the_whole_suite_runs_on_the_stand_in(tmp_path, config):
    output = tmp_path / "bringup.json"
    line, printed = suite(config, f"not ({LARGE})", output)
    found = counts(line)
    assert found.get("passed", 0) >= 45 and set(found) <= {"passed", "skipped"}, printed
    measured = json.loads(output.read_text(encoding="utf-8"))
    assert abs(measured["normal"]["mean"]) < 0.01
    speed = measured["fc sgd"]
    assert speed["images_per_second"] > 0 and "commit" in speed["commit"]
