"""``rbd-ipu table N``, ``rbd-ipu figure N`` and ``rbd-ipu report``: the paper's numbers beside ours.

A table or a figure is trained where it is not yet known; a report shows what is known as one HTML page.
"""

import argparse
import functools
from pathlib import Path

from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import paper

configure_table = functools.partial(paper.configure, kind="table")
configure_figure = functools.partial(paper.configure, kind="figure")
run_table = functools.partial(paper.run, kind="table")
run_figure = functools.partial(paper.run, kind="figure")


def configure_report(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="folders with runs, at whatever depth")
    add("--output", type=Path, metavar="FILE", help="default report.html, with --paper paper.html; is replaced")
    add("--paper", action="store_true", help="the paper alone: claims, tables, figures; no list of runs, no speed")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="published results; default results")


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the page; returns the exit status."""
    from rbd_ipu import files
    from rbd_ipu.lab.paper import known
    from rbd_ipu.lab.report import page
    from rbd_ipu.lab.results import read
    from rbd_ipu.provenance import now

    if arguments.output is None:
        arguments.output = Path("paper.html" if arguments.paper else "report.html")
    if arguments.output.suffix not in (".html", ".htm"):
        raise ConfigError(f"--output {arguments.output}: must end in .html")
    if not arguments.output.parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: there is no folder {arguments.output.parent}")
    rows = known(arguments.results, arguments.folders)
    findings = [row for place in (*arguments.folders, arguments.results) for row in read(place, "analysis")]
    text = page(rows, arguments.results / "performance", now(), findings, arguments.paper)
    files.write_text(arguments.output, text)
    print(f"{arguments.output}: {len(rows)} runs")
    return 0
