"""Every operation of a traced program, through all functions that it calls, and what is wrong with each."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Set, Tuple

from rbd_ipu.devices.lint.ops import Operation, describe, judge
from rbd_ipu.devices.lint.structure import LOOPS, RULES, Functions

PACKAGE = Path(__file__).resolve().parents[2]
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


__all__ = ["Finding", "Operation", "Report", "called", "line_of", "lint", "walk"]
