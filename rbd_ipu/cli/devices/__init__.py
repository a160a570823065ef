"""``rbd-ipu devices``: what can be asked about devices without having them; one row and one module each."""

import argparse

from rbd_ipu.cli import Command

COMMANDS = (
    Command("check", "devices.check", "validate device configurations; show what they would set"),
    Command("lint", "devices.lint", "hold every operation of the training programs against the record of kernels"),
    Command("poprun", "devices.poprun", "print the counts that poprun needs for a configuration"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-commands."""
    rows = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for row in COMMANDS:
        command = rows.add_parser(row.name, help=row.help, description=row.help, allow_abbrev=False)
        module = row.load()
        module.configure(command)
        command.set_defaults(run_subcommand=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the sub-command; returns the exit status."""
    return arguments.run_subcommand(arguments)
