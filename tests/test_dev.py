"""The launcher ./dev, with stand-ins for uv and for the Pythons and without a network.

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
COMMANDS = ("demo", "test", "lint", "format", "bench", "docs", "ci", "help")
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "rbd_ipu")
TOOLS = ("bash", "cat", "cksum", "cp", "dirname", "env", "ls", "mkdir", "mktemp", "mv", "nproc", "getconf")
TOOLS += ("find", "rm", "sed", "sleep", "touch", "tr", "wc", "xargs")

pytestmark = [
    pytest.mark.skipif(not (CHECKOUT / "dev").is_file(), reason="no ./dev beside the tests"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="no bash"),
]

# Finds the stand-ins below, makes environments of them and installs nothing.
FAKE_UV = """#!/usr/bin/env bash
echo "uv $*" >>"$CALLS"
case "$*" in
  "python find --system "*)
    case "$4" in
      '>=3.10,<3.14') versions='3.10 3.11 3.12 3.13' ;;
      cpython-3.8-any-x86_64-any) versions=3.8 ;;
      *) [ -x "$4" ] && echo "$4" && exit ;;
    esac
    for version in ${versions:-}; do type -P "python$version" && exit; done
    exit 2 ;;
  "venv "*)
    while [ "$1" != --python ]; do shift; done
    mkdir -p "$3/bin"
    cp "$2" "$3/bin/python"
    for tool in pytest ruff mypy lint-imports shellcheck mkdocs; do cp "$FAKES/tool" "$3/bin/$tool"; done ;;
  "pip install "*)
    env | while read -r line; do
      case "$line" in UV_*INDEX* | UV_FIND_LINKS* | SSL_CERT_FILE*) echo "$line" >>"$CALLS" ;; esac
    done
    ls -A "$TMPDIR"/rbd-dev.*/sources >"$FAKES/sources"
    sleep "${PIP_SECONDS:-0}"
    if [ -n "${PIP_ERROR:-}" ]; then echo "$PIP_ERROR" >&2 && exit 1; fi ;;
esac
"""

# Answers like Python {version}; what it cannot answer is left to the Python that runs the tests.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "{version} $*" >>"$CALLS"
case "$*" in
  -V) echo "Python {version}.0" ;;
  "-m rbd_ipu "*) echo "rbd_ipu of $PYTHONPATH: $*" ;;
  "-m venv "*) [ -z "${{NO_VENV:-}}" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip config list") cat "$FAKES/pip-settings" 2>/dev/null ;;
  "-m pip install uv") cp "$FAKES/uv" "${{0%/*}}/uv" ;;
  "-m pip install "*" uv") [ -z "${{NO_PIP:-}}" ] && mkdir -p "$6/bin" && cp "$FAKES/uv" "$6/bin/uv" ;;
  *) exec "{real}" "$@" ;;
esac
"""

FAKE_TOOL = """#!/usr/bin/env bash
echo "${0##*/} in $PWD: $*" >>"$CALLS"
case "${0##*/}" in
  pytest) echo "7 passed" && exit "${PYTEST_STATUS:-0}" ;;
  mypy) exit "${MYPY_STATUS:-0}" ;;
esac
"""


class Launcher:
    """A checkout with ./dev in it, on a machine with the Pythons that a test gives it."""

    def __init__(self, folder: Path):
        self.root, self.bin, self.fakes = folder / "checkout", folder / "bin", folder / "fakes"
        self.calls = self.fakes / "calls"
        folders = [self.root / name for name in ("tests", "scripts", "requirements", ".ci", "rbd_ipu")]
        for path in (*folders, self.bin, self.fakes, folder / "home"):
            path.mkdir(parents=True)
        for name in ("dev", "scripts/uv.sh"):
            shutil.copy(str(CHECKOUT / name), str(self.root / name))
        for name in (*SOURCES[:-1], "requirements/ipu-stack.txt"):
            (self.root / name).touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found is not None:
                (self.bin / tool).symlink_to(found)
        executable(self.fakes / "uv", FAKE_UV)
        executable(self.fakes / "tool", FAKE_TOOL)
        (self.bin / "uv").symlink_to(self.fakes / "uv")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder),
            "CALLS": str(self.calls),
            "FAKES": str(self.fakes),
        }

    def python(self, version, folder=None, name=None):
        """Install a stand-in for this version and give its path."""
        text = FAKE_PYTHON.format(version=version, real=sys.executable)
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


def test_both_stacks_are_tested_from_the_wheel_away_from_the_checkout(launcher):
    launcher.python("3.11")
    launcher.python("3.8")
    status, output, errors = launcher.run("test")
    assert status == 0, errors
    assert output.count("7 passed") == 2
    assert "=== today: Python 3.11" in output
    assert "=== ipu: Python 3.8" in output
    assert len(launcher.called("--reinstall")) == 2
    for line in launcher.called("pytest in "):
        assert not line.startswith(f"pytest in {launcher.root}")
        assert line.endswith(f" {launcher.root}/tests")


def test_without_python_3_8_it_ends_with_what_was_not_tested(launcher):
    launcher.python("3.12")
    status, output, errors = launcher.run("test")
    assert status == 0, errors
    assert "7 passed" in output
    assert "ipu stack was NOT tested: no Python 3.8" in errors.splitlines()[-1]


def test_without_python_3_8_continuous_integration_fails(launcher):
    launcher.python("3.12")
    status, output, errors = launcher.run("test", CI="true")
    assert status == 1
    assert "7 passed" in output
    assert "ipu stack was NOT tested" in errors
    assert errors.endswith("failed: ipu\n")


@pytest.mark.parametrize(("stack", "missing"), [("ipu", "no Python 3.8"), ("today", "no Python 3.10 to 3.13")])
def test_a_stack_asked_for_by_name_must_be_there(launcher, stack, missing):
    launcher.python("3.9")
    status, _, errors = launcher.run("test", "--stack", stack)
    assert status == 1
    assert missing in errors


def test_a_python_of_pyenv_is_found_outside_of_path(launcher, tmp_path):
    launcher.python("3.8", folder=tmp_path / "home/.pyenv/versions/3.8.18/bin")
    assert launcher.run("test", "--stack", "ipu")[0] == 0


@pytest.mark.parametrize("named", ["/nowhere/python", "3.8"])
def test_a_python_named_by_hand_must_suit(launcher, named):
    wrong = str(launcher.python(named)) if named == "3.8" else named
    launcher.python("3.12")
    status, _, errors = launcher.run("test", RBD_PYTHON_TODAY=wrong)
    assert status == 1
    assert f"RBD_PYTHON_TODAY={wrong}" in errors
    assert "3.10 to 3.13" in errors


def test_a_python_named_by_hand_is_taken(launcher, tmp_path):
    launcher.python("3.12")
    named = str(launcher.python("3.13", folder=tmp_path / "elsewhere", name="python"))
    status, output, errors = launcher.run("test", "--stack", "today", RBD_PYTHON_TODAY=named)
    assert status == 0, errors
    assert "=== today: Python 3.13" in output


def test_uv_is_installed_once_where_there_is_none(launcher):
    without_uv(launcher)
    for installed in (True, False):
        status, _, errors = launcher.run("lint")
        assert status == 0, errors
        assert ("installing uv" in errors) == installed
    assert os.access(str(launcher.root / ".venv/uv/bin/uv"), os.X_OK)


def test_uv_is_installed_with_pip_alone(launcher):
    without_uv(launcher)
    status, _, errors = launcher.run("lint", NO_VENV="1")
    assert status == 0, errors


def test_without_venv_and_pip_it_says_what_uv_needs(launcher):
    without_uv(launcher)
    status, _, errors = launcher.run("lint", NO_VENV="1", NO_PIP="1")
    assert status == 1
    assert "python3 with venv or pip" in errors


def without_uv(launcher):
    # What a shim of pyenv does whose Python is not the current one.
    (launcher.bin / "uv").unlink()
    executable(launcher.bin / "uv", "#!/usr/bin/env bash\nexit 127\n")
    launcher.python("3.12")
    launcher.python("3.12", name="python3")


def test_packages_come_from_where_pip_finds_them(launcher):
    launcher.python("3.12")
    launcher.python("3.12", name="python3")
    (launcher.fakes / "pip-settings").write_text(
        ":env:.find-links='/wheels /more'\n"
        "global.cert='/certificates.pem'\n"
        "global.extra-index-url='file:///one\\nfile:///two'\n"
        "global.find-links='/unused'\n"
        "global.index-url='https://index.invalid/simple'\n",
        encoding="utf-8",
    )
    assert launcher.run("lint", UV_INDEX_STRATEGY="first-index")[0] == 0
    assert launcher.called("UV_DEFAULT_INDEX=") == ["UV_DEFAULT_INDEX=https://index.invalid/simple"]
    assert launcher.called("UV_INDEX=") == ["UV_INDEX=file:///one file:///two"]
    assert launcher.called("UV_INDEX_STRATEGY=") == ["UV_INDEX_STRATEGY=first-index"]
    assert launcher.called("UV_FIND_LINKS=") == ["UV_FIND_LINKS=/wheels,/more"]
    assert launcher.called("SSL_CERT_FILE=") == ["SSL_CERT_FILE=/certificates.pem"]


def test_an_environment_is_made_once_and_again_when_setup_py_or_the_pins_change(launcher):
    launcher.python("3.8")
    pins = launcher.root / "requirements/ipu-stack.txt"
    for changed, made in ((pins, 1), (None, 1), (launcher.root / "setup.py", 2), (pins, 3)):
        if changed is not None:
            changed.write_text(str(made), encoding="utf-8")
        status, _, errors = launcher.run("demo")
        assert status == 0, errors
        assert len(launcher.called("uv venv")) == made
    assert len(launcher.called(f"-c {pins}")) == 3


def test_an_environment_that_does_not_run_is_made_again(launcher):
    launcher.python("3.12")
    assert launcher.run("lint")[0] == 0
    (launcher.root / ".venv/today/bin/python").unlink()
    assert launcher.run("lint")[0] == 0
    assert len(launcher.called("uv venv")) == 2


def test_a_failed_installation_says_why_and_is_made_again(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("lint", PIP_ERROR="no route to the index")
    assert status == 1
    assert "no route to the index" in errors
    assert "making .venv/today failed" in errors.splitlines()[-1]
    assert launcher.run("lint")[0] == 0
    assert len(launcher.called("uv venv")) == 2


def test_two_at_once_make_one_environment(launcher):
    launcher.python("3.12")
    first = launcher.start("lint", PIP_SECONDS="0.7")
    deadline = time.monotonic() + 30
    while not launcher.called("uv pip install") and time.monotonic() < deadline:
        time.sleep(0.02)
    status, _, errors = launcher.run("lint")
    first.communicate(timeout=60)
    assert (first.returncode, status) == (0, 0)
    assert "waiting for it to end" in errors
    assert len(launcher.called("uv venv")) == 1


@pytest.mark.parametrize(("options", "runs"), [([], 1), (["--keep-going"], 2)])
def test_a_failing_stack_fails_the_run(launcher, options, runs):
    launcher.python("3.12")
    launcher.python("3.8")
    status, _, errors = launcher.run("test", *options, PYTEST_STATUS="1")
    assert status == 1
    assert "failed: today" in errors
    assert len(launcher.called("pytest in ")) == runs


def test_files_are_named_from_where_the_caller_stands(launcher):
    launcher.python("3.12")
    (launcher.root / "tests/test_one.py").touch()
    arguments = ("test", "--stack=today", "test_one.py::test_a[x]", "-k", "test_one.py", "--slow", "-m", "ipu")
    status, _, errors = launcher.run(*arguments, cwd=launcher.root / "tests")
    assert status == 0, errors
    (line,) = launcher.called("pytest in ")
    assert line.endswith(f" {launcher.root}/tests/test_one.py::test_a[x] -k test_one.py --slow -m ipu")


def test_the_wheel_is_built_without_what_lies_around(launcher):
    launcher.python("3.12")
    for name in ("build", "dist", "rbd_ipu.egg-info"):
        (launcher.root / name).mkdir()
    status, _, errors = launcher.run("test", "--stack", "today")
    assert status == 0, errors
    assert set((launcher.fakes / "sources").read_text(encoding="utf-8").split()) == set(SOURCES)


def test_lint_goes_on_and_names_what_failed(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("lint", MYPY_STATUS="1")
    assert status == 1
    assert errors.splitlines()[-1] == "dev: failed: mypy"
    assert launcher.called("shellcheck in ")


def test_the_documentation_needs_its_settings(launcher):
    launcher.python("3.12")
    status, _, errors = launcher.run("docs")
    assert status == 1
    assert "no mkdocs.yml" in errors
    (launcher.root / "mkdocs.yml").touch()
    assert launcher.run("docs")[0] == 0
    assert launcher.called("mkdocs in ") == [f"mkdocs in {launcher.root}: build --strict"]


def test_ci_does_everything_and_names_all_that_failed(launcher):
    launcher.python("3.12")
    launcher.python("3.8")
    (launcher.root / ".ci/minimum-tests").write_text("today 7\nipu 8\n", encoding="utf-8")
    (launcher.root / "mkdocs.yml").touch()
    status, output, errors = launcher.run("ci", CI="true", MYPY_STATUS="1", PYTEST_STATUS="1")
    assert status == 1
    assert [re.findall("--minimum ([0-9]+)", line) for line in launcher.called("--minimum")] == [["7"], ["8"]]
    assert launcher.called("mkdocs in ")
    assert f"rbd_ipu of {launcher.root}: -m rbd_ipu demo --quick" in output
    last = errors.splitlines()[-1]
    assert all(name in last for name in ("dev lint", "--stack today", "--stack ipu"))
    assert "demo" not in last and "docs" not in last


SUITE = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_short(number):
    if number == 2:
        pytest.skip()

@pytest.mark.slow
def test_long():
    pass
"""


@pytest.mark.parametrize(("options", "status", "passed"), [(["-n", "1"], 0, 2), (["--slow", "-k", "long"], 1, 1)])
def test_fewer_tests_than_the_minimum_fail_and_long_ones_are_for_those_who_ask(tmp_path, options, status, passed):
    shutil.copy(str(CHECKOUT / "tests/conftest.py"), str(tmp_path / "conftest.py"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: long\n", encoding="utf-8")
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--minimum", "2", *options],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert f"{passed} tests passed, at least 2 are expected" in done.stdout
