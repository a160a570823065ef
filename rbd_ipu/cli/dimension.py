"""``rbd-ipu dimension``: the smallest d whose subspace reaches a share of the full space's accuracy."""

import argparse
from typing import Any, Callable, Tuple

from rbd_ipu.cli import settings
from rbd_ipu.cli.settings import count
from rbd_ipu.config.kinds import Real
from rbd_ipu.config.yaml import YamlError, scalar
from rbd_ipu.errors import ConfigError
from rbd_ipu.provenance import command_line

METHODS = ("fpd", "rbd")
EPILOG = """
The full space is trained by SGD. Then d is bisected, over powers of two and then finer, until the smallest d that
reaches the share of the full space's accuracy is known to the tolerance. An accuracy is that on the validation images
after the last epoch. Directions are hadamard ones unless --set distribution=... says otherwise.

Every run is kept in a folder: the same command with --output DIR goes on where it was, and may change what is looked
for (--share, --seeds, --rates, ...). dimension.json, curve.csv and curve.png are in DIR. A run that diverges is a row
that says so.

exit status: 0 found, 1 no d reaches the share, or a run failed, 2 wrong settings (nothing was written), 4 a file
cannot be written, 130 Ctrl-C.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    jobs = "runs at a time, each with its share of the cores; default 1, in this process"
    settings.configure_search(parser, "dimension", jobs, EPILOG)
    add = parser.add_argument
    add(
        "--method", choices=METHODS, default="fpd",
        help="a fixed subspace, or one that is drawn anew at every step; default fpd, the fixed one",
    )  # fmt: skip
    add(
        "--share", metavar="S", type=_share, default=0.9,
        help="of the full space's accuracy, above 0 and at most 1; default 0.9",
    )  # fmt: skip
    add("--seeds", metavar="N", type=count, default=1, help="seeds, from the setting seed on; default 1")
    add(
        "--tolerance", metavar="T", type=_tolerance, default=0.1,
        help="how far above the true d the answer may be, relative, from 0 to 1; default 0.1",
    )  # fmt: skip
    add("--from", metavar="D", type=count, default=1, dest="least", help="the smallest d; default 1")
    add("--to", metavar="D", type=count, dest="greatest", help="the greatest d; default all parameters")
    add("--also", metavar="D,...", type=_listed(count), default=(), help="further d to measure, for the curve")
    add(
        "--rates", metavar="RATE,...", type=_listed(_rate),
        help="learning rates to try at every d, in this order, until one reaches the share; default: a walk over "
        "powers of two from a likely one",
    )  # fmt: skip
    add(
        "--full-rates", metavar="RATE,...", type=_listed(_rate),
        help="those to try in the full space, all of them; default: a walk over powers of two",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    given = settings.given(arguments, "epochs")

    from rbd_ipu.lab import dimension

    names = ("method", "share", "seeds", "tolerance", "least", "greatest", "also", "rates", "full_rates", "jobs")
    wanted = dimension.Wanted(**{name: getattr(arguments, name) for name in names})
    return dimension.run(given, wanted, arguments.output, command_line(arguments.words))


def _number(kind: Real) -> Callable[[str], float]:
    """What reads a number of a kind; a power of two may be written 2^-3."""

    def read(text: str) -> float:
        try:
            return float(kind.check(scalar(text.replace("^", "**"))))
        except (ConfigError, YamlError):
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}") from None

    return read


_share = _number(Real(positive=True, most=1.0))
_tolerance = _number(Real(most=1.0))
_rate = _number(Real(positive=True))


def _listed(kind: Callable[[str], Any]) -> Callable[[str], Tuple[Any, ...]]:
    """What reads several of a kind, with commas between them."""

    def read(text: str) -> Tuple[Any, ...]:
        found = tuple(kind(part.strip()) for part in text.split(","))
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"must be different ones, not {text!r}")
        return found

    return read
