"""The settings on a command line: a file, --set, and options that stand for one setting."""

import argparse
from pathlib import Path
from typing import Dict

from rbd_ipu.config import describe_keys, from_assignments, from_file
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError


def configure(parser: argparse.ArgumentParser, output: str, epilog: str) -> None:
    """Adds the arguments of every command that trains.

    Args:
      parser: of the command.
      output: the help of --output.
      epilog: what follows the list of all settings.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--config", metavar="FILE", help="a YAML file of settings")
    add(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="one setting, over the file's; may be given for several keys",
    )  # fmt: skip
    add("--output", metavar="DIR", type=Path, help=output)
    parser.epilog = f"{describe_keys()}\n\n{epilog.strip()}"


def configure_search(parser: argparse.ArgumentParser, name: str, jobs: str, epilog: str) -> None:
    """Adds those of a command that searches by many runs.

    Args:
      parser: of the command.
      name: what the names of its folders begin with.
      jobs: the help of --jobs.
      epilog: what follows the list of all settings.
    """
    output = f"the folder to make or to go on in; default runs/{name}-DATASET-NETWORK-METHOD-TIME-N"
    configure(parser, output, epilog)
    parser.add_argument("--epochs", metavar="N", help="the same as --set epochs=N")
    parser.add_argument("--jobs", metavar="N", type=count, default=1, help=jobs)


def given(arguments: argparse.Namespace, *options: str) -> Dict[str, Given]:
    """The settings of the file, those of --set over them, and those of the options with the name of a setting.

    Raises:
      ConfigError: something cannot be read, or an option and --set give the same setting.
    """
    found = from_file(arguments.config) if arguments.config else {}
    assigned = from_assignments(arguments.settings)
    for name in options:
        value = getattr(arguments, name)
        if value is None:
            continue
        if name in assigned:
            raise ConfigError(f"{assigned[name].origin}: {name} is already set by --{name} {value}")
        (own,) = from_assignments([f"{name}={value}"]).values()
        assigned[name] = own._replace(origin=f"--{name} {value}")
    return {**found, **assigned}


def count(text: str) -> int:
    """An integer from 1, for ``type=`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer from 1, not {text!r}")
    return int(text)
