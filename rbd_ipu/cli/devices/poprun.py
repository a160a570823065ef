"""``rbd-ipu devices poprun``: how many processes and replicas, as arguments of poprun (for scripts/poprun.sh)."""

import argparse

from rbd_ipu.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE", help="a YAML file, such as ipu_configs/pod16.yaml")
    parser.epilog = "Exit status: 0, or 2 for a wrong configuration or one that is not for IPUs."


def run(arguments: argparse.Namespace) -> int:
    """Prints one argument a line; returns the exit status."""
    from rbd_ipu.devices.ipu.description import load
    from rbd_ipu.devices.ipu.popdist import poprun_arguments

    try:
        print("\n".join(poprun_arguments(load(arguments.file))))
    except ConfigError as error:
        raise ConfigError(str(error) if arguments.file in str(error) else f"{arguments.file}: {error}") from None
    return 0
