"""The scripts that start a run on a POD, and the image: what they would run, and what they refuse."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rbd_ipu
from rbd_ipu.devices.ipu import description, popdist

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS, CONFIGS, DOCKERFILE = CHECKOUT / "scripts", CHECKOUT / "ipu_configs", CHECKOUT / "Dockerfile.poplar"
PODS = ("pod4", "pod16", "pod64")
SERVER = {"IPUOF_VIPU_API_HOST": "10.1.3.1", "IPUOF_VIPU_API_PARTITION_ID": "mine"}
HOSTS = {"RBD_HOSTS": "host0,host1", "RBD_NETWORK": "10.1.3.0/24"}

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
    pytest.mark.skipif(not (SCRIPTS / "poprun.sh").is_file(), reason="no scripts beside the tests"),
]


@pytest.fixture
def machine(tmp_path):
    """Runs a script where `rbd-ipu devices poprun` answers at once, without TensorFlow."""

    def run(script, *words, counts=(4, 64, 1), poprun="", **variables):
        python = tmp_path / "python stand-in"
        names = ("num-instances", "num-replicas", "ipus-per-replica")
        answer = "\n".join(f"--{name}={count}" for name, count in zip(names, counts))
        question = '[ "$*" = "-m rbd_ipu devices poprun $CONFIG" ] || exit 9'
        python.write_text(f"#!/bin/sh\n{question}\ncat <<END\n{answer}\nEND\n", encoding="utf-8")
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if poprun:
            (folder / "poprun").write_text(f"#!/bin/sh\n{poprun}\n", encoding="utf-8")
            (folder / "poprun").chmod(0o755)
        python.chmod(0o755)
        config = variables.get("RBD_CONFIG", str(CONFIGS / f"{script}.yaml"))
        environment = {
            "PATH": f"{folder}:{os.defpath}:/usr/local/bin",
            "RBD_PYTHON": str(python),
            "CONFIG": config if script in PODS else words[0] if words else "",
            **variables,
        }
        command = ["bash", str(SCRIPTS / f"{script}.sh"), *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=str(tmp_path)
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("name", PODS)
def test_a_dry_run_prints_the_whole_command(machine, name):
    status, out, err = machine(name, "--dry-run", "--set", "dataset=mnist", "--output", "my runs", **SERVER)
    assert (status, err) == (0, "")
    words = shlex.split(out)
    assert words[:4] == ["poprun", "--num-instances=4", "--num-replicas=64", "--ipus-per-replica=1"]
    train = words.index("train")
    assert words[train - 2 : train] == ["-m", "rbd_ipu"] and words[train - 3].endswith("python stand-in")
    wanted = ["--set", f"device={CONFIGS / name}.yaml", "--set", "dataset=mnist", "--output", "my runs"]
    assert words[train + 1 :] == wanted


def test_several_hosts(machine):
    status, out, _ = machine("pod64", "--dry-run", **SERVER, **HOSTS, RBD_ALLOCATION="all", TF_POPLAR_FLAGS="--x=1")
    words = shlex.split(out)
    assert status == 0
    assert not [word for word in words if word.endswith("-partition=yes") or word.endswith("-partition=no")]
    for word in (
        "--host=host0,host1",
        "--vipu-server-host=10.1.3.1",
        "--vipu-partition=mine",
        "--vipu-allocation=all",
        "--num-ilds=1",
        "--mpi-global-args=--mca oob_tcp_if_include 10.1.3.0/24 --mca btl_tcp_if_include 10.1.3.0/24",
    ):
        assert word in words
    passed = next(word for word in words if word.startswith("--mpi-local-args="))
    # Names with a value are passed on; LD_LIBRARY_PATH has none here.
    assert passed == "--mpi-local-args=-x PATH -x TF_POPLAR_FLAGS"


@pytest.mark.parametrize(
    ("script", "counts", "variables", "missing"),
    [
        ("pod64", (4, 64, 1), {}, "IPUOF_VIPU_API_HOST"),
        ("pod64", (4, 64, 1), {"IPUOF_VIPU_API_HOST": "a"}, "IPUOF_VIPU_API_PARTITION_ID"),
        ("pod16", (2, 16, 2), {}, "IPUOF_VIPU_API_HOST"),
        ("pod16", (2, 16, 1), {"RBD_HOSTS": "a,b"}, "IPUOF_VIPU_API_HOST"),
        ("pod16", (2, 16, 1), {"RBD_HOSTS": "a,b", **SERVER}, "RBD_NETWORK"),
        ("pod16", (2, 16, 1), {**HOSTS, "IPUOF_VIPU_API_HOST": "a"}, "IPUOF_VIPU_API_PARTITION_ID"),
    ],
)
def test_missing_variables_are_named(machine, script, counts, variables, missing):
    status, out, err = machine(script, "--dry-run", counts=counts, **variables)
    assert (status, out) == (2, "")
    assert err.startswith(f"poprun.sh: {missing} is not set; ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["pod4", "pod16"])
def test_one_host_needs_no_variables(machine, name):
    status, out, _ = machine(name, "--dry-run", counts=(1, 16, 1))
    assert status == 0 and "vipu" not in out and "--host" not in out


def test_another_configuration(machine, tmp_path):
    status, out, _ = machine("pod16", "--dry-run", counts=(2, 16, 1), RBD_CONFIG=str(tmp_path / "my pod.yaml"))
    assert status == 0 and f"device={tmp_path / 'my pod.yaml'}" in shlex.split(out)


def test_poprun_gets_the_words_as_they_were_given(machine):
    show = "printf '%s\\n' \"$@\""
    status, out, _ = machine("pod16", "--set", "data_dir=/my data", counts=(2, 16, 1), poprun=show)
    lines = out.splitlines()
    assert status == 0 and lines[0] == "--num-instances=2" and lines[-2:] == ["--set", "data_dir=/my data"]


def test_options_of_poprun_are_passed_through_and_replace_ours(machine):
    given = ["-vv", "--reset-partition=yes", "--num-ilds=2", "--mpi-local-args=-x MINE", "--numa-aware", "yes"]
    status, out, _ = machine("pod64", "--dry-run", *given, "--", "--set", "dataset=mnist", **SERVER)
    words = shlex.split(out)
    python = words.index("train") - 3
    assert status == 0 and words[python - len(given) : python] == given
    assert words[-2:] == ["--set", "dataset=mnist"]
    assert [word for word in words if word.startswith(("--num-ilds", "--mpi-local-args"))] == [given[2], given[3]]
    status, _, err = machine("pod64", "--dry-run", "--num-replicas=3", "--", **SERVER)
    assert status == 2 and "--num-replicas=3: the numbers are those of " in err


def test_without_poprun_the_message_names_the_sdk(machine):
    if shutil.which("poprun"):
        pytest.skip("this machine has poprun")
    status, _, err = machine("pod16", counts=(2, 16, 1))
    assert status == 2 and "there is no poprun here; source the enable scripts of the Poplar SDK" in err


def test_the_status_of_the_run_is_that_of_the_script(machine):
    assert machine("pod16", counts=(2, 16, 1), poprun="exit 3")[0] == 3


def test_help_and_a_missing_configuration(machine):
    status, out, _ = machine("poprun", "--help")
    assert status == 0 and out.startswith("usage: scripts/poprun.sh") and "IPUOF_VIPU_API_HOST" in out
    status, _, err = machine("poprun")
    assert status == 2 and "name a configuration" in err


def test_with_the_real_command_behind_it():
    """No stand-in: the counts in the command are those of the file."""
    root = str(Path(rbd_ipu.__file__).resolve().parents[1])
    environment = {**os.environ, **SERVER, "RBD_PYTHON": sys.executable, "PYTHONPATH": root}
    environment.pop("RBD_HOSTS", None)
    command = ["bash", str(SCRIPTS / "pod64.sh"), "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[1:4] == popdist.poprun_arguments(description.load(CONFIGS / "pod64.yaml"))


def test_scripts_can_be_run_and_are_clean():
    for path in sorted(SCRIPTS.glob("*.sh")):
        assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
        subprocess.run(["bash", "-n", str(path)], check=True)
    _shellcheck(sorted(map(str, SCRIPTS.glob("*.sh"))))


# --- the image ----------------------------------------------------------------------------------------


def image():
    """The instructions of the Dockerfile: (NAME, text), their lines joined."""
    if not DOCKERFILE.is_file():
        pytest.skip("no Dockerfile beside the tests")
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", "")
    return [tuple(line.split(None, 1)) for line in whole.splitlines() if line.strip()]


def test_the_tag_of_the_image_is_an_argument():
    instructions = image()
    names = [name for name, _ in instructions]
    assert ("FROM", "${IMAGE}:${TAG}") in instructions and names.index("ARG") < names.index("FROM")


def test_the_image_keeps_graphcores_wheels():
    runs = [text for name, text in image() if name == "RUN"]
    installs = [part for text in runs for part in text.split(";") if "pip install" in part]
    assert len(installs) >= 3
    for install in installs:
        # Either nothing but the package itself comes, or all that is there is held.
        assert "--no-deps ." in install or "-c /tmp/held.txt" in install or install.endswith("'pip<24.1'")
        assert not re.search(r"\b(tensorflow|keras)(-cpu|-gpu)?\b(?!-datasets)", install)
    checks = " ".join(runs)
    assert "pip has changed" in checks and installs[0].endswith("'pip<24.1'")
    assert "pytest -q -m ipu" in runs[-1] and "have not run" in runs[-1]


LISTED = """keras==2.6.0-gc3.3.0-251582-a3785372
numpy==1.19.5
tensorflow==2.6.3-gc3.3.0-251580-08d96978c7f-amd-znver1
typing-extensions==3.7.4.3
"""


@pytest.mark.parametrize(
    "listed, good", [(LISTED, True), (LISTED.replace("-gc", "+gc"), True), ("keras==2.6.0", False)]
)
def test_the_image_knows_graphcores_wheels_in_pips_list(listed, good, tmp_path):
    """pip writes 2.6.3-gc3.3.0-..., the names of the wheels have +gc; what is held are the other packages."""
    (text,) = [text for name, text in image() if name == "RUN" and "kept.txt; " in text and "held" in text]
    greps = [part.strip().replace("/tmp/", f"{tmp_path}/") for part in text.split(";") if "grep" in part]
    (tmp_path / "kept.txt").write_text(listed)
    done = subprocess.run(["bash", "-euc", "\n".join(greps)], stdout=subprocess.DEVNULL)
    assert len(greps) == 3 and (done.returncode == 0) is good
    if good:
        assert (tmp_path / "held.txt").read_text() == "numpy==1.19.5\ntyping-extensions==3.7.4.3\n"


def test_the_image_copies_what_is_there():
    for name, text in image():
        if name == "COPY":
            for source in text.split()[:-1]:
                assert (CHECKOUT / source).exists(), source


def test_the_commands_of_the_image_are_clean(tmp_path):
    for number, (name, text) in enumerate(image()):
        if name == "RUN":
            path = tmp_path / f"{number}.sh"
            path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\nDATASETS=$1\n{text}\n", encoding="utf-8")
            subprocess.run(["bash", "-n", str(path)], check=True)
            _shellcheck([str(path)], "--exclude=SC2034")


def _shellcheck(paths, *options):
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if command is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([command, *options, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
