"""`rbd-ipu devices`: what it prints, what it refuses, with which exit status."""

import json
from pathlib import Path

import pytest

from rbd_ipu.cli import main
from rbd_ipu.devices.ipu import sdk_record

CONFIGS = Path(__file__).resolve().parents[2] / "ipu_configs"


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def run(capsys, *words):
    status = main(["devices", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="no ipu_configs beside the tests")
def test_the_files_of_the_project_are_valid(capsys):
    files = sorted(map(str, CONFIGS.glob("*.yaml")))
    status, out, err = run(capsys, "check", *files)
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if line.endswith(": valid")] == [f"{file}: valid" for file in files]
    assert run(capsys, "check", "--quiet", *files) == (0, "", "")


def test_what_would_be_set_is_a_table(capsys, write):
    text = (
        "device: ipu\nreplicas: 16\nexecutable_cache: /cache\npoplar_flags: {max_compilation_threads: 4}\n"
        'options: {matmuls.poplar_options: {partialsType: "half"}}'
    )
    status, out, _ = run(capsys, "check", write("pod.yaml", text))
    assert status == 0
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "16 = 16 (replicas) x 1" in rows["IPUs"]
    assert rows["TF_POPLAR_FLAGS"].endswith("--executable_cache_path=/cache --max_compilation_threads=4")
    assert rows["auto_select_ipus"].split() == [
        *("auto_select_ipus", "16", "[]", "replicas", "and", "ipus_per_replica")
    ]
    assert json.dumps({"partialsType": "half"}) in rows["matmuls.poplar_options"]
    assert rows["matmuls.poplar_options"].split()[-2:] == ["{}", "options"]
    assert "B = 125 at D = 101,770, d = 250: 35 KB a tile" in out
    # Nothing is said to be set that the record does not know.
    table = out[out.index("IPUConfig") :].splitlines()[1:]
    assert {line.split()[0] for line in table if line} <= set(sdk_record.options()["options"])


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("device: ipu\nemulator: true", "cannot validate random subspaces"),
        ("device: ipu\nconnection: pre_compile\nexecutable_cache: /c", "the results are zeros"),
        ("device: ipu\nreplicas: 2\ninstances: 2", "start it by scripts/poprun.sh"),
        ("device: ipu\nreplicas: 4\noptions: {select_ipus: 24}", "has 4 IPUs shows on the machine only"),
        ("device: ipu\noptions: {optimizations.enable_fast_math: true}", "use optimizations.math.fast"),
    ],
)
def test_what_the_user_should_know_is_noted(capsys, write, text, note):
    status, out, _ = run(capsys, "check", write("a.yaml", text))
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert status == 0 and len(notes) == 1 and note in notes[0]


def test_an_option_that_another_one_decides_is_said(capsys, write):
    status, out, _ = run(capsys, "check", write("a.yaml", "device: ipu\noptions: {io_tiles.num_io_tiles: 32}"))
    (row,) = [line for line in out.splitlines() if "place_ops_on_io_tiles" in line]
    assert status == 0
    assert row.split() == ["io_tiles.place_ops_on_io_tiles", "true", "false", "io_tiles.num_io_tiles"]


def test_a_wrong_file_is_named_with_its_key_and_what_is_accepted(capsys, write):
    path = write("wrong.yaml", "device: ipu\noptions: {floating_point_behaviour.esr: true}")
    status, out, err = run(capsys, "check", path)
    assert (status, out) == (2, "")
    assert err == (
        f"rbd-ipu: error: {path}: options: floating_point_behaviour.esr: must be one of OFF, ON, "
        "REPLICA_IDENTICAL_ONLY, not True\n"
    )


def test_every_file_is_checked_whatever_comes_before_it(capsys, write):
    good, bad = write("good.yaml", "device: cpu"), write("bad.yaml", "device: ipu\nreplicas: 3")
    status, out, err = run(capsys, "check", bad, good, f"{bad}.missing")
    assert status == 2 and f"{good}: valid" in out
    lines = err.splitlines()
    assert len(lines) == 2 and f"{bad}: replicas: 3 IPUs" in lines[0] and "cannot be read" in lines[1]


def test_the_counts_for_poprun(capsys, write):
    path = write("pod.yaml", "device: ipu\nreplicas: 64\ninstances: 4")
    assert run(capsys, "poprun", path) == (0, "--num-instances=4\n--num-replicas=64\n--ipus-per-replica=1\n", "")


@pytest.mark.parametrize("text", ["device: cpu", "device: ipu\nemulator: true", "device: ipu\nreplicas: 3"])
def test_poprun_is_refused_what_it_cannot_start(capsys, write, text):
    path = write("other.yaml", text)
    status, out, err = run(capsys, "poprun", path)
    assert (status, out) == (2, "") and err.startswith(f"rbd-ipu: error: {path}: ") and err.count(path) == 1


@pytest.mark.parametrize("words", [[], ["chek"], ["check"], ["poprun"], ["check", "--quite", "a.yaml"]])
def test_wrong_words_are_refused(capsys, words):
    with pytest.raises(SystemExit) as raised:
        main(["devices", *words])
    assert raised.value.code == 2 and "usage: rbd-ipu" in capsys.readouterr().err
