"""Fills the README and the pages of docs/ with what was measured: none of their numbers is typed by hand.

    python benchmarks/write_pages.py [--results results] [--page docs/performance.md ...] [--check]

Every place that looks like ``<!-- bench: NAME -->...<!-- /bench -->`` is written anew: NAME is a table of TABLES or a
value of VALUES below, from the JSON files of results/performance, one of the PLACES of paper_places.py, from the rows
of runs, or one of the tables of MODELS, which are computed. What has not been measured says so. With --check nothing
is written, and the exit status is 1 if something would be.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

import accuracy_tables
import comparison
import dimension
import fine_tune
import paper_places
import roofline
import scaling

from rbd_ipu import files, text_table
from rbd_ipu.lab.bench import report as targets
from rbd_ipu.lab.bench.report import render as rendered

CHECKOUT = Path(__file__).resolve().parents[1]
ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
NAMES = ("choosing", "comparison", "dimension", "fine-tune", "optimizer", "performance", "reproduction", "scaling")
PAGES = [CHECKOUT / "README.md", *(CHECKOUT / "docs" / f"{name}.md" for name in NAMES)]
ARGUMENTS.add_argument("--results", type=Path, default=CHECKOUT / "results")
ARGUMENTS.add_argument("--page", type=Path, action="append", help="may be repeated; default: all that have places")
ARGUMENTS.add_argument("--check", action="store_true", help="only say whether the pages are up to date")

PLACE = re.compile(r"(<!-- bench: (\S+) -->)(.*?)(<!-- /bench -->)", re.DOTALL)
# A line for each run, each search.
LANGUAGE_MODEL, DIMENSION, FINE_TUNE = "language_model.jsonl", "dimension.jsonl", "fine_tune.jsonl"
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
    return rendered(document["rows"], text_table.markdown)


def _ceilings(document: Document) -> str:
    lines = [["distribution", "source", "D", "G samples/s"]]
    for row in document["ceilings"]:
        rate = text_table.figures(row["samples_per_second"] / 1e9)
        lines.append([row["distribution"], row["source"], f"{row['size']:,}", rate])
    return text_table.markdown(lines, 2)


def _verdicts(document: Document) -> str:
    return text_table.markdown(targets.lines(document["targets"]), 2)


def _roofline(what: str) -> Callable[[Document], str]:
    def render(document: Document) -> str:
        lines = roofline.lines([row for row in document["rows"] if row["what"] == what])
        used = [i for i in range(1, len(lines[0])) if any(line[i] != "-" for line in lines[1:])]
        left = sum(lines[0][i] in ("distribution", "source", "pass") for i in used)
        return text_table.markdown([[line[i] for i in used] for line in lines], left)

    return render


def _accuracy(part: str) -> Callable[[Document], str]:
    return lambda document: accuracy_tables.PARTS[part](document[part])


def _demo(document: Document) -> str:
    lines = [["", "d", "D / d", "accuracy"]]
    words = {"SGD": "SGD", "RBD": "RBD: new directions at every step", "FPD": "FPD: the first directions, kept"}
    for row in document["table"]:
        accuracy = f"{row['test_accuracy_mean']:.1f} ± {row['test_accuracy_std']:.1f} %"
        lines.append([words[row["method"]], f"{row['d']:,}", f"{row['compression']:.0f}", accuracy])
    return text_table.markdown(lines, 1)


def _of_rows(table: Callable[..., str]) -> Callable[[Document], str]:
    return lambda document: table(document["rows"])


def _optimizer_cost(document: Document) -> str:
    lines = [["optimizer", "ms a step", "x SGD", "x Adam", "peak memory, MB", "over SGD, in 4 D bytes"]]
    for row in document["rows"]:
        low, high = row["ms_quartiles"]
        lines.append([
            row["case"], f"{row['ms']:.0f} ({low:.0f} to {high:.0f})",
            f"{row['to_sgd']:.2f}", f"{row['to_adam']:.2f}",
            f"{row['peak_bytes'] / 2**20:,.0f}", f"{row['over_sgd']:+.1f}",
        ])  # fmt: skip
    return text_table.markdown(lines, 1)


# Name of a place -> file of the measurement, what is written there.
TABLES: Dict[str, Any] = {
    "demo": ("demo.json", _demo),
    "targets": ("targets.json", _verdicts),
    "targets-rows": ("targets.json", _rows),
    "targets-ipu-stack": ("targets-ipu-stack.json", _verdicts),
    "cost": ("cost.json", _rows),
    "ceilings": ("cost.json", _ceilings),
    "compartments": ("compartments.json", _rows),
    "memory": ("memory.json", _rows),
    "keras": ("keras.json", _rows),
    "language-model": (LANGUAGE_MODEL, _of_rows(comparison.of_the_package)),
    "comparison": (LANGUAGE_MODEL, _of_rows(comparison.losses)),
    "comparison-cost": (LANGUAGE_MODEL, _of_rows(comparison.costs)),
    "dimension": (DIMENSION, _of_rows(dimension.table)),
    "fine-tune": (FINE_TUNE, _of_rows(fine_tune.table)),
    "optimizer-cost": ("optimizer_cost.json", _optimizer_cost),
    **{f"optimizer-cost-{of}": (f"optimizer_cost_{of}.json", _optimizer_cost) for of in ("16x128", "1m", "124m")},
    "small-networks": ("small_networks.json", _rows),
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
    return f"{text_table.figures(row['samples'] / row['ms'] / 1e6 / row['threads'])} G samples/s"


def _ms(row: Mapping[str, Any]) -> str:
    return f"{text_table.figures(row['ms'])} ms"


def _gigabytes(row: Mapping[str, Any]) -> str:
    return f"{text_table.figures(row['gigabytes'] / row['ms'] * 1e3)} GB/s"


def _bench(**wanted: Any) -> Callable[[Document], Any]:
    """The rows of ``rbd-ipu bench`` with these facts."""

    def find(document: Document) -> Any:
        rows = [row for row in document["rows"] if all(row.get(name) == value for name, value in wanted.items())]
        if not rows:
            raise KeyError(f"no row {wanted}")
        return rows

    return find


def _span(name: str, scale: float = 1.0, unit: str = "") -> Callable[[Any], str]:
    """A number of some rows, or the least and the greatest."""

    def render(rows: Any) -> str:
        found = [text_table.figures(row[name] * scale) for row in sorted(rows, key=lambda row: row[name])]
        return found[0] + unit if found[0] == found[-1] else f"{found[0]} to {found[-1]}{unit}"

    return render


def _images(rows: Any) -> str:
    return text_table.figures(rows[0]["images_per_second"])


def _target(case: str, unit: str) -> Callable[[Document], Any]:
    def find(document: Document) -> Any:
        return next(one for one in document["targets"] if (one["case"], one["unit"]) == (case, unit))

    return find


def _measured(target: Any) -> str:
    return text_table.figures(target["measured"])


def _behind(part: Mapping[str, Any]) -> str:
    """How far the Hadamard bases stay behind SGD, in points and in deviations of the seeds."""
    (sgd, first, _), (rbd, second, _) = (accuracy_tables.summary(part[name]["accuracies"]) for name in ("sgd", "rbd"))
    return f"{sgd - rbd:.1f} points behind SGD, {(sgd - rbd) / max(first, second):.1f} times the spread over seeds"


_native = {"source": "native"}
_R, _C, _T, _K = "roofline.json", "cost.json", "targets.json", "keras.json"
_CNN, _FC = {"network": "cnn-cifar10"}, {"network": "fc-mnist"}
# Values inside a sentence: the file, what to find in it, how to write it.
VALUES: Dict[str, Any] = {
    "normal-a-core": (_R, _part("threads", distribution="normal", threads=1), _rate_a_core),
    "uniform-a-core": (_R, _part("threads", distribution="uniform", threads=1), _rate_a_core),
    "rademacher-a-core": (_R, _part("threads", distribution="rademacher", threads=1), _rate_a_core),
    "transform-native": (_R, _part("transform", d=10_000, **_native), _ms),
    "transform-counter": (_R, _part("transform", d=10_000, source="counter"), _ms),
    "overhead-native": (_R, _part("overhead", **_native), _ms),
    "overhead-counter": (_R, _part("overhead", source="counter"), _ms),
    "memory-add": (_R, _part("memory", **{"pass": "add"}), _gigabytes),
    "fc-hadamard": (_C, _bench(**_FC, distribution="hadamard"), _span("ratio_to_sgd")),
    "fc-hadamard-target": (_T, _bench(**_FC, distribution="hadamard"), _span("ratio_to_sgd")),
    "fc-step": (_T, _bench(**_FC, method="sgd", loop="trainer"), _span("ms", unit=" ms")),
    "fc-step-keras": (_K, _bench(**_FC, method="sgd", loop="trainer"), _span("ms", unit=" ms")),
    "cnn-keras": (_T, _target("cnn-cifar10 sgd", "x Keras fit"), _measured),
    "cnn-keras-ipu-stack": ("targets-ipu-stack.json", _target("cnn-cifar10 sgd", "x Keras fit"), _measured),
    "cnn-xla": (_K, _bench(**_CNN, method="sgd", loop="keras-jit"), _span("ratio_to_sgd")),
    "cnn-normal-images": (_T, _bench(**_CNN, distribution="normal", source="native", d=10_000), _images),
    "cnn-hadamard": (_T, _bench(**_CNN, distribution="hadamard", d=10_000), _span("ratio_to_sgd")),
    "cnn-sgd-images": (_T, _bench(**_CNN, method="sgd", loop="trainer"), _images),
    "targets-commit": (_T, lambda document: document["commit"], lambda commit: commit[:7]),
    "hadamard-behind": ("accuracy.json", lambda document: document["sgd"], _behind),
}


# Tables of a model, in which nothing is measured.
MODELS: Dict[str, Callable[[], str]] = {
    "scaling-groups": lambda: scaling.groups(100_000_000),
    "scaling-groups-small": lambda: scaling.groups(349_536),
}


def fill(page: str, documents: Mapping[str, Document], known: Any = None) -> str:
    """The page with every place written anew.

    Args:
      page: the text as it is.
      documents: file name -> its content, of those that are there.
      known: what is on record of runs; None where nothing is.

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
            file, find, render = VALUES[name]
            text = _value(documents.get(file), find, render)
        elif name in MODELS:
            text = f"\n\n{MODELS[name]()}\n\n"
        elif name in paper_places.PLACES:
            text = f"\n\n{MISSING if known is None else paper_places.PLACES[name](known)}\n\n"
        else:
            accepted = ", ".join([*TABLES, *VALUES, *MODELS, *paper_places.PLACES])
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
    """Write the pages and the pictures beside them; returns the exit status."""
    options = ARGUMENTS.parse_args()
    names = {file for file, *_ in (*TABLES.values(), *VALUES.values())}
    paths = [options.results / "performance" / name for name in sorted(names)]
    documents = {path.name: read(path) for path in paths if path.exists()}
    known = paper_places.known(options.results)
    missing = ", ".join(path.name for path in paths if path.name not in documents)
    if missing:
        print(f"not measured yet, or not in {options.results}: {missing}")
    stale = 0
    for page in options.page or PAGES:
        before = page.read_text(encoding="utf-8")
        after = fill(before, documents, known)
        if options.check:
            print(f"{page} is {'up to date' if after == before else 'NOT up to date'}")
            stale += after != before
        else:
            files.write_text(page, after)
    if not options.check and files.installed("matplotlib"):
        if "cost.json" in documents:
            _picture(documents["cost.json"])
        if LANGUAGE_MODEL in documents:
            comparison.draw(documents[LANGUAGE_MODEL]["rows"], CHECKOUT / "docs" / "images")
    return int(stale > 0)


def read(path: Path) -> Document:
    """A document; of a file of rows, one that holds them all, with the origin of the last."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    rows = [json.loads(line) for line in text.splitlines()]
    command = f"python benchmarks/{path.stem}.py; each row of the file has its command"
    return {**rows[-1], "command": command, "load_average": {}, "rows": rows}


def _picture(cost: Document) -> None:
    from rbd_ipu.lab.bench.report import plot

    path = CHECKOUT / "docs" / "images" / "cost.png"
    plot(path, cost["rows"], f"{cost['machine']['processor']}, {cost['machine']['usable_cores']} cores")


if __name__ == "__main__":
    sys.exit(main())
