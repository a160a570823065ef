"""``rbd-ipu figure N``: a figure of the paper as a picture, with its numbers as a table."""

import argparse

from rbd_ipu.lab import paper


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    paper.configure(parser, "figure")


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints, writes; returns the exit status."""
    return paper.run(arguments, "figure")
