"""YAML that says what it means: the small, strict part of YAML 1.2 that a settings file needs.

PyYAML reads YAML 1.1, in which ``1e-5`` is text, ``no`` is false, ``1:30`` is ninety and a key
given twice counts once, silently. Here PyYAML only does the parsing; what a plain word means is
decided by the short table below:

===================================  ==================================================
``null``, ``~``, nothing             None
``true``, ``false``                  bool
``12``, ``-3``                       int
``0.5``, ``1e-5``, ``.inf``, ``.nan``  float
``2**-3``, ``2**8``                  a power of two: 0.125 and 256 (read, never evaluated)
everything else, and "quoted"        str
===================================  ==================================================

Doubled keys, anchors, aliases, tags and second documents are errors that name the line. (``010`` is
text: YAML 1.1 and 1.2 disagree on whether it is eight or ten.)
"""

import re
from pathlib import Path
from typing import Any, Dict, Union

import yaml

MAX_BYTES = 1_000_000
_POWERS = range(-126, 128)  # the exponents of normal float32 numbers

_NULL = re.compile(r"null|~|")
_BOOL = re.compile(r"true|false")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|nan)")
_POWER = re.compile(r"2\*\*([-+]?[0-9]{1,4})")


class YamlError(ValueError):
    """A text or file that is not strict YAML; the message says where and why."""


def scalar(text: str) -> Union[None, bool, int, float, str]:
    """What one plain word means, by the table of this module.

    Raises:
      YamlError: a power of two outside float32's range, 2**-126 to 2**127.

    Example:
      >>> [scalar(word) for word in ("2**-3", "1e-5", "12", "true", "no", "~")]
      [0.125, 1e-05, 12, True, 'no', None]
    """
    text = text.strip()
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text == "true"
    if _INT.fullmatch(text) and len(text) <= 20:  # longer than any 64-bit integer: read as a float
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _NOT_FINITE.fullmatch(text)
    if special:
        return float(special.group(1) + special.group(2))
    power = _POWER.fullmatch(text)
    if power:
        exponent = int(power.group(1))
        if exponent not in _POWERS:
            raise YamlError(f"{text}: the exponent must be from {_POWERS[0]} to {_POWERS[-1]}")
        return 2**exponent  # an int from 2**0 upwards, a float below
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, less the parts of YAML that hide what a file says."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        what = (
            "an alias (*)" if isinstance(event, yaml.AliasEvent)
            else "an anchor (&)" if event.anchor is not None
            else "a tag (!)" if event.tag is not None
            else None
        )  # fmt: skip
        if what:
            raise yaml.composer.ComposerError(None, None, f"{what} is not accepted here", event.start_mark)
        return super().compose_node(parent, index)


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        try:
            return scalar(node.value) if node.style is None else node.value
        except YamlError as error:
            raise YamlError(f"line {node.start_mark.line + 1}: {error}") from None
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    mapping: Dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(f"line {line}: a key must be a plain word, not a list or a mapping")
        if key_node.value in mapping:
            raise YamlError(f"line {line}: the key {key_node.value!r} is given twice")
        mapping[key_node.value] = _value(value_node)
    return mapping


def loads(text: str) -> Any:
    """Reads one YAML document; mappings have text keys.

    Raises:
      YamlError: not YAML, or one of the refused parts; the message names the line.

    Example:
      >>> loads("learning_rate: 2**-3\\nsizes: [1, 2]")
      {'learning_rate': 0.125, 'sizes': [1, 2]}
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(where + "; ".join(part for part in (error.context, error.problem) if part)) from None
    except yaml.YAMLError as error:  # characters that YAML does not allow: the file is no text
        raise YamlError(f"not a YAML text ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _Dumper(yaml.SafeDumper):
    """Quotes every text that :func:`scalar` would read as something else."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if isinstance(_safely(text), str) else '"'
    ),
)


def _safely(text: str) -> Any:
    try:
        return scalar(text)
    except YamlError:  # it looks like a power of two: quote it
        return None


def dumps(mapping: Dict[str, Any]) -> str:
    """Writes a mapping so that :func:`loads` gives it back, in its own order.

    Example:
      >>> print(dumps({"dim": 3, "data_dir": "1e5"}), end="")
      dim: 3
      data_dir: "1e5"
    """
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_mapping(path: Union[str, Path]) -> Dict[str, Any]:
    """Reads a UTF-8 file (any line ends, with or without a byte-order mark) that is a mapping.

    Raises:
      YamlError: the file is missing, unreadable, a directory, too large, no UTF-8, empty, no strict
        YAML, or not a mapping; the message begins with the path.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise YamlError(f"larger than {MAX_BYTES:,} bytes: not a settings file")
        loaded = loads(content.decode("utf-8-sig"))
        if loaded is None:
            raise YamlError("the file is empty; it must hold `key: value` lines")
        if not isinstance(loaded, dict):
            raise YamlError(f"the top level must be `key: value` lines, not {_named(loaded)}")
        return loaded
    except OSError as error:
        raise YamlError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from None


def _named(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value {value!r}"
