"""``rbd-ipu train``: one run, from settings to a folder."""

import argparse
import sys
from pathlib import Path
from typing import Any, Mapping

from rbd_ipu.config import describe_keys, from_assignments, from_file, resolve
from rbd_ipu.records import RunFolder, check_free, new_folder
from rbd_ipu.records.optional import missing
from rbd_ipu.records.provenance import command_line


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="one setting, over the file's; may be given for several keys",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", type=Path,
        help="the folder to make; default runs/DATASET-NETWORK-METHOD-TIME-N",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print only the path of the folder")
    parser.epilog = (
        f"{describe_keys()}\n\n"
        "exit status: 0 finished, 2 wrong settings (nothing was written), 3 a loss or update is\n"
        "not finite, 4 a file cannot be written, 130 Ctrl-C; the folder keeps all that there was."
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    given = from_file(arguments.config) if arguments.config else {}
    given.update(from_assignments(arguments.settings))
    config = resolve(given)
    if arguments.output is not None:
        check_free(arguments.output)

    from rbd_ipu.experiment import prepare
    from rbd_ipu.records.run import record

    experiment = prepare(config)
    folder = RunFolder(new_folder(arguments.output, f"{config.dataset}-{config.network}-{config.method}"))
    if not arguments.quiet:
        print(f"{experiment.title}, seed {config.seed}")
        for line in missing():
            print(f"rbd-ipu: {line}")
    # A progress bar is for a terminal; elsewhere one line an epoch.
    verbose = 0 if arguments.quiet else 1 if sys.stdout.isatty() else 2
    outcome, result = record(experiment, folder, command_line(arguments.words), verbose)
    if outcome.message:
        print(f"rbd-ipu: {outcome.message}", file=sys.stderr)
    if arguments.quiet:
        print(folder.path)
    else:
        print(summary(result, folder.path))
    return outcome.status


def summary(result: Mapping[str, Any], folder: Path) -> str:
    """What the user wants to know at the end."""
    lines = [f"{result['outcome']} after {result['epochs']} epochs"]
    for name in ("validation", "test"):
        numbers = result[name]
        if numbers and None not in numbers.values():
            accuracy, loss = 100 * numbers["accuracy"], numbers["loss"]
            lines.append(f"{name:<10}  accuracy {accuracy:.2f} %  loss {loss:.4f}")
    return "\n".join([*lines, f"folder      {folder}"])
