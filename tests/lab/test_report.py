"""The report: whole, well-formed, self-contained, and with the numbers of the results."""

import base64
import re
from html.parser import HTMLParser

import pytest
from fake_runs import folder, result

from rbd_ipu.cli import main
from rbd_ipu.config import resolve
from rbd_ipu.errors import ConfigError
from rbd_ipu.files import installed
from rbd_ipu.lab import presets, report, results
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.presets import budget, cells
from rbd_ipu.lab.report import beside_the_paper, page, pictures, table
from rbd_ipu.plots import Line, Panel

VOID = {"meta", "img"}
plots = pytest.mark.skipif(not installed("matplotlib"), reason="no matplotlib")
DATA = "data:image/svg+xml;base64,"


class Checker(HTMLParser):
    """Collects what a page refers to, and fails on elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.pictures, self.names = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.append(tag)
        self.links += [attributes[key] for key in ("href", "data", "action") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            source = attributes["src"]
            assert source.startswith(DATA)
            self.pictures.append((attributes["alt"], base64.b64decode(source[len(DATA) :]).decode()))
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
    assert not {"script", "link", "iframe"} & set(checker.names)
    for _, picture in checker.pictures:  # their only addresses are the names of SVG's own vocabulary
        assert not re.search(r'href="(?!#)|src=|<image|<script|@import', picture)


def test_it_fits_a_phone_and_the_dark(text):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme:dark" in text and 'lang="en"' in text


def test_it_has_the_numbers_beside_the_papers(text):
    assert "90.50 ± 1.00 (1.00)<small>paper 93.893 ± 0.024 (0.96)</small>" in text
    assert "Table 4: Learning rates" in text and "commit 0123456; A processor, 2 cores, Linux" in text
    assert "cnn on digits: 1 run<" in text


@plots
def test_pictures_have_our_curves_and_the_papers_points(text):
    found = checked(text).pictures
    own = [picture for alt, picture in found if alt == "FC-MNIST: validation accuracy (%) against epoch"]
    assert any(">RBD</text>" in picture and ">the paper, same colours</text>" in picture for picture in own)
    assert any(alt == "validation accuracy: validation accuracy (%) against epoch" for alt, _ in found)


def test_without_matplotlib_the_page_says_what_is_missing(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "installed", lambda package: package != "matplotlib")
    text = page(rows, tmp_path, "now")
    assert checked(text).pictures == [] and "rbd-ipu[plots]" in text and "numbers</summary>" in text


def test_words_are_escaped(rows):
    settings = {**rows[-1]["settings"]}
    strange = {**rows[-1], "settings": settings, "machine": {"processor": "<script>alert('x')</script>"}}
    assert "<script>alert" not in page([strange], presets.FOLDER, "now")


def test_an_empty_page_says_so(tmp_path):
    text = page([], tmp_path, "now")
    checked(text)
    assert "No runs." in text and "<img" not in text
    assert "To measure it: rbd-ipu figure 4: 18 runs, about " in text and "Table 4: " in text


def test_a_figure_without_results_is_there_and_says_what_would_make_it():
    text, _ = report.of_the_paper("figure", Index([]))
    assert {f"figure{name}" for name in presets.names("figure")} <= set(checked(text).ids)
    assert "To measure it: rbd-ipu figure B8.<" in text, "an analysis without runs"


@plots
@pytest.mark.parametrize("log", [False, True])
def test_pictures_of_one_point_and_of_many(log):
    lines = [
        Line("a & b", x, [50.0 + i for i in range(len(x))], [1.0] * len(x), 1, 3)
        for x in ([1.0], [float(i + 1) for i in range(2000)])
    ]
    text = pictures([Panel("<title>", "epoch", "value", [line], log_x=log, log_y=log) for line in lines])
    checker = checked(text)
    assert [alt for alt, _ in checker.pictures] == ["<title>: value against epoch"] * 2
    assert all("a &amp; b" in picture for _, picture in checker.pictures)
    assert text == pictures([Panel("<title>", "epoch", "value", [line], log_x=log, log_y=log) for line in lines])


@plots
def test_analyses_are_pictures_too():
    """Figures 2 and B.8: also one under another budget, which its title then says."""
    panel = Panel("100 pairs", "n", "mean |cos|", [Line("measured", [10.0, 100.0], [0.2, 0.1], [0.1, 0.1], None, 1)])
    about = {"machine": {"processor": "A processor"}, "commit": None, "modified": False}
    about["lines"] = [["n", "mean |cos|"], ["10", "0.2"]]
    found = [
        {"kind": "analysis", "preset": name, "budget": budget, **about, **analysed([panel])}
        for name, budget in (("figure2", "10x1"), ("figureB8", "full"))
    ]
    text, _ = report.of_the_paper("figure", Index([]), found)
    checker = checked(text)
    assert len(checker.pictures) == 2
    assert ">the paper, same colours</text>" in dict(checker.pictures)["100 pairs: mean |cos| against n"]
    assert "Figure 2: The loss along random directions, by their distribution [budget 10x1: " in text


def analysed(panels):
    return {"panels": [{**one._asdict(), "lines": [line._asdict() for line in one.lines]} for one in panels]}


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
        (["--results", "nowhere"], "--results nowhere: there is no such folder"),
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


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "no JSON"),
        ("[]", "a mapping was expected"),
        ("{}", "command: is missing"),
        ('{"command": "x", "rows": [{"network": 3}]}', "rows: network: must be text, not 3"),
    ],
)
def test_a_damaged_file_of_speed_is_named(content, message, tmp_path):
    (tmp_path / "targets.json").write_text(content)
    with pytest.raises(ConfigError, match=f"targets.json: {message}"):
        report.of_speed(tmp_path)


def test_the_paper_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert main(["report", "--paper"]) == 0
    assert capsys.readouterr().out == "paper.html: 0 runs\n"
    checker = checked((tmp_path / "paper.html").read_text())
    assert {"claims", "rbd", "tables", "figures", "environment"} <= set(checker.ids)
    assert not {"runs", "speed"} & set(checker.ids)
