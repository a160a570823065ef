"""``rbd-ipu table N``: a table of the paper, trained where it is not yet known, its numbers beside ours."""

import argparse

from rbd_ipu.lab import paper


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    paper.configure(parser, "table")


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints, writes; returns the exit status."""
    return paper.run(arguments, "table")
