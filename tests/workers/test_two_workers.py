"""Two real workers against one process that simulates two: every mode, method and wire, on one pair of processes."""

import contextlib
import json

import numpy as np
import pytest
from workers.cases import CASES, WORKERS, train

import rbd_ipu
from rbd_ipu.workers.processes import Processes

# A few cases show that it does not matter how the workers are connected.
SOME = ("own-coordinates", "own-update", "not-finite")
KINDS = ("ring", "cluster", "server")


def _started(kind, folder, names):
    words = ["workers.cases", str(folder), ",".join(names), *(["server"] if kind == "server" else [])]
    return Processes(words, WORKERS, tf_cluster=kind != "ring")


def _kinds(name):
    return KINDS if name in SOME else KINDS[:1]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory):
    """What the workers found, by (connection, case): a list, worker by worker. A pair of processes for each kind."""
    places = [(kind, tmp_path_factory.mktemp(kind), CASES if kind == "ring" else SOME) for kind in KINDS]
    with contextlib.ExitStack() as stack:
        for workers in [stack.enter_context(_started(*place)) for place in places]:
            assert workers.wait() == [0] * WORKERS, [workers.last_words(k) for k in range(WORKERS)]
    return {
        (kind, name): [json.loads((folder / f"{name}-{k}.json").read_text()) for k in range(WORKERS)]
        for kind, folder, names in places
        for name in names
    }


def flat(values):
    return np.concatenate([np.ravel(value) for value in values]).astype(np.float64)


@pytest.mark.parametrize("name", CASES)
def test_they_are_the_simulated_ones(outcomes, name):
    expected = train(CASES[name], rbd_ipu.open_device("cpu", simulate_workers=WORKERS))
    for kind in _kinds(name):
        for found in outcomes[kind, name]:
            np.testing.assert_allclose(flat(found["weights"]), flat(expected["weights"]), atol=2e-6)
            assert found["stopped"] == expected["stopped"]
            if expected["stopped"] is None:
                np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
                np.testing.assert_allclose(found["metrics"], expected["metrics"], rtol=1e-6)
            if expected["beside"]:
                np.testing.assert_allclose(flat(found["beside"]), flat(expected["beside"]), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_all_workers_end_with_the_same_bits(outcomes, name):
    first, *others = outcomes["ring", name]
    for other in others:
        assert other["weights"] == first["weights"] and other["beside"] == first["beside"]


def test_a_number_that_is_not_finite_stops_all_at_the_same_step(outcomes):
    """Worker 1 alone has met it; the message is the same everywhere, and the step is not applied."""
    stops = [found["stopped"] for kind in KINDS for found in outcomes[kind, "not-finite"]]
    assert stops[0][0] == 3 and "not finite at step 3" in stops[0][1]
    assert all(stop == stops[0] for stop in stops)


@pytest.mark.parametrize("kind", ["ring", "cluster"])
def test_sent_bytes_are_counted_on_the_socket(outcomes, kind):
    """d floats and four of report, and what a call of the loop needs; never anything of the size of the model."""
    found = outcomes[kind, "own-coordinates"][0]
    if found["bytes"] is None:
        pytest.skip("this system does not count bytes")
    payload = 4 * (found["d"] + 4)
    assert payload <= found["bytes"] <= payload + 40
    assert found["bytes_sgd"] == 4 * found["D"]
    narrow = outcomes["ring", "wire-int8"][0]["bytes"]
    assert found["d"] + 4 + 16 <= narrow < found["bytes"] / 2


def test_a_worker_measures_its_exchanges(outcomes):
    assert {"exchange_seconds"} <= set(outcomes["ring", "own-coordinates"][0]["columns"])
