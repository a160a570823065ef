"""The lint of many rows: their states, as a table for people and for the page that keeps it."""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import ConfigError
from rbd_ipu.devices.lint.hlo import judge_hlo
from rbd_ipu.devices.lint.ops import judge
from rbd_ipu.devices.lint.programs import Refused
from rbd_ipu.devices.lint.rows import Row
from rbd_ipu.devices.lint.walk import Finding, Report, lint, place

BEGIN = "<!-- rbd-ipu devices lint: begin -->"
END = "<!-- rbd-ipu devices lint: end -->"


class Result(NamedTuple):
    """What became of a row.

    Attributes:
      row: which.
      report: what the lint saw; None if there is no such program.
      refused: why there is none, in the words of the part that refuses it.
    """

    row: Row
    report: Optional[Report]
    refused: str = ""

    @property
    def findings(self) -> Tuple[Finding, ...]:
        """The faults of the program."""
        return self.report.findings if self.report else ()

    @property
    def faults(self) -> List[str]:
        """Why the row is not what it is said to be: findings nobody expects, or none where some are."""
        if self.row.not_ready and self.report and not self.findings:
            return ["is clean, but listed as not ready: take it off NOT_READY in rbd_ipu/devices/lint/rows.py"]
        return [] if self.row.not_ready else [str(finding) for finding in self.findings]

    @property
    def state(self) -> str:
        """The row's state, in words for the table."""
        if self.refused:
            return f"no such program: {self.refused}"
        if self.row.not_ready:
            return f"not ready: {self.row.not_ready}"
        return f"{len(self.findings)} findings" if self.findings else "ready"


def check_stack() -> None:
    """Refuses a TensorFlow whose operations are not those of the record.

    Raises:
      ConfigError: this is not TensorFlow 2.6.
    """
    from rbd_ipu._stack import tf

    if not tf.__version__.startswith("2.6."):
        raise ConfigError(
            "devices lint traces on TensorFlow 2.6, which Graphcore's is built on; this is "
            f'{tf.__version__}: use a Python 3.8 with pip install "rbd-ipu[cpu]"'
        )


def results(rows: Iterable[Row], tell: Callable[[str], None] = lambda _: None) -> List[Result]:
    """Traces and lints every row, in order; rows that are there to show different parts of one program share it."""
    from rbd_ipu._stack import keras
    from rbd_ipu.devices.lint.programs import trace

    known: Dict[Row, Result] = {}
    found = []
    for row in rows:
        program = row._replace(subject=Row().subject)
        if program not in known:
            keras.backend.clear_session()  # what the row before has built
            tell(str(row))
            known[program] = _result(program, trace)
        found.append(known[program]._replace(row=row))
    return found


def _result(row: Row, trace: Callable[[Row], Any]) -> Result:
    try:
        program = trace(row)
    except Refused as error:
        return Result(row, None, str(error))
    except Exception as error:  # a row that cannot be traced is a finding among others
        found = Finding(f"the program cannot be traced: {type(error).__name__}: {error}", row.name, "", "")
        return Result(row, Report((found,), (), 0, 0))
    seen = lint(program.graph)
    edges = {str(edge): edge for edge in program.edges}
    more = [Finding(message, name, "", "") for name, edge in edges.items() for message in judge(edge)]
    try:
        more += [
            Finding(fault.message, f"HLO of {fault.kind}", fault.name, place(fault.file, fault.line))
            for fault in judge_hlo(program.lower())
        ]
    except ValueError as error:
        more.append(Finding(f"XLA cannot lower the program: {error}", "HLO", "", ""))
    kinds = tuple(sorted({*seen.kinds, *edges}))
    return Result(row, seen._replace(findings=(*seen.findings, *more), kinds=kinds))


def table(found: Sequence[Result]) -> str:
    """The states as a Markdown table, a line for each row's subject."""
    lines = ["| | | on an IPU |", "|---|---|---|"]
    before = ""
    for result in found:
        kind, name = result.row.subject
        lines.append(f"| {kind if kind != before else ''} | `{name}` | {result.state} |")
        before = kind
    return "\n".join(lines)


def write(path: Path, block: str) -> str:
    """The text of a page with ``block`` between its markers.

    Raises:
      ConfigError: there is no such page, or it does not have the markers once each, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--write {path}: cannot be read: {error.strerror}") from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in tail:
        raise ConfigError(f"--write {path}: needs the lines {BEGIN!r} and {END!r}, once each")
    return f"{head}{BEGIN}\n{block}\n{END}{tail}"
