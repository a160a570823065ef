"""Puts runs that have ended on record: ``python -m rbd_ipu.lab.publish FOLDER... [--results results]``.

A row goes to ``results/DATASET-NETWORK.jsonl``, once for each run, those of analyses (files ``*.jsonl`` in a FOLDER)
to ``results/analyses.jsonl``; what is on record stays as it is, so that the command can be called again at any time,
also while runs go on. The folder of a run is left out of its command: it
was on the machine of the run.
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import results
from rbd_ipu.lab.results import key

ARGUMENTS = argparse.ArgumentParser(prog="python -m rbd_ipu.lab.publish", description="Puts ended runs on record.")
ARGUMENTS.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folders with runs, at whatever depth")
ARGUMENTS.add_argument("--results", type=Path, default=results.PUBLISHED, metavar="DIR", help="default results")


def publish(folders: Sequence[Path], published: Path) -> Dict[str, int]:
    """Adds the runs that have ended and are not on record.

    Args:
      folders: where runs are looked for.
      published: the folder of ``*.jsonl``.

    Returns:
      by file name, how many rows were added.

    Raises:
      ConfigError: a folder or file cannot be read, or a run does not say which data it was trained on.
    """
    known = {key(results.config_of(row)) for row in results.read(published) if row["outcome"] in results.ENDED}
    files: Dict[str, List[results.Row]] = {}
    for row in results.merge(*map(results.from_folder, folders)):
        config = results.config_of(row)
        if row["outcome"] not in results.ENDED or key(config) in known:
            continue
        if not row["data"]:
            raise ConfigError(
                f"the run of `{row['command']}` does not say which data it was trained on; run it again"
            )
        row["command"] = without_output(row["command"])
        files.setdefault(f"{config.dataset}-{config.network}.jsonl", []).append(row)
    findings = [row for folder in folders for row in results.read(folder, "analysis")]
    made = {_analysis(row) for row in results.read(published, "analysis")}
    for row in findings:
        if _analysis(row) not in made:
            made.add(_analysis(row))
            files.setdefault("analyses.jsonl", []).append({**row, "command": without_output(row["command"])})
    for name, rows in files.items():
        results.write(published / name, [*results.read(published / name, rows[0]["kind"]), *rows])
    return {name: len(rows) for name, rows in sorted(files.items())}


def _analysis(row: results.Row) -> str:
    """What two analyses share if one of them is enough."""
    return json.dumps([row["preset"], row["budget"], row["options"]], sort_keys=True)


def without_output(command: str) -> str:
    """A command line without its ``--output DIR``.

    Example:
      >>> without_output("rbd-ipu train --set 'learning_rate=2**-1' --output '~/runs/a b' --quiet")
      "rbd-ipu train --set 'learning_rate=2**-1' --quiet"
    """
    words = shlex.split(command)
    if "--output" in words:
        place = words.index("--output")
        words[place : place + 2] = []
    words = [word for word in words if not re.match("--output=", word)]
    return " ".join(map(shlex.quote, words))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs one command line; returns the exit status."""
    given = ARGUMENTS.parse_args(arguments)
    try:
        added = publish(given.folders, given.results)
    except ConfigError as error:
        print(f"rbd-ipu: {error}", file=sys.stderr)
        return 2
    for name, count in added.items():
        print(f"{given.results / name}: {count} more")
    if not added:
        print("nothing new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
