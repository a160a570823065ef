"""Our loop beside Keras' own fit: the same network, data and batch, plain SGD and random bases.

    python benchmarks/keras_fit.py [--output keras.json]

``fit`` is measured as a plain graph and, on Keras 3, compiled by XLA (what ``jit_compile="auto"`` may choose). All
cases take turns in every round. Inside XLA the native source gives way to the operations of ``counter``.
"""

import argparse
import sys
from pathlib import Path
from typing import List

from documents import heading, write

from rbd_ipu.lab.bench.runners import KERAS, KERAS_JIT, Case

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--networks", nargs="+", default=["cnn-cifar10", "cnn-mnist", "fc-mnist"])
ARGUMENTS.add_argument("--dim", type=int, default=250, help="d of the random bases")
ARGUMENTS.add_argument("--distribution", default="hadamard", help="of the random bases")
ARGUMENTS.add_argument("--rounds", type=int, default=9)
ARGUMENTS.add_argument("--seconds", type=float, default=0.7, help="a case and round")
ARGUMENTS.add_argument("--output", type=Path, help="a JSON file")


def cases(options: argparse.Namespace) -> List[Case]:
    """Each network by each loop, with and without random bases."""
    from rbd_ipu._compat import KERAS_3
    from rbd_ipu.directions import resolve

    found = []
    for network in options.networks:
        plain = Case(network, "sgd")
        bases = Case(network, "rbd", options.dim, options.distribution, resolve("auto"), "global")
        for case in (plain, bases):
            loops = (KERAS, KERAS_JIT) if KERAS_3 else (KERAS,)
            found += [case, *(case._replace(loop=loop) for loop in loops)]
    return found


def main() -> None:
    """Measure, print a table, write the numbers."""
    options = ARGUMENTS.parse_args()
    from rbd_ipu.lab.bench import report

    first = heading("keras_fit.py", sys.argv[1:])
    document, _ = report.measured(
        cases(options), options.rounds, options.seconds, lambda text: print(text, flush=True)
    )
    print(f"\n{report.machine_line(document)}\n\n{report.render(document['rows'])}")
    if options.output:
        write(options.output, {**document, "command": first["command"]})


if __name__ == "__main__":
    main()
