"""What is known about Graphcore's TensorFlow 2.6 (SDK 3.4) without having it: options, signatures, operations.

Read from its sources; nothing was run on an IPU. Three files of data, and a function for each:

===================  =============================================================================
ipu_options.json     ``IPUConfig``: 57 options in 15 categories, their types, defaults and enums
ipu_api.json         every public signature of ``tensorflow.python.ipu`` and ``keras.ipu``
supported_ops.tsv    every TensorFlow operation with a kernel on the IPU, and its types
===================  =============================================================================

This package imports neither TensorFlow nor the SDK.
"""

import ast
import functools
import inspect
import json
from pathlib import Path
from typing import Any, Dict, NamedTuple


class Source(NamedTuple):
    """A default that is an expression of Graphcore's sources and not a literal, such as ``dtypes.float32``."""

    text: str


def parse(text: str) -> inspect.Signature:
    """A signature as :func:`rbd_ipu.devices.ipu.sdk_record.api` writes it, ready to bind arguments with.

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


_FOLDER = Path(__file__).resolve().parent


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=None)
def options() -> Dict[str, Any]:
    """The options of ``IPUConfig``, as ``ipu_options.json`` holds them.

    Returns:
      A dict with

      - ``options``: dotted path -> ``type``, ``default``, ``doc`` and, for some, ``accepted`` or ``replaced_by``;
      - ``categories``: dotted path -> one line; categories hold options and cannot be set;
      - ``enums``: name -> members; the type and the default of an option name them;
      - ``types``: what each type accepts, in words; ``source``: where all this was read.

    Example:
      >>> options()["options"]["floating_point_behaviour.esr"]["type"]
      'StochasticRoundingBehaviour'
      >>> options()["enums"]["StochasticRoundingBehaviour"]
      ['OFF', 'ON', 'REPLICA_IDENTICAL_ONLY']
    """
    return json.loads(_text("ipu_options.json"))


@functools.lru_cache(maxsize=None)
def api() -> Dict[str, Any]:
    """Signatures, as ``ipu_api.json`` holds them.

    Returns:
      A dict with

      - ``tensorflow`` and ``keras``: full dotted name -> a function's signature as text, or for a class a dict with
        ``signature`` (of its constructor; missing where it defines none), ``bases``, ``methods`` (name -> signature
        without self, after the word property, classmethod or staticmethod where it is one) and, for an enum,
        ``members``; or ``alias_of`` for a second name (``signatures.parse`` reads the texts);
      - ``package``: what ``from tensorflow.python import ipu`` exports, and the module it comes from;
      - ``source``: the commits that were read.

    Example:
      >>> api()["tensorflow"]["tensorflow.python.ipu.ops.rand_ops.dropout"]
      '(x, rate=0.5, noise_shape=None, seed=None, name=None, **kwargs)'
    """
    return json.loads(_text("ipu_api.json"))


@functools.lru_cache(maxsize=None)
def supported_ops() -> Dict[str, Dict[str, Any]]:
    """TensorFlow operations that the IPU's compiler has a kernel for.

    Returns:
      Operation -> ``status`` ("ipu", "xla", "hlo_no", "xla?": the heading of ``supported_ops.tsv`` explains them;
      only the first two are supported) and ``types``, from each type attribute to the types it may have. What is
      not here has no kernel at all.

    Example:
      >>> supported_ops()["StatelessRandomNormalV2"]
      {'status': 'ipu', 'types': {'dtype': ['float', 'half'], 'Tshape': ['int32', 'int64']}}
    """
    rows = {}
    for line in _text("supported_ops.tsv").splitlines():
        if line.startswith("#"):
            continue
        name, status, attributes = line.split("\t")
        pairs = (part.strip().split("=") for part in attributes.split(";") if part)
        rows[name] = {"status": status, "types": {key: types.strip("{}").split(",") for key, types in pairs}}
    return rows
