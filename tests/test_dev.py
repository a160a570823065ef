"""The launcher ./dev, with stand-ins for the Pythons and without a network.

Each test has a checkout, a home and a PATH of its own; the PATH holds links to the few tools that
the launcher needs and nothing else, so that no Python of the machine is found by accident.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
COMMANDS = ("demo", "test", "lint", "format", "bench", "ci", "help")
TOOLS = ("basename", "bash", "cat", "cksum", "cp", "dirname", "env", "git", "ls", "mkdir", "mktemp")
TOOLS += ("rm", "sed", "sleep", "tail", "tar", "touch", "tr")

pytestmark = [
    pytest.mark.skipif(not (CHECKOUT / "dev").is_file(), reason="no ./dev beside the tests"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="no bash"),
]

# Answers like Python {version}, but makes environments of itself and installs nothing; all else is
# left to the Python that runs the tests.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "{version} $*" | tr '\\n' ' ' >>"$CALLS"; echo >>"$CALLS"
case "$*" in
  *ensurepip*) echo "{version} {machine} {state}" ;;
  *importlib*python_version*) echo "Python {version}, TensorFlow fake" ;;
  *python_version*) echo "{version}.0" ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    for tool in pytest ruff mypy shellcheck; do cp "$FAKES/$tool" "$3/bin/$tool"; done ;;
  "-m pip wheel "*)
    while [ "$1" != --wheel-dir ]; do shift; done
    mkdir -p "$2" && touch "$2/rbd_ipu-0-py3-none-any.whl"
    (cd "$3" && ls -A) >"$FAKES/sources" ;;
  "-m pip install "*)
    sleep "${{PIP_SECONDS:-0}}"
    if [ -n "${{PIP_ERROR:-}}" ]; then echo "$PIP_ERROR" && exit 1; fi ;;
  "-m rbd_ipu"*) echo "rbd_ipu $*" ;;
  *) exec "{real}" "$@" ;;
esac
"""

FAKE_PYTEST = """#!/usr/bin/env bash
echo "pytest in $PWD: $*" >>"$CALLS"
while [ "$1" != --junitxml ]; do shift; done
printf '<testsuites><testsuite tests="9" failures="0" errors="0" skipped="2"/></testsuites>' >"$2"
echo "7 passed, 2 skipped"
exit "${PYTEST_STATUS:-0}"
"""


class Launcher:
    """A checkout with ./dev in it, on a machine with the Pythons that a test gives it."""

    def __init__(self, folder: Path):
        self.root, self.bin, self.fakes = folder / "checkout", folder / "bin", folder / "fakes"
        self.calls = self.fakes / "calls"
        for path in (self.root / "tests", self.root / ".ci", self.bin, self.fakes, folder / "home"):
            path.mkdir(parents=True)
        shutil.copy(str(CHECKOUT / "dev"), str(self.root / "dev"))
        (self.root / "setup.py").write_text("setup()\n", encoding="utf-8")
        for tool in TOOLS:
            found = shutil.which(tool)
            if found is not None:
                (self.bin / tool).symlink_to(found)
        executable(self.fakes / "pytest", FAKE_PYTEST)
        for tool in ("ruff", "mypy", "shellcheck"):
            executable(self.fakes / tool, "#!/usr/bin/env bash\n")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder),
            "CALLS": str(self.calls),
            "FAKES": str(self.fakes),
        }

    def python(self, version, folder=None, name=None, **says):
        """Install a stand-in for this version and give its path."""
        says = {"machine": "x86_64", "state": "whole", "real": sys.executable, **says}
        text = FAKE_PYTHON.format(version=version, **says)
        return executable((folder or self.bin) / (name or f"python{version}"), text)

    def start(self, *arguments, cwd=None, **environment):
        return subprocess.Popen(
            [str(self.bin / "bash"), str(self.root / "dev"), *arguments],
            cwd=str(cwd or self.root),
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def called(self, text):
        lines = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        return [line for line in lines if text in line]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


def test_help_lists_every_command(launcher):
    for arguments in (["help"], [], ["--help"]):
        status, output, _ = launcher.run(*arguments)
        assert status == 0
        assert set(COMMANDS) <= set(re.findall(r"^  (\w+) ", output, re.MULTILINE))


@pytest.mark.parametrize(
    ("arguments", "quoted", "accepted"),
    [
        (["tset"], "tset", COMMANDS),
        (["test", "--stack", "both2"], "both2", ("ipu", "today", "both")),
        (["test", "--stack=gpu"], "gpu", ("ipu", "today", "both")),
        (["test", "--stack"], "--stack", ("ipu", "today", "both")),
    ],
)
def test_the_unknown_is_refused_with_what_is_accepted(launcher, arguments, quoted, accepted):
    status, _, errors = launcher.run(*arguments)
    assert status == 1
    last = errors.splitlines()[-1]
    assert quoted in last
    assert all(word in last for word in accepted)


def test_both_stacks_are_tested_with_one_wheel_away_from_the_checkout(launcher):
    launcher.python("3.11")
    launcher.python("3.8")
    status, output, errors = launcher.run("test")
    assert status == 0, errors
    assert output.count("7 passed") == 2
    assert "=== today: Python 3.11" in output
    assert "=== ipu: Python 3.8" in output
    assert len(launcher.called("pip wheel")) == 1
    for line in launcher.called("pytest in "):
        assert not line.startswith(f"pytest in {launcher.root}")
        assert line.endswith(f" {launcher.root}/tests -m not slow")


def test_without_python_3_8_it_ends_with_what_was_not_tested(launcher):
    launcher.python("3.12")
    status, output, errors = launcher.run("test")
    assert status == 0, errors
    assert "7 passed" in output
    assert "IPU stack was NOT tested: no Python 3.8" in output.splitlines()[-1]


def test_without_python_3_8_continuous_integration_fails(launcher):
    launcher.python("3.12")
    status, output, _ = launcher.run("test", CI="true")
    assert status == 1
    assert "7 passed" in output
    assert "IPU stack was NOT tested" in output.splitlines()[-1]


def test_a_stack_asked_for_by_name_must_be_there(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("test", "--stack", "ipu")
    assert status == 1
    assert "no Python 3.8" in errors


def test_a_shim_that_fails_is_passed_over(launcher, tmp_path):
    executable(launcher.bin / "python3.12", "#!/usr/bin/env bash\nexit 127\n")
    launcher.python("3.12", folder=tmp_path / "later")
    path = f"{launcher.bin}{os.pathsep}{tmp_path / 'later'}"
    assert launcher.run("test", "--stack", "today", PATH=path)[0] == 0


def test_a_python_of_pyenv_is_found_outside_of_path(launcher, tmp_path):
    launcher.python("3.8", folder=tmp_path / "home/.pyenv/versions/3.8.18/bin", name="python")
    assert launcher.run("test", "--stack", "ipu")[0] == 0


def test_a_python_that_cannot_make_environments_is_named_with_the_remedy(launcher):
    launcher.python("3.11", state="part")
    status, _, errors = launcher.run("test", "--stack", "today")
    assert status == 1
    assert f"{launcher.bin}/python3.11 lacks venv or ensurepip" in errors
    assert "apt install python3.11-venv" in errors


def test_a_machine_without_tensorflow_2_6_is_told(launcher):
    launcher.python("3.12")
    launcher.python("3.8", machine="arm64")
    status, output, _ = launcher.run("test")
    assert status == 0
    assert "NOT tested: TensorFlow 2.6 exists for x86-64 only" in output.splitlines()[-1]


@pytest.mark.parametrize("named", ["/nowhere/python", "3.8"])
def test_a_python_named_by_hand_must_suit(launcher, named):
    wrong = str(launcher.python(named)) if named == "3.8" else named
    launcher.python("3.12")
    status, _, errors = launcher.run("test", "--stack", "today", RBD_PYTHON_TODAY=wrong)
    assert status == 1
    assert f"RBD_PYTHON_TODAY={wrong}" in errors
    assert "3.11 or 3.12" in errors


def test_an_environment_is_made_once_and_again_when_setup_py_changes(launcher):
    launcher.python("3.12")
    for text, made in (("1", True), ("1", False), ("2", True), ("2", False)):
        (launcher.root / "setup.py").write_text(text, encoding="utf-8")
        before = len(launcher.called("-m venv"))
        status, _, errors = launcher.run("lint")
        assert status == 0, errors
        assert len(launcher.called("-m venv")) - before == made
        assert ("making .venv/today" in errors) == made


def test_an_environment_that_does_not_run_is_made_again(launcher):
    launcher.python("3.12")
    assert launcher.run("lint")[0] == 0
    (launcher.root / ".venv/today/bin/python").unlink()
    assert launcher.run("lint")[0] == 0
    assert len(launcher.called("-m venv")) == 2


def test_a_failed_installation_shows_its_step_and_log_and_is_made_again(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("lint", PIP_ERROR="no route to the index")
    assert status == 1
    assert "no route to the index" in errors
    assert "installing the requirements" in errors.splitlines()[-1]
    assert str(launcher.root / ".venv/today.log") in errors.splitlines()[-1]
    assert launcher.run("lint")[0] == 0
    assert len(launcher.called("-m venv")) == 2


def test_two_at_once_make_one_environment(launcher):
    launcher.python("3.12")
    first = launcher.start("lint", PIP_SECONDS="2")
    deadline = time.monotonic() + 30
    while not launcher.called("pip install") and time.monotonic() < deadline:
        time.sleep(0.05)
    status, _, errors = launcher.run("lint")
    first.communicate(timeout=60)
    assert (first.returncode, status) == (0, 0)
    assert "waiting for it to end" in errors
    assert len(launcher.called("-m venv")) == 1


@pytest.mark.parametrize(("options", "runs"), [([], 1), (["--keep-going"], 2)])
def test_a_failing_stack_fails_the_run(launcher, options, runs):
    launcher.python("3.12")
    launcher.python("3.8")
    status, _, _ = launcher.run("test", *options, PYTEST_STATUS="1")
    assert status == 1
    assert len(launcher.called("pytest in ")) == runs


def test_files_are_named_from_where_the_caller_stands(launcher):
    launcher.python("3.12")
    (launcher.root / "tests/test_one.py").touch()
    arguments = ("test", "--stack=today", "test_one.py::test_a[x]", "-k", "test_one.py", "--lf")
    status, _, errors = launcher.run(*arguments, cwd=launcher.root / "tests")
    assert status == 0, errors
    (line,) = launcher.called("pytest in ")
    assert line.endswith(f" {launcher.root}/tests/test_one.py::test_a[x] -k test_one.py --lf -m not slow")


@pytest.mark.parametrize(
    ("options", "marks"), [([], ["not slow"]), (["--slow"], []), (["-m", "slow"], ["slow"]), (["-m", "ipu"], ["ipu"])]
)
def test_long_tests_are_for_those_who_ask(launcher, options, marks):
    launcher.python("3.12")
    assert launcher.run("test", "--stack", "today", *options)[0] == 0
    (line,) = launcher.called("pytest in ")
    assert re.findall("-m ([a-z ]+)", line.replace(f" {launcher.root}/tests", "")) == marks


@pytest.mark.parametrize("with_git", [False, True])
def test_the_wheel_is_built_without_what_lies_around(launcher, with_git):
    launcher.python("3.12")
    for name in ("build", "dist", "kept"):
        (launcher.root / name).mkdir()
        (launcher.root / name / "a file").touch()
    (launcher.root / ".gitignore").write_text(".venv/\n/build/\n/dist/\n", encoding="utf-8")
    if with_git:
        if shutil.which("git") is None:
            pytest.skip("no git")
        subprocess.run(["git", "init", "-q", str(launcher.root)], check=True)
    status, _, errors = launcher.run("test", "--stack", "today")
    assert status == 0, errors
    copied = set((launcher.fakes / "sources").read_text(encoding="utf-8").split())
    assert {"kept", "setup.py"} <= copied
    assert not {"build", "dist", ".venv", ".git"} & copied


@pytest.mark.parametrize(("minimum", "expected"), [(7, 0), (8, 1)])
def test_ci_fails_where_fewer_tests_pass_than_the_minimum(launcher, minimum, expected):
    launcher.python("3.12")
    launcher.python("3.8")
    (launcher.root / ".ci/minimum-tests").write_text(f"today 7\nipu {minimum}\n", encoding="utf-8")
    status, output, errors = launcher.run("ci", CI="true")
    assert status == expected, errors
    assert f"ipu: 7 tests passed, at least {minimum} are expected" in output
    assert "rbd_ipu -m rbd_ipu demo" in output


def test_bench_says_that_there_is_none(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("bench")
    assert status == 1
    assert "no command bench" in errors
