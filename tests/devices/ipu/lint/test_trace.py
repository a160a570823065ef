"""The op lint of the registries: clean for every row that is said to be ready; its command, and its page."""

import os
import re
from pathlib import Path

import pytest
from planted import graph_of, printed

from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.devices.ipu.lint import report, trace
from rbd_ipu.errors import ConfigError

PAGE = Path(__file__).resolve().parents[4] / "docs" / "ipu.md"

needs_2_6 = pytest.mark.skipif(KERAS_3, reason="the record is of TensorFlow 2.6, and this is another one")


@needs_2_6
@pytest.mark.parametrize(
    "row",
    [
        trace.Row(),
        trace.Row(kind="keras", name="FixedProjectionDescent", option="momentum"),
        trace.Row(name="switch", source="counter", distribution="uniform"),
    ],
    ids=str,
)
def test_a_seed_is_an_argument_of_the_program_and_no_constant_in_it(row):
    """Else each of a table's seeds would be compiled for itself."""
    texts = []
    for seed in (1, 2**40 + 7):
        keras.backend.clear_session()
        texts.append(re.findall(r" constant\(.*?\)(?=[,\n])", trace.trace(row._replace(seed=seed)).lower()))
    assert texts[0] == texts[1] and len(texts[0]) > 20


# --- the rows ------------------------------------------------------------------------------------------


def programs():
    """The rows of each program: rows that are there to show different parts of one share it."""
    shared = {}
    for row in [] if KERAS_3 else trace.each_once():
        shared.setdefault(row._replace(subject=trace.Row().subject), []).append(row)
    return [pytest.param(rows, id=" ".join(rows[0].subject)) for rows in shared.values()]


def on_the_page():
    """The state that the page's table says of each subject, in its order."""
    if not PAGE.is_file():
        pytest.skip("the pages are not beside the tests")
    table = PAGE.read_text(encoding="utf-8").partition(report.BEGIN)[2].partition(report.END)[0]
    states, kind = {}, ""
    for line in table.strip().splitlines()[2:]:
        _, here, name, state, _ = (cell.strip() for cell in line.split("|"))
        kind = here or kind
        states[kind, name.strip("`")] = state
    return states


@needs_2_6
@pytest.mark.parametrize("rows", programs())
def test_a_program_is_whole_and_as_it_is_said_to_be(rows):
    """One that lost its network, its directions or its loop over blocks would be clean for no good reason."""
    found = report.results(rows)
    assert [(str(result.row), fault) for result in found for fault in result.faults] == []
    assert [str(result.row) for result in found if result.refused] == []
    if found[0].row.kind != "validation":
        kinds = {kind.partition("(")[0] for kind in found[0].report.kinds}
        assert {"SparseSoftmaxCrossEntropyWithLogits", "MatMul"} <= kinds
        assert any(kind.startswith(("ResourceApply", "AssignSub")) for kind in kinds)
        assert "Conv2D" in kinds or found[0].row.network in ("fc", "fc200", "gpt")
    for result in found:
        if result.row.subject == ("source", "counter"):
            assert any(kind.startswith("IpuUserOp(") for kind in result.report.kinds)
        if result.row.subject == ("distribution", "normal"):
            assert any(kind.startswith("StatelessRandomNormalV2(") for kind in result.report.kinds)
            assert result.report.loops >= 3  # steps, blocks, the rounds of the hash
    states = on_the_page()
    told = "docs/ipu.md is out of date: run rbd-ipu devices lint --write docs/ipu.md with TensorFlow 2.6"
    assert {result.row.subject: result.state for result in found} == {
        result.row.subject: states.get(result.row.subject) for result in found
    }, told


@needs_2_6
def test_every_registry_row_is_there():
    from rbd_ipu.compartments import SCHEMES
    from rbd_ipu.directions import distribution_names
    from rbd_ipu.methods import METHODS
    from rbd_ipu.models import NETWORKS
    from rbd_ipu.optimizers import OPTIMIZERS
    from rbd_ipu.parallel.plan import MODES, WIRES

    subjects = [row.subject for row in trace.each_once()]
    assert len(subjects) == len(set(subjects))
    assert subjects == list(on_the_page())
    names = {"method": METHODS, "optimizer": OPTIMIZERS, "distribution": distribution_names(), "network": NETWORKS}
    for kind, wanted in names.items():
        assert {name.partition("(")[0] for k, name in subjects if k == kind} == set(wanted)
    assert sum(kind == "compartments" for kind, _ in subjects) == len(SCHEMES)
    shared = {tuple(choice.items()) for choice in trace.SHARING.values()}
    assert shared >= {(("parallel", mode),) for mode in MODES}
    assert shared >= {(("wire", wire),) for wire in WIRES if wire != "float32"}
    assert {name for kind, name in subjects if kind == "source"} == {"poprand", "counter"}
    assert sum(kind == "option" for kind, _ in subjects) == len(trace.OPTIONS)


@needs_2_6
def test_a_listed_row_that_is_clean_is_a_fault(monkeypatch):
    monkeypatch.setitem(trace.NOT_READY, ("method", "sgd"), "for a test")
    (result,) = report.results([trace.Row(name="sgd")])
    assert result.state == "not ready: for a test"
    assert "take it off NOT_READY" in result.faults[0]


@needs_2_6
def test_a_row_with_a_finding_is_a_fault_unless_it_is_listed(monkeypatch):
    monkeypatch.setattr(trace, "trace", lambda row: trace.Program(graph_of(printed), str))
    (result,) = report.results([trace.Row()])
    assert result.state.endswith("findings") and "PrintV2 has no IPU kernel" in " ".join(result.faults)
    monkeypatch.setitem(trace.NOT_READY, ("distribution", "normal"), "for a test")
    (result,) = report.results([trace.Row()])
    assert result.faults == [] and result.state == "not ready: for a test"


@needs_2_6
def test_parts_that_do_not_go_together_are_refused_in_their_own_words():
    (result,) = report.results([trace.Row(compartments="even:200000")])
    assert result.state.startswith("no such program: 'even:200000' asks for more compartments than")
    assert result.faults == []


def pairs():
    """A few of all programs in which any two parts of different kinds meet at least once."""
    left, chosen = set(), []
    programs_ = [row for row in trace.all_together() if row.network != "resnet32"]
    for row in programs_:
        left |= _pairs_of(row)
    while left:
        best = max(programs_, key=lambda row: len(_pairs_of(row) & left))
        chosen.append(best)
        left -= _pairs_of(best)
    return chosen


def _pairs_of(row):
    parts = row.parts
    return {(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]}


@needs_2_6
@pytest.mark.slow
def test_any_two_parts_go_together_on_an_ipu():
    found = report.results(pairs())
    assert [(str(result.row), fault) for result in found for fault in result.faults] == []


@needs_2_6
@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("RBD_LINT_ALL") != "1", reason="takes very long: set RBD_LINT_ALL=1")
def test_all_parts_go_together_on_an_ipu():
    found = report.results(trace.all_together())
    assert [(str(result.row), fault) for result in found for fault in result.faults] == []
    assert sum(result.report is not None for result in found) > 100


# --- the command and the page --------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", f"{report.BEGIN}\n", f"{report.END}\n{report.BEGIN}\n", report.BEGIN * 2])
def test_a_page_without_its_markers_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"--write {page}: needs the lines")):
        report.write(page, "x")


def command(capsys, *arguments):
    from rbd_ipu.cli import main

    status = main(["devices", "lint", *arguments])
    printed_ = capsys.readouterr()
    return status, printed_.out, printed_.err


@needs_2_6
def test_the_command_writes_the_table(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "each_once", lambda: iter([trace.Row(name="sgd", subject=("method", "sgd"))]))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    status, out, err = command(capsys, "--write", str(page), "--operations")
    assert (status, err) == (0, "")
    assert "| method | `sgd` | ready |" in out and "MatMul(T=float)" in out
    written = page.read_text(encoding="utf-8")
    assert written.startswith(f"before\n{report.BEGIN}\n| | | on an IPU |")
    assert written.endswith(f"| method | `sgd` | ready |\n{report.END}\nafter\n")


@needs_2_6
def test_the_command_fails_where_there_are_faults(capsys, monkeypatch):
    monkeypatch.setattr(trace, "each_once", lambda: iter([trace.Row(name="sgd", subject=("method", "sgd"))]))
    monkeypatch.setattr(trace, "trace", lambda row: trace.Program(graph_of(printed), str))
    status, out, err = command(capsys)
    assert status == 1 and "findings" in out
    assert "rbd-ipu: sgd, normal, global, fc: PrintV2 has no IPU kernel [PrintV2(" in err


def test_a_page_that_is_not_there_is_said_before_anything_is_traced(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "check_stack", lambda: None)
    monkeypatch.setattr(report, "results", lambda *_: pytest.fail("it was traced"))
    status, _, err = command(capsys, "--write", str(tmp_path / "missing.md"))
    assert status == 2 and "missing.md: cannot be read" in err


def test_the_command_wants_one_of_all_and_write(capsys, tmp_path):
    status, _, err = command(capsys, "--all", "--write", str(tmp_path / "page.md"))
    assert status == 2 and "leave out --all" in err


@pytest.mark.skipif(not KERAS_3, reason="this is TensorFlow 2.6")
def test_another_tensorflow_is_told_what_is_needed(capsys):
    status, out, err = command(capsys)
    assert (status, out) == (2, "")
    assert "traces on TensorFlow 2.6" in err and tf.__version__ in err
