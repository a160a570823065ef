"""``rbd-ipu delta show|apply`` and ``rbd-ipu replay``: weights from small files.

A delta is a fine-tune in a fixed subspace; a replay log gives the weights of any step of a run again.
"""

import argparse
import os
from pathlib import Path
from typing import Any, Optional, Sequence

from rbd_ipu.errors import ConfigError


def configure_delta(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", choices=("show", "apply"), help="print what a file holds; or apply it to a model")
    parser.add_argument("file", type=Path, metavar="FILE", help="of rbd_ipu.save_delta")
    parser.add_argument("--model", type=Path, metavar="BASE", help="apply: the base, a file of a Keras model")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="apply: where the fine-tuned model goes: a new file, .keras or .h5",
    )


def _check_output(path: Path, endings: Sequence[str]) -> None:
    """Refuses a file that could not be written at the end."""
    if os.path.lexists(path):
        raise ConfigError(f"--output {path}: is there already, and is not written over")
    if not path.name.endswith(tuple(endings)):
        raise ConfigError(f"--output {path}: accepted endings are {', '.join(endings)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}")


def _check_there(*paths: Optional[Path]) -> None:
    for path in paths:
        if path is not None and not path.exists():
            raise ConfigError(f"{path}: there is no such file")


def _model_of(path: Path) -> Any:
    from rbd_ipu._compat import keras

    try:
        return keras.models.load_model(str(path), compile=False)
    except Exception as error:  # of HDF5, zip or JSON: each has its own
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: no model can be read from it: {said}") from None


def run_delta(arguments: argparse.Namespace) -> int:
    """Shows or applies; returns the exit status."""
    if arguments.what == "apply" and not (arguments.model and arguments.output):
        raise ConfigError("rbd-ipu delta apply needs --model BASE and --output FILE")
    if arguments.what == "show" and (arguments.model or arguments.output):
        raise ConfigError("rbd-ipu delta show takes the file alone; --model and --output are for apply")
    _check_there(arguments.file, arguments.model)
    if arguments.file.is_dir():
        raise ConfigError(f"{arguments.file}: is a folder, and a delta is a file")
    if arguments.output:
        _check_output(arguments.output, (".keras", ".h5"))
    from rbd_ipu import delta
    from rbd_ipu.runs.callbacks import save_model

    try:
        if arguments.what == "show":
            found = delta.load_delta(arguments.file)
            print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes\n{found}")
            return 0
        delta.load_delta(arguments.file)  # a damaged file is refused before a model is loaded
        model = _model_of(arguments.model)
        delta.apply_delta(model, arguments.file)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    save_model(model, arguments.output)
    print(f"{arguments.output}: {arguments.model} with {arguments.file}")
    return 0


def configure_replay(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="the folder of a run with replay_log=true, or its file replay.log"
    )
    parser.add_argument("--step", type=int, metavar="N", help="after how many updates; default: all of the log")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE",
        help="the starting weights, or a model with them; default: those of the run's seed",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where to compute; default cpu")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="a new file: *.weights.h5 for the weights, .keras or .h5 for the model; without it nothing is written",
    )  # fmt: skip


def run_replay(arguments: argparse.Namespace) -> int:
    """Makes the weights, says what it took, writes the file; returns the exit status."""
    output = arguments.output
    if output is not None:
        _check_output(output, (".weights.h5", ".keras", ".h5"))
    _check_there(arguments.folder, arguments.weights)
    if arguments.folder.is_dir() and not (arguments.folder / "replay.log").exists():
        raise ConfigError(f"{arguments.folder}: there is no replay.log; a run with replay_log=true has one")
    from rbd_ipu import replay
    from rbd_ipu.runs.callbacks import save_model, save_weights
    from rbd_ipu.runs.record import trainer_of

    try:
        log = replay.read_log(arguments.folder)
        trainer = trainer_of(log, arguments.device, arguments.weights)
        found = replay.replay_weights(trainer, log.path, arguments.step)
    except replay.ReplayError as error:
        more = "; give them with --weights FILE" if "starting weights" in str(error) else ""
        raise ConfigError(f"{error}{more}") from None
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(str(error)) from None
    print(f"{log.path}: {log}")
    if log.rest:
        print(f"{log.rest} bytes at the end are of a step that was not finished")
    print(found)
    if output is not None:
        if output.name.endswith(".weights.h5"):
            save_weights(trainer.model, output)
        else:
            save_model(trainer.model, output)
        print(f"{output}: the weights after step {found.step:,}")
    return 0
