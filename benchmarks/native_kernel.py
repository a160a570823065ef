"""How fast does source native draw? Samples a second on 1 to all threads, and what the TensorFlow op costs.

    python benchmarks/native_kernel.py [--size 122570] [--dims 250 10000] [--repeats 9] [--json FILE]

Three tables, every figure a median with the least and the most in brackets:
  threads    G samples/s of `sketch` (draw, norm, dot product, update), each distribution, on 1 ... all threads
  sketch     milliseconds of `sketch`, `project` and `expand` for each d, on all threads
  op         microseconds that the op adds to the kernels: to a call in eager mode, to one of a compiled function,
             to a turn of a loop inside one; and what it costs to hash the seeds of a step
Cases take turns, so that a machine busy with other things disturbs all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any, Callable, Dict, List

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--size", type=int, default=122_570, help="n (default: the CIFAR-10 CNN)")
ARGUMENTS.add_argument("--dims", type=int, nargs="+", default=[250, 10_000], help="d")
ARGUMENTS.add_argument("--distributions", nargs="+", help="default: all")
ARGUMENTS.add_argument("--repeats", type=int, default=9)
ARGUMENTS.add_argument("--json", metavar="FILE", help="write all figures to this file")

TURNS = 30  # of the loop in which the op is measured


def main() -> None:
    """Measure, print tables, write JSON."""
    options = ARGUMENTS.parse_args()
    import numba
    import numpy as np

    from rbd_ipu._compat import tf
    from rbd_ipu.directions.native.dense import KINDS
    from rbd_ipu.directions.native.threads import thread_count

    options.distributions = options.distributions or list(KINDS)
    result: Dict[str, Any] = {
        "size": options.size,
        "threads": thread_count(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"tensorflow": tf.__version__, "numba": numba.__version__, "numpy": np.__version__},
    }
    print(f"n = {options.size}, {result['threads']} threads, {result['versions']}")
    result["samples_per_second"] = _threads(options, result["threads"])
    result["milliseconds"] = _methods(options)
    result["microseconds"] = _op(options)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


def _threads(options: Any, most: int) -> Dict[str, Any]:
    """Medians of samples/s by distribution and number of threads."""
    dim = options.dims[0]
    cases = {}
    for name in options.distributions:
        sketch = _kernels(options.size, dim, name)[0]
        for threads in range(1, most + 1):
            cases[name, threads] = _with_threads(threads, sketch)
    table: Dict[str, Any] = {}
    print(f"\n{'G samples/s, d = ' + str(dim):24}" + "".join(f"{t:>7} thr" for t in range(1, most + 1)))
    seconds = _measure(cases, options.repeats)
    for name in options.distributions:
        rates = [options.size * dim / statistics.median(seconds[name, t]) for t in range(1, most + 1)]
        table[name] = dict(zip(range(1, most + 1), rates))
        print(f"{name:24}" + "".join(f"{rate / 1e9:11.2f}" for rate in rates), flush=True)
    return table


def _methods(options: Any) -> Dict[str, Any]:
    """Milliseconds of each method, by d and distribution."""
    cases = {}
    for dim in options.dims:
        for name in options.distributions:
            for method, run in zip(("sketch", "project", "expand"), _kernels(options.size, dim, name)):
                cases[dim, name, method] = run
    seconds = _measure(cases, options.repeats)
    table: Dict[str, Any] = {}
    print(f"\n{'ms':24}{'sketch':>24}{'project':>24}{'expand':>24}")
    for dim in options.dims:
        for name in options.distributions:
            label = f"d = {dim}, {name}"
            table[label] = {m: _row(seconds[dim, name, m], 1e3) for m in ("sketch", "project", "expand")}
            print(f"{label:24}" + "".join(f"{_text(row):>24}" for row in table[label].values()), flush=True)
    return table


def _op(options: Any) -> Dict[str, Any]:
    """Microseconds around the kernels, at d = 1, so that there is little within them."""
    from rbd_ipu._compat import tf
    from rbd_ipu.compartments import Compartments
    from rbd_ipu.directions.native.op import Native
    from rbd_ipu.subspace import Subspace

    source = Native(1, options.size, 1, "normal", "unit")
    space = Subspace(Compartments.of([(options.size,)], "global", 1), source="native")
    v, seeds = tf.ones([1, options.size]), tf.constant([[1, 2]])
    kernels = _kernels(options.size, 1, "normal")[0]

    def loop(step: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        @tf.function
        def run(v: Any) -> Any:
            def body(i: Any, v: Any) -> Any:
                return i + 1, step(i, v)

            return tf.while_loop(lambda i, _: i < TURNS, body, (tf.constant(0), v))[1]

        return lambda: run(v)

    def hashed(i: Any, v: Any) -> Any:
        return v + tf.cast(space._seeds(tf.constant([0, 1]), i, tf.constant(0))[0][0, 0], tf.float32)

    function = tf.function(lambda v, s: source.sketch(v, s), autograph=False)
    empty = tf.function(lambda v, s: (v[:, :1] + 1.0, v + 1.0), autograph=False)
    cases = {
        "kernels": kernels,
        "eager": lambda: source.sketch(v, seeds),
        "function": lambda: function(v, seeds),
        "function without": lambda: empty(v, seeds),
        "loop": loop(lambda i, v: source.sketch(v, seeds)[1]),
        "loop with seeds": loop(hashed),
        "loop without": loop(lambda i, v: v + 1.0),
    }
    # Many calls in a row, as in training: the first one finds the caches full of another case's data.
    seconds = _measure(cases, max(options.repeats, 15), calls=30)
    middle = {name: statistics.median(values) * 1e6 for name, values in seconds.items()}
    table = {
        "kernels, d = 1": middle["kernels"],
        "op, eager": middle["eager"] - middle["kernels"],
        "op, compiled function": middle["function"] - middle["function without"] - middle["kernels"],
        "op, turn of a loop": (middle["loop"] - middle["loop without"]) / TURNS - middle["kernels"],
        "seeds, turn of a loop": (middle["loop with seeds"] - middle["loop without"]) / TURNS,
    }
    print("\nus")
    for label, value in table.items():
        print(f"{label:24}{value:11.1f}", flush=True)
    return table


def _kernels(size: int, dim: int, distribution: str) -> List[Callable[[], Any]]:
    """(sketch, project, expand) without TensorFlow."""
    import numpy as np

    from rbd_ipu.directions.native.dense import Launcher

    launcher = Launcher(1, size, dim, distribution, unit=True, scale=1.0)
    random = np.random.default_rng(0)
    v, c = (random.standard_normal((1, length)).astype(np.float32) for length in (size, dim))
    seeds = np.array([[1, 2]], np.int32)
    return [
        lambda: launcher.sketch(v, seeds),
        lambda: launcher.project(v, seeds),
        lambda: launcher.expand(c, seeds),
    ]


def _with_threads(threads: int, run: Callable[[], Any]) -> Callable[[], Any]:
    def limited() -> Any:
        before = os.environ.get("RBD_NUM_THREADS")
        os.environ["RBD_NUM_THREADS"] = str(threads)
        try:
            return run()
        finally:
            del os.environ["RBD_NUM_THREADS"]
            if before is not None:
                os.environ["RBD_NUM_THREADS"] = before

    return limited


def _measure(cases: Dict[Any, Callable[[], Any]], repeats: int, calls: int = 1) -> Dict[Any, List[float]]:
    """Seconds of a call, case by case in turns of ``calls`` calls, after one that compiles."""
    seconds: Dict[Any, List[float]] = {case: [] for case in cases}
    for run in cases.values():
        run()
    for _ in range(repeats):
        for case, run in cases.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[case].append((time.perf_counter() - start) / calls)
    return seconds


def _row(seconds: List[float], unit: float) -> Dict[str, float]:
    return {
        "median": statistics.median(seconds) * unit,
        "least": min(seconds) * unit,
        "most": max(seconds) * unit,
    }


def _text(row: Dict[str, float]) -> str:
    return f"{row['median']:.2f} [{row['least']:.2f} {row['most']:.2f}]"


if __name__ == "__main__":
    main()
