"""``rbd-ipu train``: one run, from settings to a folder."""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

from rbd_ipu.config import Config, ConfigError, describe_keys, from_assignments, from_file, resolve
from rbd_ipu.config.resolve import Given
from rbd_ipu.files import locked, missing
from rbd_ipu.lab import tuning
from rbd_ipu.parallel import workers
from rbd_ipu.provenance import command_line
from rbd_ipu.runs import RunFolder, check_free, new_folder, resume


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
    parser.add_argument(
        "--resume", nargs="?", const="yes", choices=("yes", "auto"), metavar="auto",
        help="go on in the folder --output with its own settings, from where it last saved; "
        f"of those only {', '.join(resume.MAY_CHANGE)} may be given anew. auto: begin a run there if there is none "
        "yet, so that a batch system can start the same command again",
    )  # fmt: skip
    parser.add_argument(
        "--workers", metavar="N", type=int,
        help="train with N processes on this machine, as --set workers=N does; started by mpiexec, srun or with a "
        "TF_CONFIG, a process is one of as many as there are",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print only the path of the folder")
    parser.epilog = (
        f"{describe_keys()}\n\n"
        "exit status: 0 finished, 2 wrong settings (nothing was written), 3 a loss or update is\n"
        "not finite, 4 a file cannot be written, 5 a worker was lost, 130 Ctrl-C, 143 SIGTERM; the\n"
        "folder keeps all that there was, and after 4, 5, 130, 143 or a kill --resume goes on in it."
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    try:
        given = workers.several(_given(arguments))
    except ConfigError:
        workers.join()  # so that the other ranks hear of it, and do not wait
        raise
    workers.join(given)
    if _goes_on(arguments):
        return _resume(arguments, given)
    auto = _is_auto(given)
    config = resolve({**given, "learning_rate": 1.0} if auto else given)
    if arguments.output is not None and not workers.is_follower():
        check_free(arguments.output)
    words, found = arguments.words, tuning.found()
    if auto:
        try:
            exponent, found = _search(arguments, config)
        except KeyboardInterrupt:
            print(
                "rbd-ipu: interrupted by Ctrl-C in the search; with --output, the same command goes on",
                file=sys.stderr,
            )
            return 130
        config = resolve({**given, "learning_rate": 2.0**exponent})
        words = tuning.rewritten(words, exponent)
    status = workers.elsewhere(config, words)
    if status is not None:
        return status

    from rbd_ipu.runs.experiment import prepare

    experiment = prepare(config)
    if experiment.trainer.device.compiles_only:
        return _compile(experiment)
    folder = RunFolder(new_folder(arguments.output, f"{config.dataset}-{config.network}-{config.method}"))
    if found is not None:
        tuning.keep(found, folder.path)
    with locked(folder.path):
        return _train(arguments, experiment, folder)


def _is_auto(given: Mapping[str, Any]) -> bool:
    return "learning_rate" in given and given["learning_rate"].value == "auto"


def _search(arguments: argparse.Namespace, config: Config) -> Tuple[int, Path]:
    """The exponent of the rate that a short search chooses, and the folder of the search, beside that of the run."""
    from rbd_ipu.devices.ipu import popdist

    if workers.task() is not None or popdist.running() is not None:
        raise ConfigError(
            "learning_rate=auto: this process is one of several, each of which would search; let `rbd-ipu tune` find "
            "the rate, and give it"
        )
    output = None if arguments.output is None else arguments.output.with_name(f"{arguments.output.name}-tune")
    say = (lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True))
    return tuning.search(config, output, command_line(arguments.words), say)


def _given(arguments: argparse.Namespace) -> Dict[str, Given]:
    given = from_file(arguments.config) if arguments.config else {}
    given.update(from_assignments(arguments.settings))
    if arguments.workers is not None:
        given["workers"] = Given(arguments.workers, f"--workers {arguments.workers}")
    return given


def _goes_on(arguments: argparse.Namespace) -> bool:
    """Whether to go on in a folder; worker 0 decides for all, as it may make the folder before others look."""
    if arguments.resume and arguments.output is None:
        raise ConfigError("--resume needs --output DIR, the folder to go on in")
    if arguments.resume != "auto":
        return bool(arguments.resume)
    if not workers.is_follower():
        resume.clear_abandoned(arguments.output)
    return workers.as_first((arguments.output / "config.yaml").exists())


def _resume(arguments: argparse.Namespace, given: Mapping[str, Any]) -> int:
    folder = RunFolder(arguments.output)
    if _is_auto(given) and tuning.is_kept(folder.path):
        given = {
            key: entry for key, entry in given.items() if key != "learning_rate"
        }  # it goes on with what was found
    config = resume.settings(folder, given)  # refuses a folder without a run before a lock is put into it
    status = workers.elsewhere(config, arguments.words, folder)
    if status is not None:
        return status
    with locked(folder.path):
        config = resume.settings(folder, given)
        if workers.as_first(resume.is_finished(folder, config)):
            said = f"finished already after {config.epochs} epochs\nfolder      {folder.path}"
            print(folder.path if arguments.quiet else said)
            return 0

        from rbd_ipu.runs.experiment import prepare

        experiment = prepare(config)
        if experiment.trainer.device.compiles_only:
            raise ConfigError(f"device: {config.device} only compiles programs; a run cannot go on there")
        found = resume.find(experiment, folder)
        for path, reason in found.refused:
            print(f"rbd-ipu: {path} is left alone: {reason}", file=sys.stderr)
        if not arguments.quiet:
            print(f"goes on at {found.checkpoint.place}" if found.checkpoint else "nothing was done yet: begins anew")
        return _train(arguments, experiment, folder, found.checkpoint)


def _compile(experiment: Any) -> int:
    """On a machine without IPUs: compiles all programs of the run and makes no folder, for there are no numbers."""
    experiment.fit(verbose=0)
    experiment.test()
    print(f"compiled for {experiment.config.device}: training, validation and test; nothing was trained")
    return 0


def _train(arguments: argparse.Namespace, experiment: Any, folder: RunFolder, start: Any = None) -> int:
    from rbd_ipu.runs.record import record

    if not arguments.quiet:
        print(f"{experiment.title}, seed {experiment.config.seed}")
        if experiment.trainer.device.exchange.note:
            print(experiment.trainer.device.exchange.note)
        for line in missing():
            print(f"rbd-ipu: {line}")
    # A progress bar is for a terminal; elsewhere one line an epoch.
    verbose = 0 if arguments.quiet else 1 if sys.stdout.isatty() else 2
    outcome, result = record(experiment, folder, command_line(arguments.words), verbose, start)
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
