"""``rbd-ipu bench`` from its words to its files."""

import json
import os
from pathlib import Path

import pytest

from rbd_ipu.cli import main
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.bench import report, team
from rbd_ipu.lab.bench.runners import WORKLOADS, Case, Choices, grid
from rbd_ipu.lab.bench.team import Team, TeamSteps
from rbd_ipu.process import divided, usable

SMALL = ["--networks", "fc-digits", "--rounds", "2", "--seconds", "0.01", "--sources", "counter"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nothing_is_measured(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured something before the choices were checked")

    monkeypatch.setattr(report, "measure", refuse)


def _refused(capsys, *words):
    try:
        status = main(["bench", *words])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and not captured.out
    return captured.err


# --- cases -------------------------------------------------------------------------------------------


def _grid(**choices):
    blank = {"networks": ["fc-digits"], "methods": ["rbd"], "distributions": ["normal"], "sources": ["counter"]}
    return grid(Choices(**{**blank, "compartments": ["global"], **choices}))


def test_the_grid_has_every_sensible_combination_once_and_plain_sgd_for_every_network():
    cases = _grid(
        networks=["fc-digits", "cnn-mnist"],
        methods=["sgd", "rbd", "fpd"],
        distributions=["normal", "uniform"],
        dims=[10, 20, 10],
    )
    assert len(cases) == len(set(cases)) == 2 * (1 + 2 * 2 * 2)
    assert cases[0] == Case("fc-digits", "sgd")
    assert {case.dim for case in cases if case.method == "fpd"} == {10, 20}


def test_factor_compartments_fix_the_number_of_directions():
    cases = _grid(compartments=["global", "factor:50"], dims=[10, 20])
    assert [case.dim for case in cases] == [None, 10, 20, None]
    with pytest.raises(ConfigError, match="--dims 10: nothing takes them"):
        _grid(compartments=["factor:50"], dims=[10])


def test_the_source_auto_is_told_by_its_own_name():
    assert {case.source for case in _grid(sources=["auto", "counter"], dims=[4])} <= {None, "native", "counter"}


# --- words that are refused, before anything is measured ---------------------------------------------


@pytest.mark.usefixtures("nothing_is_measured")
@pytest.mark.parametrize(
    "words, reason",
    [
        (["--networks", "resnet"], "--networks: unknown network 'resnet'; accepted: 'fc-digits'"),
        (["--methods", "sgd,adam"], "--methods: unknown method 'adam'; accepted: '"),
        (["--distributions", "cauchy"], "--distributions: unknown distribution 'cauchy'; accepted: 'normal'"),
        (["--sources", "dice"], "--sources: unknown source 'dice'; accepted: 'auto'"),
        (["--compartments", "odd:3"], "--compartments: unknown compartment scheme 'odd:3'; accepted: 'global'"),
        (["--methods", "sgd", "--dims", "10"], "--dims 10: nothing takes them"),
        (["--dims", "0"], "argument --dims: must be an integer from 1, not '0'"),
        (["--dims", "10,x"], "argument --dims: must be an integer from 1, not 'x'"),
        (["--rounds", "0"], "argument --rounds: must be an integer from 1, not '0'"),
        (["--batch-size", "2.5"], "argument --batch-size: must be an integer from 1, not '2.5'"),
        (["--seconds", "nan"], "argument --seconds: must be a number above 0, not 'nan'"),
        (["--methods", "sgd,,rbd"], "argument --methods: must be names separated by commas"),
        (["--preset", "all"], "argument --preset: invalid choice: 'all'"),
        (["--preset", "targets", "--dims", "10", "--keras"], "leave out --dims, --keras"),
        (["--output", "nowhere/a.json"], "--output nowhere/a.json: there is no folder nowhere"),
        (["--networks", "fc-digits", "--dims", "3,99999", "--distributions", "hadamard"], "d=99,999 hadamard"),
        (["--networks", "fc-digits", "--dims", "3", "--compartments", "even:4"], "d=3 normal"),
    ],
)
def test_choices_that_are_refused(capsys, words, reason):
    assert reason in _refused(capsys, *words)


@pytest.mark.usefixtures("nothing_is_measured")
def test_files_that_are_there_are_not_written_over(capsys, tmp_path):
    (tmp_path / "a.json").write_text("mine")
    assert "a.json: there is one already" in _refused(capsys, "--output", "a.json")
    assert (tmp_path / "a.json").read_text() == "mine"


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_picture_needs_matplotlib(capsys, monkeypatch):
    monkeypatch.setattr("rbd_ipu.files.installed", lambda package: False)
    assert 'pip install "rbd-ipu[plots]"' in _refused(capsys, "--plot", "a.png")


# --- a measurement -----------------------------------------------------------------------------------


def test_a_measurement_from_words_to_files(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    words = ["bench", *SMALL, "--dims", "4,8", "--keras", "--output", "a.json", "--plot", "a.png"]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["command"].split() == ["rbd-ipu", *words]
    assert {"machine", "versions", "commit", "modified", "threads", "load_average", "note"} <= set(document)
    rows = document["rows"]
    assert [(row["method"], row["dim"]) for row in rows if row["loop"] == "trainer"] == [
        ("sgd", None),
        ("rbd", 4),
        ("rbd", 8),
    ]
    assert all(len(row["round_ms"]) == 2 and row["ms"] > 0 and row["steps_a_round"] >= 3 for row in rows)
    assert all(row["ratio_to_sgd"] > 0 for row in rows) and rows[0]["ratio_to_sgd"] == 1.0
    for row in rows[1:3]:
        assert row["samples_per_step"] == row["dim"] * 9610
        assert row["samples_per_second"] == pytest.approx(row["samples_per_step"] / row["ms"] * 1e3)
        assert row["share_of_ceiling"] == pytest.approx(row["samples_per_second"] / row["ceiling"])
    assert document["ceilings"] and any("by Keras" not in line and "Keras fit" in line for line in printed)
    assert len(printed) == 2 + 1 + len(rows)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_writes_what_was_measured(capsys, tmp_path, monkeypatch):
    real = report.measure

    def stopped(runners, rounds, seconds, tell):
        return real(runners, 1, seconds, tell)._replace(complete=False)

    monkeypatch.setattr(report, "measure", stopped)
    monkeypatch.setattr(report, "add_memory", lambda *arguments: pytest.fail("went on after Ctrl-C"))
    assert main(["bench", *SMALL, "--methods", "sgd", "--memory", "--output", "a.json"]) == 130
    assert "interrupted by Ctrl-C after 1 rounds" in capsys.readouterr().err
    assert json.loads((tmp_path / "a.json").read_text())["rounds"] == 1


def test_the_preset_prints_its_verdicts_and_a_missed_target_is_an_exit_status(capsys, tmp_path, monkeypatch):
    from rbd_ipu.lab.bench import report as targets

    small = [Case("fc-digits", "rbd", 8, "hadamard", "counter", "global"), Case("fc-digits", "sgd")]
    easy = targets.Target(small[0], targets.TIMES_SGD, 1e9)
    monkeypatch.setattr(targets, "TARGETS", [easy])
    words = ["bench", "--preset", "targets", "--rounds", "1", "--seconds", "0.01"]
    assert main([*words, "--output", "a.json"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("fc-digits rbd d=8 hadamard counter") and line.endswith("yes")
    (verdict,) = json.loads((tmp_path / "a.json").read_text())["targets"]
    assert verdict["met"] is True and verdict["measured"] > 0

    monkeypatch.setattr(targets, "TARGETS", [easy._replace(limit=1e-9)])
    assert main(words) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("NO")


def test_peak_memory_is_measured_on_request(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(report, "peak_of", lambda case: asked.append(case) or 100.0 + 10 * len(asked))
    assert main(["bench", *SMALL, "--dims", "4", "--memory", "--output", "a.json"]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [case.method for case in asked] == ["sgd", "rbd"]
    assert [row["peak_mb_over_sgd"] for row in rows] == [0.0, 10.0]


# --- the picture -------------------------------------------------------------------------------------


def test_the_networks_are_those_of_the_paper():
    from rbd_ipu.models import NETWORKS

    assert {network for network, _ in WORKLOADS.values()} <= set(NETWORKS)


def test_speeds_of_others_are_drawn_only_beside_the_same_case():
    def labels(network, dim, batch_size):
        case = Case(network, "rbd", dim, "normal", "native", "global", batch_size)
        rows = [{**c._asdict(), "d": c.dim, "ms": 100.0} for c in (case, case._replace(dim=250), case.baseline)]
        return {line.name: list(zip(line.x, line.y)) for line in report.panel(network, rows).lines}

    drawn = labels("cnn-cifar10", 10_000, 32)
    assert drawn["normal native"] == [(250, 100), (10_000, 100)]
    assert drawn["paper, one IPU"] == [(10_000, pytest.approx(1032.26, abs=0.01))]
    assert drawn["original code, 4-core CPU"] == [(10_000, 16_000)]
    assert drawn["plain SGD"] == [(250, 100), (10_000, 100)]
    for other in (("cnn-mnist", 10_000, 32), ("cnn-cifar10", 1000, 32), ("cnn-cifar10", 10_000, 16)):
        assert set(labels(*other)) == {"normal native", "plain SGD"}


# --- teams of processes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_teams_take_turns_and_are_compared_with_one_worker(capsys):
    words = ["--workers", "1,2", "--methods", "sgd,rbd", "--dims", "8", "--exchanges", "coordinates,update"]
    assert main(["bench", *SMALL, *words, "--output", "teams.json"]) == 0
    document = json.loads(Path("teams.json").read_text())
    teams = [(row["method"], row["workers"], row["used"]) for row in document["rows"]]
    assert teams == [
        ("sgd", 1, "auto"),
        ("sgd", 2, "update"),
        ("rbd", 1, "auto"),
        ("rbd", 2, "coordinates"),
        ("rbd", 2, "update"),
    ]
    for row in document["rows"]:
        assert len(row["round_ms"]) == 2
        assert row["images_per_second"] == pytest.approx(32 * row["workers"] / row["ms"] * 1e3)
        assert row["times"] == 1 if row["workers"] == 1 else row["times"] > 0
        assert (row["exchange_ms"] is None) == (row["workers"] == 1)
    assert "coordinates" in capsys.readouterr().out


def test_a_small_team_spends_its_turn_on_each_share_of_the_cores():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not bind processes to cores")
    shares = divided(usable(), 2)
    with TeamSteps(Case("fc-digits", "sgd"), Team(1, 2)) as alone:
        seen = []
        for steps in (1, 5):
            alone.run(steps)
            worker = alone._ranks.processes[0]
            seen.append([sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir(f"/proc/{worker}/task")])
        assert [part["seconds"] > 0 for part in alone.turns] == [True, True]
    assert all(cores == shares[1] for threads in seen for cores in threads)  # where the turn ends
    orders = []
    alone._part = lambda place, steps: orders.append((place, steps)) or {"seconds": 0.5, "note": ""}
    assert alone.run(5) == 1.0 and orders == [(0, 2), (1, 3)]


def test_a_team_that_fails_says_why(monkeypatch):
    monkeypatch.setenv("RBD_NUM_THREADS", "none")
    with pytest.raises(ConfigError, match="(?s)with 1 workers: .*RBD_NUM_THREADS must be an integer"):
        team.measured([team.Pair(Case("fc-digits", "rbd", dim=8), Team(1, 1))], 1, 0.01, print)
