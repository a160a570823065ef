"""The table of settings for ``--help``."""

import json
import textwrap

from rbd_ipu.config.schema import FIELDS


def describe_keys(width: int = 96) -> str:
    """Every key with what it accepts, its default, its meaning and the methods that take it."""
    lines = ["settings (for --set KEY=VALUE, and lines `KEY: VALUE` of a --config file):"]
    column = max(map(len, FIELDS)) + 4
    for name, facts in FIELDS.items():
        default = facts["default"]
        written = json.dumps(default) if default is None or isinstance(default, bool) else default  # null, true
        only = f" (only {', '.join(facts['methods'])})" if facts["methods"] else ""
        head = f"  {name:<{column - 2}}{facts['kind']}; default {written}"
        indent = " " * column
        for text, start in ((head, ""), (facts["meaning"] + only, indent)):
            lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)
