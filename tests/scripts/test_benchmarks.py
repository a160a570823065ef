"""The scripts behind the documentation: kept runs, tables, and the page that is written from them."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("scripts")


def _finished(path):
    from documents import Finished

    return Finished(path)


def test_finished_runs_are_not_run_again(tmp_path):
    path, calls = tmp_path / "runs.jsonl", []

    def work(value):
        calls.append(value)
        return {"accuracy": value}

    first = _finished(path)
    assert first.run({"seed": 0}, lambda: work(0.5)) == {"accuracy": 0.5}
    assert first.run({"seed": 0}, lambda: work(0.6)) == {"accuracy": 0.5}
    again = _finished(path)
    assert again.run({"seed": 0}, lambda: work(0.7)) == {"accuracy": 0.5}
    assert again.run({"seed": 1}, lambda: work(math.nan)) == {"accuracy": None}
    assert calls[0] == 0.5 and len(calls) == 2

    # A crash in the middle of a line: that run is done again, the others are kept.
    text = path.read_text()
    path.write_text(text[:-9])
    cut = _finished(path)
    assert len(cut) == 1
    cut.run({"seed": 1}, lambda: work(0.9))
    assert [json.loads(line)["settings"]["seed"] for line in path.read_text().splitlines()] == [0, 1]


def test_tables_of_accuracies():
    import accuracy_tables as tables

    part = {"accuracies": {"normal": [0.9, 0.92], "hadamard": [0.91, 0.93], "lost": [0.9, None]}}
    text = tables.distributions(part)
    assert "| normal | 91.00 | 1.41 | 1.00 | 2 |" in text
    assert "| normal | 0.7 | nan |" in text and "| lost | nan | nan | nan | 2 |" in text
    sgd = {"grid": {"-4": 0.5, "-3": 0.7, "-2": None}, "power": -3, "accuracies": [0.7, 0.72]}
    text = tables.against_sgd({"sgd": sgd, "rbd": {**sgd, "power": -2}, "d": 60_000})
    assert "| SGD | 2^-3 | 71.00 | 1.41 | 2 | 2^-4: 50.0, 2^-3: 70.0, 2^-2: diverged |" in text
    assert "| RBD, hadamard, d=60,000 | 2^-2 |" in text
    rows = [{"d": 64, "correlations": [0.49, 0.51, 0.53], "cosines": [0.5, 0.5, 0.5]}]
    text = tables.correlation({"rows": rows, "D": 256, "padded": 512})
    # sqrt(64 / 256) = 1/2; with padding sqrt(64 / (256 + 32)) = 0.4714
    assert "| 64 | 0.5000 | 0.4714 | 0.5100 +- 0.0115 | +2.00 % | 0.5000 +- 0.0000 | +0.00 % |" in text


def test_the_best_rate_is_inside_the_grid_and_never_one_that_diverged():
    import accuracy_tables as tables

    assert tables.best({-4: 0.1, -3: 0.3, -2: 0.2}) == -3
    assert tables.best({-4: None, -3: 0.0}) == -3


HEADING = {
    "command": "rbd-ipu bench --it",
    "commit": "0123456789abcdef",
    "modified": False,
    "rounds": 7,
    "machine": {"processor": "a CPU", "usable_cores": 4},
    "versions": {"python": "3.11", "tensorflow": "2.21", "keras": "3", "numpy": "2"},
    "load_average": {"begin": [0.25, 0, 0]},
}


def test_places_of_the_page_are_filled_again_and_again():
    import write_pages as script

    page = "a <!-- bench: normal-a-core -->old<!-- /bench --> b\n<!-- bench: targets -->\nold\n<!-- /bench -->\nc\n"
    empty = script.fill(page, {})
    assert empty.count(script.MISSING) == 2 and "old" not in empty
    verdict = {"case": "x", "target": "at most 2 s", "measured": 1.5, "met": True}
    facts = {"what": "threads", "distribution": "normal", "threads": 1, "samples": 3e6, "ms": 2.0}
    documents = {
        "targets.json": {**HEADING, "targets": [verdict]},
        "roofline.json": {**HEADING, "rows": [{**facts, "threads": 4}, facts]},
    }
    full = script.fill(empty, documents)
    assert full.startswith("a <!-- bench: normal-a-core -->1.50 G samples/s<!-- /bench --> b\n")
    assert "| x | at most 2 s | 1.50 | yes |" in full
    assert "<sub>`rbd-ipu bench --it`; 7 rounds; a CPU, 4 cores, load 0.2 at the start; Python 3.11" in full
    assert "commit 0123456789</sub>" in full
    assert full.endswith("<!-- /bench -->\nc\n")
    assert script.fill(full, documents) == full


def test_a_page_that_asks_for_what_is_not_known_is_refused():
    import write_pages as script

    with pytest.raises(ValueError, match="unknown place 'speed'; accepted: demo, targets, "):
        script.fill("<!-- bench: speed --><!-- /bench -->", {})
    with pytest.raises(ValueError, match="opens 1 places and closes 0"):
        script.fill("<!-- bench: targets -->", {})


def test_places_of_the_rows_of_runs():
    import paper_places
    import write_pages as script

    known = paper_places.known(CHECKOUT / "nothing")
    page = "".join(f"<!-- bench: {name} --><!-- /bench -->\n" for name in paper_places.PLACES)
    assert script.fill(page, {}).count(script.MISSING) == len(paper_places.PLACES)
    full = script.fill(page, {}, known)
    assert "| claim | verdict | evidence |" in full and "FC-MNIST, RBD: no rate has been run in full." in full
    assert "| FC-MNIST | 1 | 0.0025 | not measured |" in full and script.fill(full, {}, known) == full


def test_the_table_of_groups_says_what_the_model_says():
    import scaling

    from rbd_ipu.parallel.cost_model import reduced

    lines = [line.strip("| ").split(" | ") for line in scaling.groups(349_536).splitlines()]
    table = {(line[0], line[1]): line[2:] for line in lines}
    assert len(table) == 2 + 5 * 4 and scaling.message(349_536) == 3_500
    for K in (16, 64, 256, 1_024, 4_096):
        whole = table[f"{K:,}", f"groups of 4, {round(math.log2(K)) // 2} levels"]
        assert whole[:3] == ["1", "3.50 kB", "3.50 kB"]  # whatever K is
        assert table[f"{K:,}", "groups of 8"][:2] == [f"{K // 8:,}", "3.50 kB"]
        assert table[f"{K:,}", "one level"][1] == scaling._bytes(3_500 * (K - 1))
        adam = table[f"{K:,}", "Adam, all-reduce"]
        assert adam[1] == scaling._bytes(reduced(4 * 349_536, K))
        seconds = reduced(4 * 349_536, K) / 1.25e6 + 2 * math.log2(K) * 0.02
        assert adam[5] == scaling._seconds(seconds)
    # 16 workers at 1 Gbit/s: 6 messages up, 4 down; 2 hops up, 4 down, 0.3 ms each.
    assert table["16", "groups of 4, 2 levels"][7] == scaling._seconds(10 * 3_500 / 1.25e8 + 6 * 3e-4)


@pytest.mark.skipif(not (CHECKOUT / "docs").is_dir(), reason="no docs beside the tests")
def test_the_pages_say_what_the_results_say():
    import paper_places
    import write_pages as script

    pages = {path: path.read_text(encoding="utf-8") for path in script.PAGES}
    names = [match[1] for page in pages.values() for match in script.PLACE.findall(page)]
    assert set(names) == {
        *script.TABLES,
        *script.VALUES,
        *script.MODELS,
        *paper_places.PLACES,
    }  # everything has its place, once
    assert len(names) == len(set(names))
    results = script.ARGUMENTS.get_default("results")
    documents = {path.name: script.read(path) for path in (results / "performance").glob("*.json*")}
    known = paper_places.known(results)
    for path, page in pages.items():
        assert script.fill(page, documents, known) == page, f"{path}: run python benchmarks/write_pages.py"


def test_the_searches_for_d_stand_beside_those_of_li_et_al(tmp_path):
    import dimension
    import write_pages as script

    options = dimension.ARGUMENTS.parse_args(["mnist-lenet", "--epochs", "3", "--data-dir", "somewhere"])
    words = dimension.words("mnist-lenet", options)
    assert words[:3] == ["dimension", "--set", "dataset=mnist"] and words[-1].endswith("mnist-lenet-3")
    full = {"accuracy": 0.98, "n": 2}
    document = {"full": full, "settings": {"epochs": 3, "data_dir": "somewhere"}, "sittings": [], "below": 256}
    path = tmp_path / "dimension.jsonl"
    origin = {"machine": {"processor": "a CPU", "usable_cores": 1}, "commit": "0123456789abcd", "modified": False}
    origin["versions"] = {"python": "3.11", "tensorflow": "2.21", "keras": "3", "numpy": "2"}
    dimension.keep(path, "mnist-lenet", {**document, **origin, "dim": 512, "finished": False})
    dimension.keep(path, "mnist-fc200", {**document, **origin, "dim": None, "finished": True, "below": 9})
    assert "not finished: over 256, at most 512 | 290 |" in dimension.table(script.read(path)["rows"])
    dimension.keep(path, "mnist-lenet", {**document, **origin, "dim": 279, "finished": True})
    page = script.fill("<!-- bench: dimension --><!-- /bench -->", {path.name: script.read(path)})
    first, second = re.findall(r"\| mnist .*", page)
    assert first == "| mnist | fc200 | 199,210 | 3 | 2 | 98.00 % | none | 750 |"
    assert second == "| mnist | lenet | 44,426 | 3 | 2 | 98.00 % | 279 (256 does not reach) | 290 |"
    assert "`python benchmarks/dimension.py; each row of the file has its command`" in page
    assert "somewhere" not in path.read_text()


def test_exponents_on_the_command_line():
    from documents import powers

    assert powers("-7..-5") == [-7, -6, -5] and powers("-3,1") == [-3, 1]


def test_growth_of_memory_is_a_slope_after_the_warm_up(monkeypatch, capsys):
    import memory_growth as growth

    assert growth.memory() > 1
    assert growth.slope([0.0, 90.0, 10.0, 12.0, 14.0], warm_up=2) == pytest.approx(2.0)
    monkeypatch.setattr(sys, "argv", ["memory_growth.py", "--models", "3", "--warm-up", "2"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "leaves no two points" in capsys.readouterr().err
