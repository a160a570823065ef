"""``rbd-ipu devices lint``: holds every operation of the training programs against the record of IPU kernels."""

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
    """Traces, judges, prints the table; returns the exit status."""
    from rbd_ipu.errors import ConfigError

    if arguments.all and arguments.write:
        raise ConfigError("--write is for the table of every row by itself; leave out --all")
    from rbd_ipu import files
    from rbd_ipu.devices.ipu.lint import report, trace

    report.check_stack()
    if arguments.write:
        report.write(arguments.write, "")  # is it there, with its markers?
    found = report.results(trace.all_together() if arguments.all else trace.each_once(), _tell)
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


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"rbd-ipu: {text}", file=sys.stderr, flush=True)
