"""The page: everything inside it, nothing fetched."""

from pathlib import Path
from typing import Any, Sequence

from rbd_ipu import __version__
from rbd_ipu.paper.claims import Known
from rbd_ipu.paper.measure import Index
from rbd_ipu.paper.results import Row
from rbd_ipu.report import sections
from rbd_ipu.report.markup import element, escaped
from rbd_ipu.report.script import SCRIPT
from rbd_ipu.report.style import STYLE

TITLE = "Training in random subspaces: results"
_SUMMARY = (
    "rbd_ipu beside the paper Improving Neural Network Training in Low Dimensional Random Bases (Gressmann, "
    "Eaton-Rosen and Luschi, NeurIPS 2020). A number in square brackets refers to a remark on what is not as in the "
    "paper; curves show their values under the pointer."
)


def page(
    rows: Sequence[Row], performance: Path, made: str, findings: Sequence[Any] = (), paper_only: bool = False
) -> str:
    """The report as one HTML document.

    Args:
      rows: results, each run once.
      performance: the folder of the files of ``rbd-ipu bench``; it may be missing.
      made: when the page was made, for its foot.
      findings: results of analyses.
      paper_only: leave out the list of runs and the speed.
    """
    index = Index(rows)
    tables, grids = sections.of_the_paper("table", index)
    figures, more = sections.of_the_paper("figure", index, findings)
    parts = [sections.of_claims(Known(rows, findings, performance)), sections.of_noise(index), tables, figures]
    parts += [] if paper_only else [sections.of_runs(rows), sections.of_speed(performance)]
    parts.append(sections.of_environment(rows))
    anchors = [("claims", "Claims"), ("rbd", "What RBD is"), ("tables", "Tables"), ("figures", "Figures")]
    anchors += [("runs", "Runs"), ("speed", "Speed")]
    links = [
        element("li", element("a", escaped(name), href=f"#{anchor}"))
        for anchor, name in [*anchors, ("environment", "Environment")]
        if any(f'id="{anchor}"' in part for part in parts)
    ]
    head = element(
        "head",
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        element("title", escaped(TITLE)),
        element("style", STYLE),
    )
    header = element("header", element("h1", escaped(TITLE)), element("p", escaped(_SUMMARY)))
    foot = element("footer", escaped(f"Made by rbd-ipu {__version__}, {made}."))
    body = element(
        "body",
        header,
        element("nav", element("ul", *links)),
        element("main", sections.tiles([*grids, *more], rows), *parts, foot),
        element("script", SCRIPT),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
