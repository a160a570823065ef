"""The commands of ``rbd-ipu``: one row and one module each.

A command's module has ``configure(parser)``, which adds its arguments, and ``run(arguments) ->
int``, which gives the exit status. It imports TensorFlow only when it runs, so that ``--help`` is
quick.
"""

import importlib
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A row: the command's name, its module in this package, one line of help."""

    name: str
    module: str
    help: str

    def load(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.module}")


COMMANDS = (
    Command("train", "train", "train a network and keep everything about it in a new folder"),
    Command("tune", "tune", "find the learning rate of some settings, on a quarter of the training images held out"),
    Command("demo", "demo", "compare SGD, RBD and FPD on real digits; a table and a picture"),
    Command("bench", "bench", "measure what a step costs, beside a plain SGD step"),
    Command("table", "table", "a table of the paper: its numbers beside those of this package"),
    Command("figure", "figure", "a figure of the paper, from runs of this package"),
    Command("report", "report", "one HTML page of all results, to open in a browser"),
    Command("devices", "devices", "validate device configurations, without the devices"),
)
