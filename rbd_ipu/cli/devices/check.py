"""``rbd-ipu devices check``: holds configurations against the record of the SDK, which need not be here."""

import argparse
import sys

from rbd_ipu.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a YAML file, such as ipu_configs/pod16.yaml")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    parser.epilog = "Exit status: 0 all are valid, 2 some are not: what is wrong, and what is accepted."


def run(arguments: argparse.Namespace) -> int:
    """Checks every file, whatever is wrong with those before it; returns the exit status."""
    from rbd_ipu.devices.ipu.description import load
    from rbd_ipu.devices.ipu.listing import listing

    status = 0
    for path in arguments.files:
        try:
            description = load(path)
        except ConfigError as error:
            print(f"rbd-ipu: error: {error}", file=sys.stderr)
            status = 2
            continue
        if not arguments.quiet:
            print(f"{path}: valid\n\n{listing(description)}\n")
    return status
