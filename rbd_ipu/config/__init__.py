"""The settings of a run: one schema, read strictly, checked before anything runs."""

from rbd_ipu.config.resolve import describe_keys, from_assignments, from_file, resolve
from rbd_ipu.config.schema import FIELDS, OF_TEXT, SIZES, TEXTS, Config, takes
from rbd_ipu.errors import ConfigError

__all__ = [
    "FIELDS",
    "OF_TEXT",
    "SIZES",
    "TEXTS",
    "Config",
    "ConfigError",
    "describe_keys",
    "from_assignments",
    "from_file",
    "resolve",
    "takes",
]
