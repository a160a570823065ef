"""The signatures of the record, read: what a stand-in checks the arguments of a call with."""

import ast
import inspect
from typing import Any, NamedTuple


class Source(NamedTuple):
    """A default that is an expression of Graphcore's sources and not a literal, such as ``dtypes.float32``."""

    text: str


def parse(text: str) -> inspect.Signature:
    """A signature as :func:`rbd_ipu.devices.record.api` writes it, ready to bind arguments with.

    Returns:
      An ``inspect.Signature`` without self; its defaults are literals, or a :class:`Source` each.

    Raises:
      ValueError: not a signature of the record; a property has none.

    Example:
      >>> bound = parse("(config, device='cpu', **kwargs)").bind(1, reset=True)
      >>> bound.arguments["kwargs"]
      {'reset': True}
    """
    kind, bracket, rest = text.partition("(")
    if not bracket or kind not in ("", "classmethod ", "staticmethod "):
        raise ValueError(f"must be a signature such as \"(config, device='cpu')\", not {text!r}")
    function = ast.parse(f"def f({rest}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    given = function.args
    missing = [inspect.Parameter.empty] * (len(given.args) - len(given.defaults))
    defaults = missing + [_default(node, f"def f({rest}: pass") for node in given.defaults]
    found = [
        inspect.Parameter(argument.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for argument, default in zip(given.args, defaults)
    ]
    if given.vararg:
        found.append(inspect.Parameter(given.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    if given.kwarg:
        found.append(inspect.Parameter(given.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(found)


def _default(node: ast.expr, source: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Source(ast.get_source_segment(source, node) or "")
