"""The package as installed: its metadata, its files, what it does without TensorFlow."""

import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import rbd_ipu

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCE = CHECKOUT / "rbd_ipu"
INSTALLED = Path(rbd_ipu.__file__).resolve().parent
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64"), ("darwin", "arm64"))

needs_wheel = pytest.mark.skipif(
    os.environ.get("RBD_TESTING_WHEEL") != "1",
    reason="the package runs from its sources; ./dev test installs the wheel",
)
needs_sources = pytest.mark.skipif(not SOURCE.is_dir(), reason="no sources beside the tests")


def requirements():
    return [Requirement(text) for text in metadata.requires("rbd-ipu")]


def chosen(python, platform, machine, extra=""):
    """The requirements that pip would take there, by name."""
    there = {
        "python_version": python,
        "sys_platform": platform,
        "platform_machine": machine,
        "extra": extra,
    }
    return {r.name: r for r in requirements() if r.marker is None or r.marker.evaluate(there)}


def package_files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        # Numba keeps what it compiles beside Python's own byte code.
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@needs_wheel
def test_the_installed_package_is_the_one_under_test():
    assert INSTALLED != SOURCE
    assert Path(sys.prefix).resolve() in INSTALLED.parents
    assert str(CHECKOUT) not in sys.path


@needs_wheel
@needs_sources
def test_the_wheel_carries_every_file_of_the_package():
    assert package_files(INSTALLED) == package_files(SOURCE)


@needs_wheel
def test_the_version_of_the_metadata_is_that_of_the_package():
    assert metadata.version("rbd-ipu") == rbd_ipu.__version__


@needs_wheel
def test_default_requirements_are_numpy_and_yaml_only():
    for python in PYTHONS:
        for platform, machine in MACHINES:
            assert set(chosen(python, platform, machine)) == {"numpy", "PyYAML"}


@needs_wheel
@pytest.mark.parametrize(("platform", "machine"), MACHINES)
@pytest.mark.parametrize("python", ["3.8", "3.9", "3.13"])
def test_the_extra_cpu_brings_one_tensorflow_that_suits_the_python(python, platform, machine):
    taken = chosen(python, platform, machine, "cpu")
    found = [taken[name] for name in ("tensorflow", "tensorflow-cpu") if name in taken]
    assert len(found) == 1
    assert found[0].specifier.contains("2.6.5") == (python == "3.8")
    assert found[0].specifier.contains("2.21.0") == (python != "3.8")
    # PyPI has wheels of tensorflow-cpu for x86-64 Linux, not for macOS or 64-bit ARM.
    assert (found[0].name == "tensorflow-cpu") == ((platform, machine) == ("linux", "x86_64"))


@needs_wheel
def test_the_extras_are_the_documented_ones():
    extras = set(metadata.metadata("rbd-ipu").get_all("Provides-Extra"))
    assert extras == {"cpu", "gpu", "native", "plots", "data", "mpi", "dev", "docs"}
    brings = {"native": "numba", "plots": "matplotlib", "data": "tensorflow-datasets"}
    for extra, name in brings.items():
        assert name in chosen("3.11", "linux", "x86_64", extra)
    assert chosen("3.11", "linux", "x86_64", "gpu")["tensorflow"].extras == {"and-cuda"}
    assert "tensorflow" not in chosen("3.11", "darwin", "arm64", "gpu")


@needs_wheel
def test_other_pythons_are_refused():
    accepted = SpecifierSet(metadata.metadata("rbd-ipu")["Requires-Python"])
    asked = ("3.7", *PYTHONS, "3.14")
    assert tuple(python for python in asked if accepted.contains(python)) == PYTHONS


@needs_wheel
def test_the_command_is_installed_beside_the_python():
    command = Path(sys.executable).parent / "rbd-ipu"
    by_script = subprocess.run([str(command), "--help"], stdout=subprocess.PIPE, check=True)
    by_module = subprocess.run([sys.executable, "-m", "rbd_ipu", "--help"], stdout=subprocess.PIPE, check=True)
    assert b"rbd-ipu" in by_script.stdout
    assert by_module.stdout == by_script.stdout


# Stands in for a machine without TensorFlow.
BLOCK_TENSORFLOW = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
import rbd_ipu
"""


def without_tensorflow(code):
    """Run the code in a Python of its own that cannot find TensorFlow; give its output."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_TENSORFLOW + code, str(INSTALLED.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_imports_without_tensorflow():
    assert without_tensorflow("print(rbd_ipu.__version__)").strip() == rbd_ipu.__version__


@pytest.mark.parametrize("use", ["RandomBasis", "RandomBasesDescent", "Trainer", "fold_in(0, 1)"])
def test_without_tensorflow_a_public_name_says_which_extra_brings_it(use):
    printed = without_tensorflow(
        f"""
try:
    rbd_ipu.{use}
except ImportError as error:
    print("ImportError:", error)
"""
    )
    assert printed.startswith("ImportError: ")
    assert 'pip install "rbd-ipu[cpu]"' in printed


def test_the_syntax_is_that_of_python_3_8():
    paths = sorted(INSTALLED.rglob("*.py"))
    assert INSTALLED / "__init__.py" in paths
    for path in paths:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))


def test_tensorflow_is_taken_from_one_place():
    """Only _compat.py imports TensorFlow or Keras: a missing one is reported once, in words."""
    offenders = set()
    for path in INSTALLED.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            if any(name.partition(".")[0] in ("tensorflow", "keras") for name in names):
                offenders.add(path.relative_to(INSTALLED).as_posix())
    assert offenders <= {"_compat.py"}
