"""``rbd-ipu delta show|apply``: files of fine-tunes in a fixed subspace."""

import argparse
from pathlib import Path

from rbd_ipu.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", choices=("show", "apply"), help="print what a file holds; or apply it to a model")
    parser.add_argument("file", type=Path, metavar="FILE", help="of rbd_ipu.save_delta")
    parser.add_argument("--model", type=Path, metavar="BASE", help="apply: the base, a file of a Keras model")
    parser.add_argument("--output", type=Path, metavar="FILE", help="apply: where the fine-tuned model goes")


def run(arguments: argparse.Namespace) -> int:
    """Shows or applies; returns the exit status."""
    if arguments.what == "apply" and not (arguments.model and arguments.output):
        raise ConfigError("rbd-ipu delta apply needs --model BASE and --output FILE")
    if arguments.what == "show" and (arguments.model or arguments.output):
        raise ConfigError("rbd-ipu delta show takes the file alone; --model and --output are for apply")
    from rbd_ipu import delta
    from rbd_ipu._compat import keras

    try:
        if arguments.what == "show":
            found = delta.load_delta(arguments.file)
            print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes\n{found}")
            return 0
        delta.load_delta(arguments.file)  # a damaged file is refused before a model is loaded
        model = keras.models.load_model(str(arguments.model), compile=False)
        delta.apply_delta(model, arguments.file)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    model.save(str(arguments.output))
    print(f"{arguments.output}: {arguments.model} with {arguments.file}")
    return 0
