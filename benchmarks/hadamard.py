"""What a sketch by structured directions costs, whatever d is: milliseconds for one, inside a graph.

    python benchmarks/hadamard.py [--sizes 101770 122570] [--dims 250 10000 60000] [--cores 2]

  native     Numba, one thread          (hadamard)
  xla        compiled TensorFlow ops    (hadamard, sparse)
  graph      the same ops, uncompiled   (hadamard, sparse)

A sketch is coordinates and update, c = P^T v and P c, with fresh directions each time. The sketches of a repeat are
a loop in one graph, as in training. Paths take turns; every figure is the median of the repeats, with the least
and the most in brackets.
"""

import argparse
import statistics
import time
from typing import Any, Callable, Dict, List

from rbd_ipu.process import keep_to, usable

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--sizes", nargs="+", type=int, default=[101_770, 122_570])
ARGUMENTS.add_argument("--dims", nargs="+", type=int, default=[250, 10_000, 60_000])
ARGUMENTS.add_argument("--distributions", nargs="+", default=["hadamard", "sparse"])
ARGUMENTS.add_argument("--sketches", type=int, default=20, help="sketches a repeat")
ARGUMENTS.add_argument("--repeats", type=int, default=9)
ARGUMENTS.add_argument("--cores", type=int, help="use no more than this many CPU cores (Linux)")


def main() -> None:
    """Measure and print a table."""
    options = ARGUMENTS.parse_args()
    if options.cores:  # before TensorFlow counts them
        keep_to(usable()[: options.cores])
    from rbd_ipu._compat import tf

    print(f"TensorFlow {tf.__version__}, ms a sketch")
    print(f"{'distribution':12} {'size':>7} {'dim':>6} {'path':8} {'ms':>24}")
    for distribution in options.distributions:
        for size in options.sizes:
            for dim in options.dims:
                paths = _paths(distribution, size, dim)
                times: Dict[str, List[float]] = {name: [] for name in paths}
                # Sparse directions cost in proportion to d.
                count = options.sketches if distribution == "hadamard" else max(1, options.sketches // (dim // 250))
                for run in paths.values():
                    run(2)
                for _ in range(options.repeats):
                    for name, run in paths.items():
                        start = time.perf_counter()
                        run(count)
                        times[name].append((time.perf_counter() - start) / count * 1e3)
                for name, found in times.items():
                    text = f"{statistics.median(found):.3f} [{min(found):.3f} {max(found):.3f}]"
                    print(f"{distribution:12} {size:7} {dim:6} {name:8} {text:>24}", flush=True)


def _paths(distribution: str, size: int, dim: int) -> Dict[str, Callable[[int], Any]]:
    """The ways to compute a sketch, each as a function that computes so many in a row."""
    from rbd_ipu.directions import Compiled, make_source, resolve

    resolve("auto")
    ops = make_source("counter", 1, size, dim, distribution, "unit")
    paths = {"xla": _loop(Compiled(ops), size), "graph": _loop(ops, size)}
    try:
        native = make_source("native", 1, size, dim, distribution, "unit")
    except ImportError:
        return paths
    return paths if native.jit else {"native": _loop(native, size), **paths}


def _loop(source: Any, size: int) -> Callable[[int], Any]:
    from rbd_ipu._compat import tf

    vector = tf.random.stateless_normal([1, size], [1, 2])

    @tf.function
    def sketches(count: Any) -> Any:
        total, seeds = tf.zeros([1, size]), tf.constant([[1, 2]])
        for step in tf.range(count):
            coordinates, update = source.sketch(vector, seeds + step)
            total = total + update * coordinates[0, 0]
        return total

    return lambda count: sketches(tf.constant(count)).numpy()


if __name__ == "__main__":
    main()
