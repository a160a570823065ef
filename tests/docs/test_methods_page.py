"""docs/methods.md: every method and option is in it, and its command lines are right."""

import re
import shlex
from pathlib import Path

from rbd_ipu.config import FIELDS, from_assignments, resolve
from rbd_ipu.methods import METHODS
from rbd_ipu.methods.gradients import WHICH
from rbd_ipu.methods.rbd_options import TRANSFORMS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_row_and_every_key_is_there():
    for name in METHODS:
        assert f"\n## {name}" in TEXT and f"\n| `{name}` |" in TEXT
    keys = [key for key, facts in FIELDS.items() if facts["methods"]]
    for name in (*keys, *WHICH, *TRANSFORMS):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", TEXT), name


def test_the_command_lines_are_right():
    lines = re.findall(r"^    rbd-ipu train (.*)$", TEXT, re.MULTILINE)
    found = set()
    for line in lines:
        words = shlex.split(line)
        assert words[::2] == ["--set"] * (len(words) // 2)
        found.add(resolve(from_assignments(words[1::2])).method)
    assert found == set(METHODS)


def test_the_table_says_which_workers_can_share():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", TEXT, re.MULTILINE)
    assert {name for name, answer in rows if answer == "no"} == {"gradients", "switch"}
