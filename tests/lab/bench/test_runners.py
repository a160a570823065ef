"""Rounds, runners, the ceiling and memory: what is timed is what it says."""

import os
import subprocess
import sys

import pytest

from rbd_ipu.lab.bench import runners as ceiling
from rbd_ipu.lab.bench import runners as memory
from rbd_ipu.lab.bench import runners as rounds
from rbd_ipu.lab.bench.runners import KERAS, KERAS_JIT, Case, Kernel, Sketch, make

CASE = Case("fc-digits", "rbd", 8, "normal", "counter", "global", batch_size=16)


class Clock:
    """A runner that takes a known time and keeps a diary."""

    def __init__(self, name, diary, step=0.01, first=5.0, stop_at=None):
        self.name, self.diary, self.step, self.first, self.stop_at = name, diary, step, first, stop_at

    def run(self, steps):
        self.diary.append((self.name, steps))
        if self.stop_at is not None and len(self.diary) == self.stop_at:
            raise KeyboardInterrupt
        first, self.first = self.first, 0.0
        return first + steps * self.step


@pytest.mark.parametrize("step, seconds, expected", [(0.01, 0.5, 50), (2.0, 0.5, 3), (1e-5, 0.3, 30_000)])
def test_a_burst_is_as_long_as_asked_but_at_least_three_steps_and_compiling_does_not_count(step, seconds, expected):
    diary = []
    steps = rounds.burst(Clock("a", diary, step), seconds)
    assert steps == pytest.approx(expected, rel=1e-6)
    assert diary[0] == ("a", 1)
    # It gets there without doing much more than one burst.
    assert sum(steps for _, steps in diary) * step <= max(3 * seconds, 5 * step)


def test_rounds_are_interleaved_in_changing_orders():
    diary = []
    runners = {name: Clock(name, diary, step) for name, step in (("a", 0.01), ("b", 0.02), ("c", 0.04))}
    times = rounds.measure(runners, rounds=4, seconds=0.04)
    order = "".join(name for name, _ in diary[-12:])
    orders = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in orders) and len(set(orders)) > 1
    assert times.complete and times.steps == {"a": 4, "b": 3, "c": 3}
    assert times.seconds == {name: pytest.approx([clock.step] * 4) for name, clock in runners.items()}


def test_ctrl_c_keeps_the_whole_rounds():
    diary = []
    runners = {name: Clock(name, diary, 0.1) for name in "ab"}
    rounds.measure(runners, rounds=1, seconds=0.1)
    warm_up = len(diary) - 2
    diary.clear()
    for clock in runners.values():
        clock.stop_at = warm_up + 2 * 2 + 2  # in the third round, after one of two
    times = rounds.measure(runners, rounds=9, seconds=0.1)
    assert not times.complete and [len(t) for t in times.seconds.values()] == [2, 2]

    diary.clear()
    for clock in runners.values():
        clock.stop_at = warm_up + 2
    with pytest.raises(KeyboardInterrupt):
        rounds.measure(runners, rounds=9, seconds=0.1)


def test_the_trainers_own_loop_does_the_steps():
    runner = make(CASE)
    first, second = runner.run(2), runner.run(5)
    assert first > 0 and second > 0
    assert runner._trainer.step == 7
    assert (runner.parameters, runner.dim, runner.samples) == (9610, 8, 8 * 9610)


def test_samples_are_counted_per_compartment_and_only_where_entries_are_drawn():
    assert make(CASE._replace(compartments="even:2")).samples == 8 * 9610 // 2
    assert make(CASE._replace(distribution="hadamard")).samples is None
    plain = make(CASE.baseline)
    assert plain.samples is None and plain.dim is None and plain.parameters == 9610


@pytest.mark.parametrize("loop", [KERAS, KERAS_JIT])
def test_keras_fit_does_the_steps(loop):
    runner = make(CASE.baseline._replace(loop=loop))
    assert runner.run(2) > 0 and runner.run(3) > 0
    assert int(runner._model.optimizer.iterations) == 5


def test_the_ceiling_is_measured_for_dense_directions_and_natively_where_numba_is(monkeypatch):
    from rbd_ipu.directions import native

    cases = [CASE, CASE._replace(dim=16), CASE._replace(distribution="hadamard"), CASE.baseline]
    runners = {case: make(case) for case in cases}
    counter, machine = Kernel("normal", "counter", 9610), Kernel("normal", "native", 9610)
    monkeypatch.setattr(native, "available", lambda: True)
    assert ceiling.kernels(cases, runners) == [counter, machine]
    monkeypatch.setattr(native, "available", lambda: False)
    assert ceiling.kernels(cases, runners) == [counter]

    sketch = Sketch(Kernel("rademacher", "counter", 1000), samples=5200)
    assert (sketch.dim, sketch.samples) == (5, 5000)
    assert sketch.run(3) > 0


def test_a_process_does_not_count_what_its_parent_held():
    ballast = bytearray(b"x") * (400 * 2**20)
    assert memory.peak_now() > 400
    code = "from rbd_ipu.lab.bench.runners import peak_now; big = bytearray(b'x') * (50 * 2**20); print(peak_now())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    assert len(ballast) and 50 < float(done.stdout) < 300


def test_peak_memory_of_a_case_and_of_none():
    assert memory.peak_of(CASE) > 100
    assert memory.peak_of(CASE, timeout=0.01) is None
    assert memory.peak_of(CASE._replace(method="none")) is None
