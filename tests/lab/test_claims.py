"""Verdicts follow from rows: none from one seed, none from a run cut short, none that is written by hand."""

import math

import numpy as np
import pytest
from fake_runs import result

from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import claims, presets, results
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.results import key

FULL = budget("full")
RESULTS = presets.FOLDER.parents[2] / "results"


def rows(column, accuracies, row="FC-MNIST", epochs=100):
    """Runs of a cell of Table 1, a seed each, in percent."""
    found = {(cell.row, cell.column): cell for cell in cells(presets.load("table1"), FULL)}
    runs = zip(found[row, column].full, accuracies)
    return [result(config, [0.1] * (epochs - 1) + [one / 100], "finished") for config, one in runs]


def judged(tmp_path, comparison, *groups, **claim):
    path = tmp_path / "claims.yaml"
    words = "\n".join(f"    {name}: {value}" for name, value in {"holds": f"[{comparison}]", **claim}.items())
    path.write_text(f"claims:\n  - claim: A claim\n    source: Table 1\n{words}\n")
    known = claims.Known([row for group in groups for row in group], [], tmp_path)
    (found,) = claims.verdicts(known, path)
    return found


BETTER = "{preset: table1, row: FC-MNIST, better: RBD, than: FPD}"
ALIKE = "{preset: table1, row: FC-MNIST, alike: [RBD, FPD], within: 2}"


@pytest.mark.parametrize(
    ("comparison", "ours", "theirs", "verdict"),
    [
        (BETTER, [93, 94, 95], [80, 81, 82], "confirmed"),
        (BETTER, [80, 81, 82], [93, 94, 95], "refuted"),
        (BETTER, [93.0, 93.1, 92.9], [93.0, 93.1, 92.9], "refuted"),  # surely none of the 13.9 points of the paper
        (BETTER, [85, 92, 99], [80, 86, 92], "undecided"),
        (BETTER, [93, 94, 95], [80], "undecided"),
        (BETTER, [93], [80], "undecided"),
        (BETTER, [93, 94], [80, 81, 82], "confirmed"),
        (ALIKE, [93.0, 93.1, 92.9], [93.0, 93.1, 92.9], "confirmed"),
        (ALIKE, [93.0, 93.1, 92.9], [80, 81, 82], "refuted"),
        (ALIKE, [93, 94, 95], [92, 94, 96], "undecided"),
        (ALIKE, [93], [93], "undecided"),
        ("{preset: table1, row: FC-MNIST, equal: RBD, to: 93, within: 1}", [93.0, 93.1, 92.9], [], "confirmed"),
        ("{preset: table1, row: FC-MNIST, equal: RBD, to: 93, within: 1}", [93], [], "undecided"),
        ("{preset: table1, row: FC-MNIST, spread: RBD, within: 1}", [93, 94], [], "undecided"),
        ("{preset: table1, row: FC-MNIST, spread: RBD, within: 1.5}", [93, 94, 95], [], "confirmed"),
        ("{preset: table1, row: FC-MNIST, spread: RBD, within: 0.5}", [93, 94, 95], [], "refuted"),
        (
            "{preset: table1, row: FC-MNIST, better: RBD, than: FPD, times: 1.2}",
            [93.9, 94.0, 94.1],
            [80.9, 81.0, 81.1],
            "refuted",
        ),
    ],
)
def test_verdicts(tmp_path, comparison, ours, theirs, verdict):
    found = judged(tmp_path, comparison, rows("RBD", ours), rows("FPD", theirs))
    assert found.verdict == verdict, found
    (evidence,) = found.evidence
    assert set(evidence.rows) == {key(results.config_of(row)) for row in [*rows("RBD", ours), *rows("FPD", theirs)]}


def test_the_interval_is_that_of_students_t(tmp_path):
    for freedom in range(1, 11):  # half of 99 % lies between 0 and the quantile
        x = np.linspace(0.0, claims._t(freedom), 200_001)
        weight = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        density = weight * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        assert (density[1:] + density[:-1]).sum() / 2 * x[1] == pytest.approx(0.495, abs=1e-5)
    a, b = np.random.default_rng(0).normal(90, 1, (2, 3))
    (evidence,) = judged(tmp_path, BETTER, rows("RBD", a), rows("FPD", b)).evidence
    half = 4.604 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2 * (2 / 3))
    assert f"difference {a.mean() - b.mean():+.2f} ± {half:.2f}" in evidence.words


def test_runs_that_were_cut_short_decide_nothing_and_are_asked_for(tmp_path):
    found = judged(tmp_path, BETTER, rows("RBD", [93, 94, 95], epochs=10), rows("FPD", [80, 81, 82], epochs=10))
    assert (found.verdict, found.rows) == ("undecided", []) and "Would decide: 6 runs, about " in found.why


def test_a_cause_needs_evidence_of_its_own(tmp_path):
    because = "[{preset: table1, row: CNN-MNIST, alike: [RBD, FPD], within: 2}]"
    own = rows("RBD", [93, 94, 95]), rows("FPD", [80, 81, 82])
    found = judged(tmp_path, BETTER, *own, because=because, cause="why")
    assert (found.verdict, found.why) == ("confirmed", "")
    shown = [rows(column, [93.0, 93.1, 92.9], "CNN-MNIST") for column in ("RBD", "FPD")]
    found = judged(tmp_path, BETTER, *own, *shown, because=because, cause="why")
    assert (found.verdict, found.why) == ("explained", "why") and len(found.rows) == 12


def test_a_stand_in_for_a_rate_decides_nothing(tmp_path):
    nes = rows("NES", [20, 21, 22], "FC-FMNIST")
    comparison = "{preset: table1, row: FC-FMNIST, better: RBD, than: NES}"
    found = judged(tmp_path, comparison, rows("RBD", [93, 94, 95], "FC-FMNIST"), nes)
    assert found.verdict == "undecided" and "rate not tuned" in found.evidence[0].words


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        ("{preset: table1, best: RBD}", "a comparison is one of better, alike"),
        ("{preset: table1, row: FC-MNIST, better: RBD, than: XYZ}", "table1 has no cell FC-MNIST, XYZ"),
        ("{preset: table1, row: FC, better: RBD, than: SGD}", "table1 has no cell FC, RBD"),
        ("{preset: table9, row: FC, better: RBD, than: SGD}", "there is no 'table9'"),
    ],
)
def test_a_wrong_claim_is_refused_with_its_words(tmp_path, comparison, words):
    with pytest.raises(ConfigError, match="claims.yaml: 'A claim': ") as error:
        judged(tmp_path, comparison)
    assert words in str(error.value)


def test_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'verdict'; accepted: claim, source"):
        judged(tmp_path, BETTER, verdict="confirmed")


def test_one_seed_everywhere_decides_nothing(tmp_path):
    random = np.random.default_rng(0)
    every = {}
    for name in presets.names():
        preset = presets.load(name)
        if preset.kind in ("table", "curves", "points"):
            for cell in cells(preset, FULL):
                every[key(cell.full[0])] = result(cell.full[0], [float(random.random())] * cell.full[0].epochs)
    found = claims.verdicts(claims.Known(list(every.values()), [], tmp_path))
    assert {one.verdict for one in found} == {"undecided"}
    assert all("Would decide: " in one.why for one in found)


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no results beside the package")
def test_the_verdicts_of_this_repository_name_their_rows():
    known = claims.Known(results.read(RESULTS), results.read(RESULTS, "analysis"), RESULTS / "performance")
    found = claims.verdicts(known)
    assert len(found) == len({one.claim for one in found}) > 25
    keys = {key(results.config_of(row)) for row in known.rows}
    for one in found:
        assert one.verdict in claims.VERDICTS and (one.rows or one.verdict == "undecided"), one.claim
        assert all(row in keys or "rbd-ipu " in row for row in one.rows)
