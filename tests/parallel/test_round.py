"""Real workers against one process that simulates them: every mode, method and wire, by MPI and by TF_CONFIG."""

import json

import numpy as np
import pytest
from marks import slow_but
from workers import starting
from workers.cases import APART, CASES, LEVELS, WORKERS

from rbd_ipu.parallel.cost_model import traffic
from rbd_ipu.parallel.launch import Launch
from rbd_ipu.parallel.workers import Groups

pytestmark = starting.mpi

# A few cases show that it does not matter how the workers are connected.
SOME = ("own-coordinates", "own-update", "not-finite")
# The others differ from these in one thing that a test of its own shows within one process.
QUICK = (*SOME, "shared-coordinates", "same-data-update", "split-coordinates", "method-sgd", "method-fpd",
         "method-compressed", "wire-int8", "batch-norm", "keras-metrics", "groups")  # fmt: skip


def _words(folder, names):
    return ["workers.cases", str(folder), ",".join(names)]


def _found(folder, names, workers=WORKERS):
    return {name: [json.loads((folder / f"{name}-{k}.json").read_text()) for k in range(workers)] for name in names}


@pytest.fixture(scope="session")
def outcomes(request, tmp_path_factory):
    """What came of each case, by ("mpi", "cluster", "simulated"), then by case: a list, worker by worker."""
    cases = QUICK if request.config.option.markexpr == "not slow" else CASES
    folders = {name: tmp_path_factory.mktemp(name) for name in ("mpi", "cluster", "simulated")}
    one_thread = {**starting.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    with Launch(_words(folders["mpi"], [*cases, *APART]), WORKERS, one_thread) as ranks:
        simulating = starting.module(_words(folders["simulated"], cases), one_thread)
        with starting.cluster(_words(folders["cluster"], SOME), WORKERS) as processes:
            for process in [simulating, *processes]:
                said = process.communicate(timeout=400)[1]
                assert process.returncode == 0, said
        assert ranks.wait() == [] and set(ranks.statuses.values()) == {0}
    return {
        "mpi": _found(folders["mpi"], [*cases, *APART]),
        "cluster": _found(folders["cluster"], SOME),
        "simulated": _found(folders["simulated"], cases, 1),
    }


def flat(values):
    return np.concatenate([np.ravel(value) for value in values]).astype(np.float64)


@pytest.mark.parametrize("name", slow_but(QUICK, CASES))
def test_ranks_have_the_bits_of_simulated_workers(outcomes, name):
    expected = outcomes["simulated"][name][0]
    for found in outcomes["mpi"][name]:
        assert found["weights"] == expected["weights"] and found["beside"] == expected["beside"]
        assert found["stopped"] == expected["stopped"] and found.get("loss") == expected.get("loss")
        assert found.get("metrics") == expected.get("metrics") and found["memory"] == expected["memory"]


@pytest.mark.parametrize("name", SOME)
def test_the_processes_of_a_cluster_are_the_simulated_workers(outcomes, name):
    expected = outcomes["simulated"][name][0]
    for found in outcomes["cluster"][name]:
        np.testing.assert_allclose(flat(found["weights"]), flat(expected["weights"]), atol=2e-6)
        assert found["weights"] == outcomes["cluster"][name][0]["weights"]
        assert found["stopped"] == expected["stopped"]
        if expected["stopped"] is None:
            np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)


def test_a_number_that_is_not_finite_stops_all_at_the_same_step(outcomes):
    """Worker 1 alone has met it; the message is the same everywhere, and the step is not applied."""
    stops = [found["stopped"] for kind in outcomes.values() for found in kind["not-finite"]]
    assert stops[0][0] == 3 and "not finite at step 3" in stops[0][1]
    assert all(stop == stops[0] for stop in stops)


def test_weights_that_differ_stop_all_and_name_the_worker(outcomes):
    step = 2 * (96 // 8 // WORKERS)
    stops = [found["stopped"] for found in outcomes["mpi"]["apart"]]
    assert stops == [[step, f"after step {step} the weights of workers [1] differ from those of worker 0"]] * WORKERS


@pytest.mark.parametrize("kind", ["mpi", "cluster"])
def test_a_step_sends_d_coordinates_and_four_numbers_of_report(outcomes, kind):
    found = outcomes[kind]["own-coordinates"][0]
    assert found["bytes"] == 4 * (found["d"] + 4) and found["bytes_sgd"] == 4 * found["D"]
    assert outcomes[kind]["own-update"][0]["bytes"] == 4 * (found["D"] + 4)
    assert "exchange_seconds" in found["columns"]


def test_a_narrow_wire_sends_less(outcomes):
    found = outcomes["mpi"]["wire-int8"][0]
    assert found["bytes"] == found["d"] + 4 + 16


def test_a_leader_and_its_group_send_one_message_each(outcomes):
    """K = G = 2: the message of worker 1 goes up, that of the leader comes down, each with the report."""
    for found in outcomes["mpi"]["groups"]:
        assert found["bytes"] == 4 * (-(-found["message_bytes"] // 4) + 4)


@pytest.mark.slow
def test_four_ranks_have_the_bits_of_four_simulated_workers(tmp_path):
    names = [f"{mode}-coordinates" for mode in ("own", "shared", "same-data", "split")] + list(LEVELS)
    environment = {**starting.ENVIRONMENT, "OMP_NUM_THREADS": "1", "WORKERS": "4"}
    for kind in ("mpi", "simulated"):
        (tmp_path / kind).mkdir()
    with Launch(_words(tmp_path / "mpi", names), 4, environment) as ranks:
        assert ranks.wait() == []
    simulating = starting.module(_words(tmp_path / "simulated", names), environment)
    assert simulating.wait(400) == 0
    for name in names:
        expected = _found(tmp_path / "simulated", [name], 1)[name][0]
        for k, one in enumerate(_found(tmp_path / "mpi", [name], 4)[name]):
            assert one["weights"] == expected["weights"] and one["memory"] == expected["memory"]
            if name in LEVELS:
                words = -(-one["message_bytes"] // 4) + 4
                assert one["bytes"] == traffic(4 * words, 4, Groups(2, 1 + (name == "levels")), k).sent
