"""``rbd-ipu train``: one run, from settings to a folder."""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, Mapping, Tuple

from rbd_ipu.cli import settings
from rbd_ipu.config import Config, resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import tuning
from rbd_ipu.parallel.task import running, task
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import resume
from rbd_ipu.runs.train import free, go_on, goes_on, train, with_all_ranks

EPILOG = """
exit status: 0 finished, 2 wrong settings (nothing was written), 3 a loss or update is
not finite, 4 a file cannot be written, 5 a worker was lost, 130 Ctrl-C, 143 SIGTERM; the
folder keeps all that there was, and after 4, 5, 130, 143 or a kill --resume goes on in it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    settings.configure(parser, "the folder to make; default runs/DATASET-NETWORK-METHOD-TIME-N", EPILOG)
    parser.add_argument(
        "--resume", nargs="?", const="yes", choices=("yes", "auto"), metavar="auto",
        help="go on in the folder --output with its own settings, from where it last saved; "
        f"of those only {', '.join(resume.MAY_CHANGE)} may be given anew. auto: begin a run there if there is none "
        "yet, so that a batch system can start the same command again",
    )  # fmt: skip
    parser.add_argument(
        "--workers", metavar="N",
        help="train with N processes on this machine, as --set workers=N does; started by mpiexec, srun or with a "
        "TF_CONFIG, a process is one of as many as there are",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print only the path of the folder")


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    given = with_all_ranks(lambda: settings.given(arguments, "workers"))
    words, output, quiet = arguments.words, arguments.output, arguments.quiet
    if goes_on(arguments.resume, output):
        if _is_auto(given) and tuning.is_kept(output):  # it goes on with what was found
            given = {key: entry for key, entry in given.items() if key != "learning_rate"}
        return go_on(given, words, output, quiet)
    found = tuning.found()
    if _is_auto(given):
        config = resolve({**given, "learning_rate": 1.0})
        free(output)
        try:
            exponent, found = _search(arguments, config)
        except KeyboardInterrupt:
            print(
                "rbd-ipu: interrupted by Ctrl-C in the search; with --output, the same command goes on",
                file=sys.stderr,
            )
            return 130
        given = {**given, "learning_rate": Given(2.0**exponent, "learning_rate=auto")}
        words = tuning.rewritten(words, exponent)
    return train(given, words, output, quiet, None if found is None else functools.partial(tuning.keep, found))


def _is_auto(given: Mapping[str, Any]) -> bool:
    return "learning_rate" in given and given["learning_rate"].value == "auto"


def _search(arguments: argparse.Namespace, config: Config) -> Tuple[int, Path]:
    """The exponent of the rate that a short search chooses, and the folder of the search, beside that of the run."""
    if task() is not None or running() is not None:
        raise ConfigError(
            "learning_rate=auto: this process is one of several, each of which would search; let `rbd-ipu tune` find "
            "the rate, and give it"
        )
    output = None if arguments.output is None else arguments.output.with_name(f"{arguments.output.name}-tune")
    say = (lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True))
    return tuning.search(config, output, command_line(arguments.words), say)
