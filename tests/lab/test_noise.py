"""What RBD is, from rows: SGD at lr d/D beside it."""

import math

import pytest
from fake_runs import result

from rbd_ipu.config.resolve import lookup
from rbd_ipu.lab import noise, presets
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.presets import budget, cells


def configs(name, row, column):
    found = cells(presets.load(name), budget("full"))
    return next(cell for cell in found if (cell.row, cell.column) == (row, column)).full


def curve(last):
    return [last * epoch / 100 for epoch in range(1, 101)]


def test_the_rate_of_sgd_is_that_of_rbd_times_d_over_its_parameters():
    for row, dataset, network, size in (
        ("FC-MNIST", "mnist", "fc", 101_770),
        ("CNN-CIFAR10", "cifar10", "cnn", 122_570),
    ):
        rate = lookup({"dataset": dataset, "network": network, "method": "rbd", "dim": 250})
        for config in configs("tableX1", row, "SGD at lr d/D"):
            assert (config.method, config.dim) == ("sgd", None)
            assert config.learning_rate == pytest.approx(rate * 250 / size, rel=1e-12)


def test_the_cost_of_the_noise_is_what_rbd_stays_behind():
    rows = [result(config, curve(0.9)) for config in configs("tableX1", "FC-MNIST", "SGD at lr d/D")]
    assert noise.by_epoch(Index(rows)).lines[1:] == []  # nothing stands beside it
    rows += [result(config, curve(0.8)) for config in configs("table1", "FC-MNIST", "RBD")]
    line = next(line for line in noise.grid(Index(rows)).lines if line[0] == "FC-MNIST")
    shown = dict(zip(noise.grid(Index(rows)).lines[0], line))
    assert shown["SGD at lr d/D"] == "90.00 ± 0.00 (n = 3)" and shown["RBD, hadamard"] == "not measured"
    assert shown["cost of the noise"] == "10.00"
    assert shown["in theory"] == f"{math.sqrt(250 / (250 + 101_769)):.4f}"
    along = noise.by_epoch(Index(rows)).lines
    assert [line[0] for line in along[1:]] == ["FC-MNIST: SGD at lr d/D (n = 3)", "FC-MNIST: RBD (n = 3)"]
    assert along[2][1:] == ["0.8", "1.6", "4.0", "8.0", "16.0", "40.0", "80.0"]


def test_runs_that_are_short_do_not_stand_there():
    rows = [result(configs("table1", "FC-MNIST", "RBD")[0], [0.5] * 99, "running")]
    line = next(line for line in noise.grid(Index(rows)).lines if line[0] == "FC-MNIST")
    assert line[4] == "not measured" and line[-3] == "-"
