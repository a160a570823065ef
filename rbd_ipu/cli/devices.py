"""``rbd-ipu devices``: what can be asked about devices without having them.

===========  ======================================================================================
``check``    holds configurations against the record of the SDK, which need not be here
``lint``     holds every operation of the training programs against the record of IPU kernels
``poprun``   how many processes and replicas, as arguments of poprun (for scripts/poprun.sh)
===========  ======================================================================================
"""

import argparse
import sys
from pathlib import Path

from rbd_ipu import files
from rbd_ipu.cli import Command, add_commands
from rbd_ipu.errors import ConfigError

COMMANDS = (
    Command("check", "devices", "validate device configurations; show what they would set"),
    Command("lint", "devices", "hold every operation of the training programs against the record of kernels"),
    Command("poprun", "devices", "print the counts that poprun needs for a configuration"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-commands."""
    add_commands(parser, COMMANDS, "subcommand", "run_subcommand")


def run(arguments: argparse.Namespace) -> int:
    """Runs the sub-command; returns the exit status."""
    return arguments.run_subcommand(arguments)


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a YAML file, such as ipu_configs/pod16.yaml")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    parser.epilog = "Exit status: 0 all are valid, 2 some are not: what is wrong, and what is accepted."


def run_check(arguments: argparse.Namespace) -> int:
    """Checks every file, whatever is wrong with those before it; returns the exit status."""
    from rbd_ipu.devices.ipu.description import load
    from rbd_ipu.devices.ipu.ipu_config import listing

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


def configure_lint(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add = parser.add_argument
    add("--all", action="store_true", help="every method with every distribution, scheme and network: it takes long")
    add("--operations", action="store_true", help="also print every operation, with its types, that was met")
    add("--write", type=Path, metavar="FILE.md", help="put the table between the markers of this page")
    parser.epilog = (
        "Needs TensorFlow 2.6 and no IPU. Exit status: 0 every row is as it is said to be, 1 there are findings that "
        "nobody expects (or none where some are expected), 2 wrong arguments or another TensorFlow, 4 a file cannot "
        "be written."
    )


def run_lint(arguments: argparse.Namespace) -> int:
    """Traces, judges, prints the table; returns the exit status."""
    if arguments.all and arguments.write:
        raise ConfigError("--write is for the table of every row by itself; leave out --all")
    from rbd_ipu.devices.ipu.lint import report, trace

    report.check_stack()
    if arguments.write:
        report.write(arguments.write, "")  # is it there, with its markers?
    found = report.results(trace.all_together() if arguments.all else trace.each_once(), _say)
    faults = [(str(result.row), fault) for result in found for fault in result.faults]
    if arguments.all:
        programs = [result for result in found if result.report]
        ready = [result for result in programs if not result.findings]
        print(f"{len(programs)} programs, {len(ready)} clean; {len(found) - len(programs)} combinations are refused")
    else:
        print(report.table(found))
    if arguments.operations:
        print("\n".join(["", *sorted({kind for result in found if result.report for kind in result.report.kinds})]))
    for row, fault in faults:
        print(f"rbd-ipu: {row}: {fault}", file=sys.stderr)
    if arguments.write:
        files.write_text(arguments.write, report.write(arguments.write, report.table(found)))
    return 1 if faults else 0


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"rbd-ipu: {text}", file=sys.stderr, flush=True)


def configure_poprun(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("file", metavar="FILE", help="a YAML file, such as ipu_configs/pod16.yaml")
    parser.epilog = "Exit status: 0, or 2 for a wrong configuration or one that is not for IPUs."


def run_poprun(arguments: argparse.Namespace) -> int:
    """Prints one argument a line; returns the exit status."""
    from rbd_ipu.devices.ipu.description import load
    from rbd_ipu.devices.ipu.popdist import poprun_arguments

    try:
        print("\n".join(poprun_arguments(load(arguments.file))))
    except ConfigError as error:
        raise ConfigError(str(error) if arguments.file in str(error) else f"{arguments.file}: {error}") from None
    return 0
