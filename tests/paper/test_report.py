"""The report: whole, well-formed, self-contained, and with the numbers of the results."""

import json
import re
from html.parser import HTMLParser

import pytest
from fake_runs import folder, result

from rbd_ipu.cli import main
from rbd_ipu.config import resolve
from rbd_ipu.lab import presets, results
from rbd_ipu.lab.figures import Line, Panel
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.report import HEIGHT, LEFT, WIDTH, beside_the_paper, chart, page, table, ticks

VOID = {"meta", "line", "circle", "polygon", "polyline"}


class Checker(HTMLParser):
    """Collects what a page refers to, and fails on elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.charts, self.names = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.append(tag)
        self.links += [attributes[key] for key in ("src", "href", "data", "action") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.charts += [json.loads(attributes["data-chart"])] if "data-chart" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def rows():
    found = {(cell.row, cell.column): cell for cell in cells(presets.load("table1"), budget("full"))}
    made = [
        result(config, [0.4 + 0.005 * epoch + 0.01 * config.seed for epoch in range(100)])
        for column in ("RBD", "SGD")
        for config in found["FC-MNIST", column].configs
    ]
    return [*made, result(resolve({"learning_rate": 0.5, "network": "cnn", "epochs": 3}), [0.2, 0.3, 0.4])]


@pytest.fixture(scope="module")
def text(rows, tmp_path_factory):
    return page(rows, tmp_path_factory.mktemp("nothing"), "2026-01-01T00:00:00Z")


def test_it_is_well_formed_and_loads_nothing(text):
    checker = checked(text)
    assert all(link.startswith("#") for link in checker.links)
    assert {link[1:] for link in checker.links} <= set(checker.ids)
    assert len(checker.ids) == len(set(checker.ids))
    assert not re.search(r"https?://|url\(|@import|//cdn", text)
    assert checker.names.count("script") == 1 and not {"link", "img", "iframe"} & set(checker.names)


def test_it_fits_a_phone_and_the_dark(text):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme:dark" in text and 'lang="en"' in text


def test_it_has_the_numbers_beside_the_papers(text):
    assert "90.50 ± 1.00 (1.00)<small>paper 93.893 ± 0.024 (0.96)</small>" in text
    assert "Table 4: Learning rates" in text and "commit 0123456; A processor, 2 cores, Linux" in text
    assert "cnn on digits: 1 run<" in text


def test_curves_carry_their_numbers(text):
    charts = checked(text).charts
    line = next(line for chart in charts for line in chart["lines"] if line["name"] == "RBD")
    assert len(line["at"]) == len(line["x"]) == len(line["y"]) == len(line["text"]) == 100
    assert (line["x"][-1], line["y"][-1], line["text"][-1]) == ("100", 90.5, "90.5 ± 1")


def test_words_are_escaped(rows):
    settings = {**rows[-1]["settings"]}
    strange = {**rows[-1], "settings": settings, "machine": {"processor": "<script>alert('x')</script>"}}
    assert "<script>alert" not in page([strange], presets.FOLDER, "now")


def test_an_empty_page_says_so(tmp_path):
    text = page([], tmp_path, "now")
    checked(text)
    assert "No runs." in text and "Nothing measured in these results: Figure 1" in text


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("n", [1, 2, 30, 2000])
def test_a_chart_stays_in_its_frame(n, log):
    x = [float(i + 1) for i in range(n)]
    lines = [
        Line("a & b", x, [50.0 + i / n for i in range(n)], [1.0] * n, 1, 3),
        Line("c", x, [0.0] * n, [0.0] * n, None, 1),
    ]
    text = chart(Panel("title", "epoch", "value", lines, log_x=log), {"a & b": 0, "c": 1})
    checker = checked(text)
    for points in re.findall(r'points="([^"]*)"', text):
        for pair in points.split():
            across, down = map(float, pair.split(","))
            assert 0 <= across <= WIDTH and 0 <= down <= HEIGHT
    (data,) = checker.charts
    assert data["lines"][0]["x"][-1] == f"{n}" and len(data["lines"][0]["x"]) <= 400


@pytest.mark.parametrize("values", [[0.25, 0.08, 0.0025], [1.0], [0.0, 1.0], [-1.0, 3.0]])
def test_a_logarithmic_axis_has_powers_of_ten_or_is_none(values):
    x = [10.0 ** (i + 1) for i in range(len(values))]
    line = Line("a", x, values, [0.5 * abs(value) for value in values], None, 9)
    text = chart(Panel("title", "n", "value", [line], log_x=True, log_y=True), {"a": 0})
    marks = re.findall(rf'<text x="{LEFT - 6}" [^>]*>([^<]*)<', text)  # beside the axis
    if min(values) > 0:
        assert {float(mark) for mark in marks} <= {10.0**power for power in range(-4, 3)}
    assert len(marks) >= 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (93.2, 95.1), (-3, 4), (5, 5), (0, 0), (1e-4, 2e-4), (0, 1e6)])
def test_ticks_cover_their_range(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8 and marks == sorted(set(marks))
    assert all(mark == round(mark) for mark in ticks(low, high, least=1.0))


def test_the_papers_numbers_stand_below_ours_in_one_cell():
    lines = [["", "A", "A, paper", "B"], ["x", "1", "2", "3"], ["y", "-", "", "4"]]
    text = beside_the_paper(lines)
    assert text.count("<th") - text.count("<thead") == 3 and "1<small>paper 2</small>" in text
    assert text.count("<small>") == 1
    assert beside_the_paper([["", "A"], ["x", "1"]]) == table([["", "A"], ["x", "1"]])


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = resolve({"learning_rate": 0.5, "epochs": 2})
    folder(tmp_path / "runs" / "a", config, [0.1, 0.2])
    (tmp_path / "results").mkdir()
    results.write("results/more.jsonl", [result(resolve({"learning_rate": 0.25, "epochs": 1}), [0.3])])
    assert main(["report", "runs"]) == 0
    assert capsys.readouterr().out == "report.html: 2 runs\n"
    checked((tmp_path / "report.html").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["--output", "report.pdf"], "must end in .html"),
        (["--output", "no/report.html"], "there is no folder no"),
    ],
)
def test_wrong_arguments(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_speed_of_this_repository(tmp_path):
    performance = presets.FOLDER.parents[2] / "results" / "performance"
    if not performance.is_dir():
        pytest.skip("no results beside the package")
    text = page([], performance, "now")
    checked(text)
    assert 'id="speed"' in text and "The cost of a step" in text


def test_the_paper_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert main(["report", "--paper"]) == 0
    assert capsys.readouterr().out == "paper.html: 0 runs\n"
    checker = checked((tmp_path / "paper.html").read_text())
    assert {"claims", "rbd", "tables", "figures", "environment"} <= set(checker.ids)
    assert not {"runs", "speed"} & set(checker.ids)
