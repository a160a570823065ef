"""``rbd-ipu train``: one run, from settings to a folder.

The settings on its command line, which other commands share, come from a file, from --set, and from options that
stand for one setting.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

from rbd_ipu.config import Config, describe_keys, from_assignments, from_file, resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab import tuning
from rbd_ipu.parallel.workers import running, task
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import resume
from rbd_ipu.runs.train import free, go_on, goes_on, train, with_all_ranks


def add_settings(parser: argparse.ArgumentParser, output: str, epilog: str) -> None:
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


def add_search(parser: argparse.ArgumentParser, name: str, jobs: str, epilog: str) -> None:
    """Adds those of a command that searches by many runs.

    Args:
      parser: of the command.
      name: what the names of its folders begin with.
      jobs: the help of --jobs.
      epilog: what follows the list of all settings.
    """
    output = f"the folder to make or to go on in; default runs/{name}-DATASET-NETWORK-METHOD-TIME-N"
    add_settings(parser, output, epilog)
    parser.add_argument("--epochs", metavar="N", help="the same as --set epochs=N")
    parser.add_argument("--jobs", metavar="N", type=count, default=1, help=jobs)


def settings_of(arguments: argparse.Namespace, *options: str) -> Dict[str, Given]:
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


EPILOG = """
exit status: 0 finished, 2 wrong settings (nothing was written), 3 a loss or update is
not finite, 4 a file cannot be written, 5 a worker was lost, 130 Ctrl-C, 143 SIGTERM; the
folder keeps all that there was, and after 4, 5, 130, 143 or a kill --resume goes on in it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_settings(parser, "the folder to make; default runs/DATASET-NETWORK-METHOD-TIME-N", EPILOG)
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
    given = with_all_ranks(lambda: settings_of(arguments, "workers"))
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
