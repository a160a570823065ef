"""Fills docs/performance.md with the numbers of the measurements: none of them is typed by hand.

    python benchmarks/write_performance.py [--results results/performance] [--page docs/performance.md] [--check]

Every place that looks like ``<!-- bench: NAME -->...<!-- /bench -->`` is written anew from the JSON files; NAME is a
table of TABLES or a value of VALUES below. What has not been measured says so. With --check nothing is written, and
the exit status is 1 if something would be.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

import accuracy_tables
import roofline

from rbd_ipu.bench import table, targets
from rbd_ipu.records import atomic, optional

CHECKOUT = Path(__file__).resolve().parents[1]
ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--results", type=Path, default=CHECKOUT / "results" / "performance")
ARGUMENTS.add_argument("--page", type=Path, default=CHECKOUT / "docs" / "performance.md")
ARGUMENTS.add_argument("--check", action="store_true", help="only say whether the page is up to date")

PLACE = re.compile(r"(<!-- bench: (\S+) -->)(.*?)(<!-- /bench -->)", re.DOTALL)
PARTS = ("threads", "passes", "transform", "memory")  # of the roofline
MISSING = "*not measured yet*"
Document = Mapping[str, Any]


def source(document: Document) -> str:
    """The line under a table: command, rounds, machine, versions, commit."""
    machine, versions = document["machine"], document["versions"]
    load = document.get("load_average", {}).get("begin")
    rounds = f"{document['rounds']} rounds; " if isinstance(document.get("rounds"), int) else ""
    commit = (document["commit"] or "no commit")[:10] + (" with changes" if document["modified"] else "")
    busy = "" if load is None else f", load {load[0]:.1f} at the start"
    return (
        f"`{document['command']}`; {rounds}{machine['processor']}, {machine['usable_cores']} cores{busy}; "
        f"Python {versions['python']}, TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, "
        f"NumPy {versions['numpy']}; commit {commit}"
    )


def _rows(document: Document) -> str:
    return table.render(document["rows"], table.markdown)


def _ceilings(document: Document) -> str:
    lines = [["distribution", "source", "D", "G samples/s"]]
    for row in document["ceilings"]:
        rate = table.figures(row["samples_per_second"] / 1e9)
        lines.append([row["distribution"], row["source"], f"{row['size']:,}", rate])
    return table.markdown(lines, 2)


def _verdicts(document: Document) -> str:
    return table.markdown(targets.lines(document["targets"]), 2)


def _roofline(what: str) -> Callable[[Document], str]:
    def render(document: Document) -> str:
        lines = roofline.lines([row for row in document["rows"] if row["what"] == what])
        used = [i for i in range(1, len(lines[0])) if any(line[i] != "-" for line in lines[1:])]
        left = sum(lines[0][i] in ("distribution", "source", "pass") for i in used)
        return table.markdown([[line[i] for i in used] for line in lines], left)

    return render


def _accuracy(part: str) -> Callable[[Document], str]:
    return lambda document: accuracy_tables.PARTS[part](document[part])


# Name of a place -> file of the measurement, what is written there.
TABLES: Dict[str, Any] = {
    "targets": ("targets.json", _verdicts),
    "targets-rows": ("targets.json", _rows),
    "targets-ipu-stack": ("targets-ipu-stack.json", _verdicts),
    "cost": ("cost.json", _rows),
    "ceilings": ("cost.json", _ceilings),
    "compartments": ("compartments.json", _rows),
    "memory": ("memory.json", _rows),
    "keras": ("keras.json", _rows),
    **{
        f"roofline-{what}": ("roofline.json", _roofline(what))
        for what in ("threads", "passes", "transform", "memory")
    },
    **{f"accuracy-{part}": ("accuracy.json", _accuracy(part)) for part in accuracy_tables.PARTS},
}


def _part(what: str, **wanted: Any) -> Callable[[Document], Any]:
    """The first row of the roofline with these facts."""

    def find(document: Document) -> Any:
        for row in document["rows"]:
            if row["what"] == what and all(row[name] == value for name, value in wanted.items()):
                return row
        raise KeyError(f"no row {what} {wanted}")

    return find


def _rate_a_core(row: Mapping[str, Any]) -> str:
    return f"{table.figures(row['samples'] / row['ms'] / 1e6 / row['threads'])} G samples/s"


def _ms(row: Mapping[str, Any]) -> str:
    return f"{table.figures(row['ms'])} ms"


def _gigabytes(row: Mapping[str, Any]) -> str:
    return f"{table.figures(row['gigabytes'] / row['ms'] * 1e3)} GB/s"


_native = {"source": "native"}
# Values inside a sentence, all of roofline.json: what to find, how to write it.
VALUES: Dict[str, Any] = {
    "normal-a-core": (_part("threads", distribution="normal", threads=1), _rate_a_core),
    "uniform-a-core": (_part("threads", distribution="uniform", threads=1), _rate_a_core),
    "rademacher-a-core": (_part("threads", distribution="rademacher", threads=1), _rate_a_core),
    "transform-native": (_part("transform", d=10_000, **_native), _ms),
    "transform-counter": (_part("transform", d=10_000, source="counter"), _ms),
    "overhead-native": (_part("overhead", **_native), _ms),
    "overhead-counter": (_part("overhead", source="counter"), _ms),
    "memory-add": (_part("memory", **{"pass": "add"}), _gigabytes),
}


def fill(page: str, documents: Mapping[str, Document]) -> str:
    """The page with every place written anew.

    Args:
      page: the text as it is.
      documents: file name -> its content, of those that are there.

    Raises:
      ValueError: a place has a name that stands for nothing, or a place is not closed.
    """
    opened, closed = page.count("<!-- bench: "), page.count("<!-- /bench -->")
    if opened != closed or opened != len(PLACE.findall(page)):
        raise ValueError(f"the page opens {opened} places and closes {closed}: <!-- bench: NAME --><!-- /bench -->")

    def place(match: Any) -> str:
        name = match.group(2)
        if name in TABLES:
            file, render = TABLES[name]
            text = f"\n{_text(documents.get(file), render)}\n"
        elif name in VALUES:
            find, render = VALUES[name]
            text = _value(documents.get("roofline.json"), find, render)
        else:
            accepted = ", ".join([*TABLES, *VALUES])
            raise ValueError(f"unknown place {name!r}; accepted: {accepted}")
        return f"{match.group(1)}{text}{match.group(4)}"

    return PLACE.sub(place, page)


def _text(document: Any, render: Callable[[Document], str]) -> str:
    if document is None:
        return MISSING
    try:
        return f"\n{render(document)}\n\n<sub>{source(document)}</sub>\n"
    except KeyError:  # a part of the measurement that was left out
        return MISSING


def _value(document: Any, find: Callable[[Document], Any], render: Callable[[Any], str]) -> str:
    if document is None:
        return MISSING
    try:
        return render(find(document))
    except KeyError:
        return MISSING


def main() -> int:
    """Write the page and the picture beside it; returns the exit status."""
    options = ARGUMENTS.parse_args()
    names = {file for file, _ in TABLES.values()} | {"roofline.json"}
    paths = [options.results / name for name in sorted(names)]
    documents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}
    before = options.page.read_text(encoding="utf-8")
    after = fill(before, documents)
    missing = ", ".join(path.name for path in paths if path.name not in documents)
    if missing:
        print(f"not measured yet, or not in {options.results}: {missing}")
    if options.check:
        print(f"{options.page} is {'up to date' if after == before else 'NOT up to date'}")
        return int(after != before)
    atomic.write_text(options.page, after)
    if "cost.json" in documents and optional.installed("matplotlib"):
        from rbd_ipu.bench.plot import plot

        picture = options.page.parent / "images" / "cost.png"
        picture.parent.mkdir(exist_ok=True)
        cost = documents["cost.json"]
        plot(picture, cost["rows"], f"{cost['machine']['processor']}, {cost['machine']['usable_cores']} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
