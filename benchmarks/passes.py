"""What a pass over a basis takes that only projects, or only expands, beside one that does both.

    python benchmarks/passes.py [--size 122570] [--dims 250 10000] [--distributions normal hadamard] [--cores 2]

They are p and e of rbd_ipu.parallel.cost_model. The three take turns; ratios are of the same
round, medians with quartiles.
"""

import argparse
import time
from typing import Any, Callable, Dict

from rbd_ipu.process import keep_to, usable

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--size", type=int, default=122_570)
ARGUMENTS.add_argument("--dims", nargs="+", type=int, default=[250, 10_000])
ARGUMENTS.add_argument("--distributions", nargs="+", default=["normal", "hadamard"])
ARGUMENTS.add_argument("--rounds", type=int, default=15)
ARGUMENTS.add_argument("--seconds", type=float, default=0.5, help="of a turn")
ARGUMENTS.add_argument("--cores", type=int, help="use no more than this many CPU cores (Linux)")


class Passes:
    """``run(steps)``: so many passes of one kind, in a loop in one graph as in training, each over a new basis."""

    def __init__(self, once: Callable[[Any], Any]):
        from rbd_ipu._compat import tf

        @tf.function
        def loop(first: Any, count: Any) -> Any:
            total = tf.constant(0.0)
            for step in tf.range(first, first + count):
                total += once(step)[0]
            return total

        self._loop, self._done = loop, 0
        self._tensor = tf.constant

    def run(self, steps: int) -> float:
        """Seconds of ``steps`` passes."""
        began = time.perf_counter()
        float(self._loop(self._tensor(self._done), self._tensor(steps)))
        self._done += steps
        return time.perf_counter() - began


def kinds(subspace: Any, vector: Any, coordinates: Any) -> Dict[str, Passes]:
    """The three kinds of passes."""
    return {
        "both": Passes(lambda step: subspace.filter(vector, 0, step)),
        "project": Passes(lambda step: subspace.project(vector, 0, step)),
        "expand": Passes(lambda step: subspace.expand(coordinates, 0, step)),
    }


def main() -> None:
    """Measures and prints a table."""
    options = ARGUMENTS.parse_args()
    if options.cores:  # before TensorFlow counts them
        keep_to(usable()[: options.cores])
    from rbd_ipu._compat import tf
    from rbd_ipu.compartments import Compartments
    from rbd_ipu.lab.bench.report import ratio, spread
    from rbd_ipu.lab.bench.runners import measure
    from rbd_ipu.subspace import Subspace

    print(f"TensorFlow {tf.__version__}, D = {options.size:,}, {options.rounds} rounds")
    print(f"{'distribution':12} {'d':>7} {'pass':8} {'ms':>8}  beside both")
    for distribution in options.distributions:
        for dim in options.dims:
            subspace = Subspace(Compartments.of([options.size], "global", dim), distribution)
            runners = kinds(subspace, tf.random.normal([options.size]), tf.random.normal([dim]))
            times = measure(runners, options.rounds, options.seconds).seconds
            for name, found in times.items():
                low, middle, high = ratio(found, times["both"])
                ms = 1e3 * spread(found)[1]
                print(
                    f"{distribution:12} {dim:7,} {name:8} {ms:8.3f}  {middle:.2f} ({low:.2f} to {high:.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
