"""mkdocs.yml names every page once; links of the pages and the README lead somewhere; command lines are right."""

import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import yaml

from rbd_ipu.config import from_assignments, resolve

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(
    not (DOCS.is_dir() and (ROOT / "mkdocs.yml").is_file()), reason="docs/ is not beside the tests"
)

PAGES = sorted(DOCS.glob("*.md")) + ([ROOT / "README.md"] if (ROOT / "README.md").is_file() else [])


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """The text without blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What the headings are called in links, by mkdocs and by git hosts alike for our headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading)).encode("ascii", "ignore").decode().lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def in_nav(entry):
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [name for value in values for name in in_nav(value)]


def test_the_navigation_has_every_page_once():
    names = in_nav(yaml.safe_load(text_of(ROOT / "mkdocs.yml"))["nav"])
    pages = [*DOCS.glob("*.md"), *DOCS.glob("notebooks/*.ipynb")]
    assert sorted(names) == sorted(path.relative_to(DOCS).as_posix() for path in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_on_command_lines_are_right(page):
    joined = text_of(page).replace("\\\n", " ")
    for line in re.findall(r"^ *rbd-ipu (?:train|tune) (.*--set .*)$", joined, re.MULTILINE):
        words = shlex.split(line, comments=True)
        given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        if not any("$" in one or one == "..." for one in given):
            assert resolve(from_assignments(given))
