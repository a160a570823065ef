"""What is wrong with each operation of a program, and a table of the findings of all rows."""

import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from rbd_ipu._compat import keras, tf
from rbd_ipu.devices.ipu.lint import trace
from rbd_ipu.devices.ipu.lint.rules import LOOPS, RULES, Functions, Operation, describe, judge, judge_hlo
from rbd_ipu.devices.ipu.lint.trace import Refused, Row
from rbd_ipu.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[3]
LIBRARIES = (os.sep + "tensorflow" + os.sep, os.sep + "keras" + os.sep)


class Finding(NamedTuple):
    """A fault of one operation.

    Attributes:
      message: what is wrong, in words.
      operation: the operation and its types, "Mul(T=uint32)".
      name: its name, behind those of the functions that it is in.
      line: the line of Python that made it, "rbd_ipu/seeds.py:48"; "" if none is known.
    """

    message: str
    operation: str
    name: str
    line: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (f"{self.operation} {self.name}".rstrip(), self.line) if part)
        return f"{self.message} [{where}]"


class Report(NamedTuple):
    """What the lint saw of a program.

    Attributes:
      findings: the faults, none of them twice.
      kinds: every kind of operation with its types, as text.
      operations: how many operations there are.
      loops: how many of them are loops.
    """

    findings: Tuple[Finding, ...]
    kinds: Tuple[str, ...]
    operations: int
    loops: int


def lint(graph: Any) -> Report:
    """Holds a traced program against the record.

    Args:
      graph: the graph of a concrete function, ``f.get_concrete_function(...).graph``, of TensorFlow 2.6.
    """
    found: Dict[Tuple[str, str], Finding] = {}
    kinds: Set[str] = set()
    operations = loops = 0
    for op, path, functions in walk(graph):
        operation = describe(op)
        kinds.add(str(operation))
        operations += 1
        loops += op.type in LOOPS
        for message in [*judge(operation), *(text for rule in RULES for text in rule(op, functions))]:
            finding = Finding(message, str(operation), "/".join([*path, op.name]), line_of(op))
            found.setdefault((message, finding.line), finding)
    return Report(tuple(found.values()), tuple(sorted(kinds)), operations, loops)


def walk(graph: Any) -> Iterator[Tuple[Any, Tuple[str, ...], Functions]]:
    """Every operation of a graph and of the functions that it reaches, each function once.

    Yields:
      (the operation, the names of the functions it is in, the graphs of those it calls by attribute).
    """
    seen: Set[str] = set()
    waiting: List[Tuple[Any, Tuple[str, ...]]] = [(graph, ())]
    while waiting:
        inside, path = waiting.pop(0)
        for op in inside.get_operations():
            functions = called(op)
            yield op, path, functions
            for function in functions.values():
                if function.name not in seen:
                    seen.add(function.name)
                    waiting.append((function, (*path, op.name)))


def called(op: Any) -> Functions:
    """The graphs of the functions that an operation calls, by attribute.

    Raises:
      LookupError: a function's graph is not known, so that its operations cannot be judged.
    """
    functions = {}
    for attribute in op.op_def.attr:
        if attribute.type == "func":
            functions[attribute.name] = _graph_of(op, op.get_attr(attribute.name).name)
        elif attribute.type == "list(func)":
            for number, value in enumerate(op.get_attr(attribute.name)):
                functions[f"{attribute.name}[{number}]"] = _graph_of(op, value.name)
    return functions


def _graph_of(op: Any, name: str) -> Any:
    graph = op.graph
    while graph is not None:
        function = graph._functions.get(name)
        if function is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise LookupError(f"the function {name} of {op.type} {op.name} is not in the graph's library")


def line_of(op: Any) -> str:
    """The last line of Python outside TensorFlow and Keras that led to an operation."""
    try:
        frames = list(op.traceback)
    except AttributeError:  # TensorFlow made it without Python
        return ""
    for frame in reversed(frames):
        path = frame.filename
        if not any(library in path for library in LIBRARIES) and not path.startswith("<"):
            return place(path, frame.lineno)
    return ""


def place(path: str, line: Any) -> str:
    """A line of Python as "rbd_ipu/seeds.py:48"; of a file outside this package only the name is given."""
    try:
        short = str(Path(path).resolve().relative_to(PACKAGE.parent))
    except ValueError:
        short = os.path.basename(path)
    return f"{short}:{line}"


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
            return ["is clean, but listed as not ready: take it off NOT_READY in rbd_ipu/devices/ipu/lint/trace.py"]
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
    if not tf.__version__.startswith("2.6."):
        raise ConfigError(
            "devices lint traces on TensorFlow 2.6, which Graphcore's is built on; this is "
            f'{tf.__version__}: use a Python 3.8 with pip install "rbd-ipu[cpu]"'
        )


def results(rows: Iterable[Row], tell: Callable[[str], None] = lambda _: None) -> List[Result]:
    """Traces and lints every row, in order; rows that are there to show different parts of one program share it."""
    known: Dict[Row, Result] = {}
    found = []
    for row in rows:
        program = row._replace(subject=Row().subject)
        if program not in known:
            keras.backend.clear_session()  # what the row before has built
            tell(str(row))
            known[program] = _result(program)
        found.append(known[program]._replace(row=row))
    return found


def _result(row: Row) -> Result:
    try:
        program = trace.trace(row)
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


__all__ = ["Finding", "Operation", "Report", "called", "line_of", "lint", "walk"]
