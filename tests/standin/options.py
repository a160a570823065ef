"""IPUConfig: every recorded option, with types as strict as the real ones."""

import difflib
import enum

from rbd_ipu.devices.ipu import sdk_record
from standin import machine

MODULE = "tensorflow.python.ipu.config"
PLAIN = {"bool": bool, "int": int, "float": float, "str": str}
ENUMS = {
    name: enum.Enum(name, {m: m for m in members}, module=MODULE)
    for name, members in sdk_record.options()["enums"].items()
}


class Category:
    """A branch of the tree of options."""

    def __init__(self, path=""):
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_values", {})
        known = sdk_record.options()
        for full in known["categories"]:
            parent, _, name = full.rpartition(".")
            if parent == path:
                object.__setattr__(self, name, Category(full))

    def __setattr__(self, name, value):
        full = f"{self._path}.{name}" if self._path else name
        known = sdk_record.options()
        if full in known["categories"]:
            raise Exception(f"{full} is a category and cannot be assigned to")
        if full not in known["options"]:
            close = difflib.get_close_matches(full, known["options"], n=1)
            raise ValueError(f"{full!r} is not a valid option; did you mean {close}?")
        _check_type(full, known["options"][full], value)
        self._values[name] = value

    def __getattr__(self, name):
        full = f"{self._path}.{name}" if self._path else name
        if full not in sdk_record.options()["options"]:
            raise ValueError(f"{full!r} is not a valid option")
        return self._values.get(name, sdk_record.options()["options"][full]["default"])


def _check_type(full, facts, value):
    kind = facts["type"]
    if kind in ENUMS:
        right = isinstance(value, ENUMS[kind])
    elif kind == "poplar":
        right = isinstance(value, dict)
    elif kind == "ipus":
        right = type(value) is int or (isinstance(value, (list, tuple)) and all(type(n) is int for n in value))
    else:
        right = type(value) is PLAIN[kind]
    if not right:
        raise TypeError(f"{full} must be of type {kind}, got {value!r} of {type(value).__name__}")


class IPUConfig(Category):
    """The root of the tree."""

    def __init__(self):
        super().__init__()

    def _create_protobuf(self):
        for path in ("compilation_poplar_options", "matmuls.poplar_options", "convolutions.poplar_options"):
            branch = self
            *categories, name = path.split(".")
            for category in categories:
                branch = getattr(branch, category)
            for key, value in (getattr(branch, name) or {}).items():
                if not isinstance(value, str):
                    raise TypeError(f"{path}[{key!r}] must be a str, got {value!r}")

    def configure_ipu_system(self, device="cpu"):
        self._create_protobuf()
        ipus = self.auto_select_ipus
        ipus = ipus[0] if isinstance(ipus, (list, tuple)) and ipus else ipus
        machine.present().configure(self, ipus or 1)


IPUConfig.__module__ = MODULE
