"""Numbers from times, tables and verdicts: pure functions, held to numbers worked out by hand."""

import pytest

from rbd_ipu import text_table
from rbd_ipu.lab.bench import report
from rbd_ipu.lab.bench.runners import KERAS, KERAS_JIT, Case, Kernel, Runner, Times

SGD = Case("fc-mnist", "sgd")
RBD = Case("fc-mnist", "rbd", 250, "normal", "native", "global")
NATIVE, COUNTER = Kernel("normal", "native", 1000), Kernel("normal", "counter", 1000)


class Fake(Runner):
    def __init__(self, parameters=1000, dim=None, samples=None):
        self.parameters, self.dim, self.samples = parameters, dim, samples


RUNNERS = {
    SGD: Fake(),
    RBD: Fake(dim=250, samples=250_000),
    NATIVE: Fake(dim=4000, samples=4_000_000),
    COUNTER: Fake(dim=4000, samples=4_000_000),
}
SECONDS = {
    SGD: [0.001, 0.002, 0.004],
    RBD: [0.003, 0.008, 0.008],
    NATIVE: [0.002, 0.001, 0.003],
    COUNTER: [0.02, 0.02, 0.02],
}
TIMES = Times(SECONDS, dict.fromkeys(SECONDS, 10), True)


def test_rows():
    sgd, rbd = report.rows_of([SGD, RBD], RUNNERS, TIMES)
    assert sgd["ms"] == pytest.approx(2.0) and sgd["ms_quartiles"] == pytest.approx([1.5, 3.0])
    assert sgd["images_per_second"] == pytest.approx(16_000)
    assert sgd["ratio_to_sgd"] == 1.0 and sgd["samples_per_second"] is None and sgd["d"] is None
    # Ratios are taken within rounds, 3, 4 and 2, so that a slow round does not count twice.
    assert rbd["ratio_to_sgd"] == pytest.approx(3.0) and rbd["ratio_quartiles"] == pytest.approx([2.5, 3.5])
    assert rbd["d"] == 250 and rbd["samples_per_second"] == pytest.approx(250_000 / 0.008)
    # The ceiling: the fastest source in its fastest round.
    assert rbd["ceiling"] == pytest.approx(4e9) and rbd["share_of_ceiling"] == pytest.approx(3.125e7 / 4e9)
    assert rbd["round_ms"] == pytest.approx([3.0, 8.0, 8.0])


def test_ceiling_rows():
    native, counter = report.ceiling_rows(RUNNERS, TIMES)
    assert native["samples_per_second"] == pytest.approx(4e9) and native["source"] == "native"
    assert counter["samples_per_second"] == pytest.approx(2e8) and counter["dim"] == 4000


def test_memory_is_compared_with_the_sgd_step_of_the_same_network():
    found = report.rows_of([SGD, RBD], RUNNERS, TIMES)
    report.fill_in_memory(found, {SGD: 500.0, RBD: 512.0})
    assert [row["peak_mb_over_sgd"] for row in found] == [0.0, 12.0]
    report.fill_in_memory(found, {SGD: 500.0, RBD: None})
    assert found[1]["peak_mb"] is None and found[1]["peak_mb_over_sgd"] is None


def test_the_table_leaves_out_what_says_nothing():
    found = report.rows_of([SGD, RBD], RUNNERS, TIMES)
    lines = report.render(found).splitlines()
    assert " ".join(lines[0].split()) == (
        "network method distribution source d ms a step quartiles images/s x SGD G samples/s of ceiling"
    )
    assert " ".join(lines[2].split()) == "fc-mnist rbd normal native 250 8.00 5.50 .. 8.00 4,000 3.00 0.0312 1 %"
    assert "distribution" not in report.render(found[:1])
    marked = report.render(found, text_table.markdown).splitlines()
    assert marked[1] == "| --- | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: |"
    assert all(line.count("|") == 12 for line in marked)


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.000123456, "0.000123"), (0.99999, "1.00"), (9.999, "10.0"), (123456.0, "123,000"), (-4.2, "-4.20")],
)
def test_figures(value, text):
    assert text_table.figures(value) == text


# --- targets -----------------------------------------------------------------------------------------


def _row(case, **values):
    blank = {"images_per_second": 1.0, "ratio_to_sgd": 1.0, "peak_mb": None, "round_ms": [1.0, 1.0]}
    return {**case._asdict(), **blank, **values}


def _verdict(verdicts, case, unit):
    (found,) = [v for v in verdicts if v["case"].startswith(str(case)) and v["unit"] == unit]
    return found


BIG = Case("cnn-cifar10", "rbd", 10_000, "normal", "native", "global")


@pytest.mark.parametrize("cores, limit", [(8, 155), (4, 155), (2, 77.5), (1, 38.75)])
def test_images_a_second_are_in_proportion_on_fewer_cores(cores, limit):
    for speed, met in ((limit * 1.001, True), (limit * 0.999, False)):
        verdict = _verdict(report.judge([_row(BIG, images_per_second=speed)], cores), BIG, report.IMAGES)
        assert verdict["limit"] == limit and verdict["met"] is met and verdict["measured"] == speed


def test_ratios_are_not_scaled_and_what_is_missing_is_not_met_or_missed():
    case = Case("cnn-cifar10", "rbd", 250, "hadamard", "native", "global")
    verdicts = report.judge([_row(case, ratio_to_sgd=1.3)], 1)
    verdict = _verdict(verdicts, case, report.TIMES_SGD)
    assert verdict["target"] == "at most 1.25 (aim 1.10) x a plain SGD step"
    assert verdict["met"] is False
    others = [v for v in verdicts if v is not verdict]
    assert others and all(v["met"] is None and v["measured"] is None for v in others)
    assert [line[-1] for line in report.lines(verdicts)].count("not measured") == len(others)


def test_memory_and_keras_are_differences_and_ratios_of_two_rows():
    less, plain = BIG._replace(dim=250), Case("fc-mnist", "sgd")
    found = [
        _row(BIG, peak_mb=600.0),
        _row(less, peak_mb=530.0),
        _row(plain, round_ms=[1.0, 2.0, 3.0]),
        _row(plain._replace(loop=KERAS), round_ms=[2.0, 4.0, 6.0]),
        _row(plain._replace(loop=KERAS_JIT), round_ms=[1.25, 2.5, 3.75]),
    ]
    verdicts = report.judge(found, 4)
    memory = _verdict(verdicts, BIG, report.MEGABYTES)
    assert memory["measured"] == 70.0 and memory["met"] is False and memory["case"].endswith("against d=250")
    keras = _verdict(verdicts, plain, report.TIMES_KERAS)
    assert keras["measured"] == pytest.approx(0.8) and keras["met"] is True  # against the faster of both


def test_every_target_can_be_judged_from_the_cases_that_are_measured():
    for keras_3 in (False, True):
        cases = report.cases(native=True, keras_3=keras_3)
        assert len(set(cases)) == len(cases)
        verdicts = report.judge([_row(case, peak_mb=1.0) for case in cases], 4)
        assert len(verdicts) == len(report.TARGETS) and all(v["measured"] is not None for v in verdicts)
    assert all(case.source != "native" for case in report.cases(native=False, keras_3=True))
