"""``rbd-ipu figure N``: a figure of the paper as a picture, with its numbers as a table."""

import argparse

from rbd_ipu.paper import show


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    show.configure(parser, "figure")


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints, writes; returns the exit status."""
    return show.run(arguments, "figure")
