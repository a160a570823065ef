"""The model of a step: against hand-made sums, and the properties that it must have."""

import math

import pytest

from rbd_ipu import methods
from rbd_ipu.parallel.cost_model import (
    HERE,
    Machine,
    Work,
    bases_time,
    choose,
    exchange_time,
    fastest,
    gathered,
    least_bandwidth,
    pass_time,
    reduced,
    sent,
    step_time,
    throughput,
    work_of,
)

P, E = 0.75, 0.875
M = Machine(compute=0.25, rate=1e6, transform=1e-6, bandwidth=1e6, latency=0.5, project=P, expand=E)
PASSES = [  # over the d directions of one basis for K = 4: one that projects, and so many that expand
    ("own", "coordinates", P + 4 * E),
    ("own", "update", 1.0),
    ("same-data", "coordinates", P + 4 * E),
    ("shared", "coordinates", P + E),
    ("shared", "update", 1.0),
    ("split", "coordinates", P / 4 + E),
    ("split", "update", 0.25),
]


@pytest.mark.parametrize("parallel, exchange, passes", PASSES)
def test_passes(parallel, exchange, passes):
    work = Work(1000, 100, 4, parallel, exchange)
    assert bases_time(work, M) == pytest.approx(passes * 100 * 1000 / 1e6)


def test_one_worker_makes_one_pass_and_sends_nothing():
    time = step_time(Work(1000, 100, 1), M)
    assert time == (0.25, 0.1, 0.0) and time.total == 0.35 and sent(Work(1000, 100, 1)) == 0


def test_a_transform_costs_the_same_for_every_dim():
    a, b = (pass_time(Work(1000, d, 4, structured=True), M, d) for d in (1, 900))
    assert a == b == pytest.approx(1024 * 10 * 1e-6)


@pytest.mark.parametrize("parallel", ["own", "same-data", "shared", "split"])
@pytest.mark.parametrize("workers", [2, 100])
def test_transforms_do_not_grow_in_number(parallel, workers):
    work = Work(1000, 100, workers, parallel, structured=True)
    assert bases_time(work, M) == pytest.approx((P + E) * 1024 * 10 * 1e-6)
    assert bases_time(work._replace(exchange="update"), M) == pytest.approx(1024 * 10 * 1e-6)


def test_volumes():
    assert gathered(100, 1) == reduced(100, 1) == 0
    assert gathered(100, 5) == 400 and reduced(100, 5) == 160
    assert sent(Work(1000, 100, 5)) == 4 * 400
    assert sent(Work(1000, 100, 5, wire_bits=8)) == 400
    assert sent(Work(1000, 100, 5, "split")) == 4 * 80
    assert sent(Work(1000, 100, 5, "shared")) == 4 * 400
    assert sent(Work(1000, None, 5)) == sent(Work(1000, 100, 5, exchange="update")) == 4 * 1600


def test_rings_and_trees_have_their_hops():
    work = Work(1000, 100, 9)
    assert exchange_time(work, M) - exchange_time(work, M, tree=True) == pytest.approx((8 - 4) * 0.5)
    sgd = Work(1000, None, 9)
    assert exchange_time(sgd, M) - exchange_time(sgd, M, tree=True) == pytest.approx((16 - 8) * 0.5)


def test_auto_follows_the_network():
    work = Work(122_570, 250, 2)
    assert choose(work, HERE._replace(bandwidth=1e9)).exchange == "update"
    slow = choose(work, HERE._replace(bandwidth=1e6))
    assert slow.exchange == "coordinates" and "with update" in slow.why
    assert choose(work._replace(structured=True), HERE._replace(bandwidth=1e8)).exchange == "coordinates"


def test_the_work_of_a_method():
    rbd = methods.create("rbd", learning_rate=0.1, dim=25)
    sgd = methods.create("sgd", learning_rate=0.1)
    for method in (rbd, sgd):
        method.build([(50, 10)])
    assert work_of(rbd, 4, "split") == Work(500, 100, 4, "split")
    assert work_of(sgd, 4, "own") == Work(500, None, 4, "own")


def test_where_the_lines_cross():
    """At the least bandwidth both take as long; with more of it SGD is the faster one."""
    rbd = Work(122_570, 250, 2, structured=True)
    bandwidth = least_bandwidth(rbd, HERE)
    here = HERE._replace(bandwidth=bandwidth)
    sgd = step_time(rbd._replace(dim=None), here).total
    assert step_time(rbd, here).total == pytest.approx(sgd, rel=1e-6)
    more = HERE._replace(bandwidth=2 * bandwidth)
    assert step_time(rbd, more).total > step_time(rbd._replace(dim=None), more).total
    no_latency = HERE._replace(latency=0.0)
    assert math.isinf(least_bandwidth(rbd, no_latency._replace(transform=0.0)))
    assert least_bandwidth(Work(1000, 1000, 8), no_latency) == 0.0  # it sends more than SGD, and computes more


def test_throughput_and_the_fastest():
    assert throughput(Work(1000, None, 4), M, 32) == pytest.approx(4 * 32 / step_time(Work(1000, None, 4), M).total)
    slow = HERE._replace(bandwidth=1e5)
    assert fastest(122_570, 250, 8, slow).startswith("RBD")
    assert fastest(122_570, 250, 8, HERE._replace(bandwidth=1e11, latency=0.0)) == "SGD"
