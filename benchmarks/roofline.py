"""What bounds each path: the parts of a step, each measured alone.

    python benchmarks/roofline.py [--output roofline.json]

  threads    sketches of every dense distribution by ``native``, on one thread and on all: samples a second
  passes     project, expand and sketch, and the same by ``counter``: what one pass over each direction saves
  transform  the Hadamard sketch, whatever d is
  overhead   a native sketch of almost nothing: what calling out of the graph costs
  memory     copying and adding vectors far larger than the cache: GB/s

Each figure is the median of the rounds; for speeds of hardware, the best round.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
from documents import heading, write

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--size", type=int, default=122_570, help="D (default: the CIFAR-10 CNN)")
ARGUMENTS.add_argument("--samples", type=float, default=2.5e8, help="random numbers of one sketch")
ARGUMENTS.add_argument("--rounds", type=int, default=7)
ARGUMENTS.add_argument("--output", type=Path, help="a JSON file")

VARIABLE = "RBD_NUM_THREADS"


def main() -> None:
    """Measure, print, write."""
    options = ARGUMENTS.parse_args()
    document = heading("roofline.py", sys.argv[1:])
    from rbd_ipu import text_table
    from rbd_ipu.lab.bench.runners import threads

    document["threads"] = threads()
    document["rows"] = _measured(options, document["threads"])
    document["load_average"]["end"] = list(os.getloadavg())
    print(text_table.text(lines(document["rows"]), left=4))
    if options.output:
        write(options.output, document)


def lines(rows: List[Dict[str, Any]]) -> List[List[str]]:
    """The table, with its headings."""
    from rbd_ipu.text_table import figures

    head = ["what", "distribution", "source", "pass", "threads", "d", "ms", "G samples/s", "a core", "GB/s"]
    table = [head]
    for row in rows:
        rate = None if row["samples"] is None else row["samples"] / row["ms"] / 1e6
        table.append(
            [
                row["what"],
                row["distribution"] or "-",
                row["source"] or "-",
                row["pass"] or "-",
                str(row["threads"]),
                "-" if row["d"] is None else f"{row['d']:,}",
                figures(row["ms"]),
                figures(rate),
                figures(None if rate is None else rate / row["threads"]),
                figures(row["gigabytes"] and row["gigabytes"] / row["ms"] * 1e3),
            ]
        )
    return table


def _measured(options: argparse.Namespace, threads: int) -> List[Dict[str, Any]]:
    from rbd_ipu.directions import DISTRIBUTIONS, native

    size, dim = options.size, max(1, round(options.samples / options.size))
    parts: List[Any] = []  # facts and a function to time
    for distribution in DISTRIBUTIONS:
        for used in dict.fromkeys([1, threads]) if native.available() else []:
            parts.append(_basis("threads", size, dim, distribution, "native", "sketch", used))
    for source in ["native", "counter"] if native.available() else ["counter"]:
        for step in ("project", "expand", "sketch"):
            parts.append(_basis("passes", size, dim, "normal", source, step, threads))
        for d in (250, 10_000, size // 2):
            parts.append(_basis("transform", size, min(d, size), "hadamard", source, "sketch", threads))
        parts.append(_basis("overhead", 16, 1, "normal", source, "sketch", threads))
    parts += _memory()
    times: List[List[float]] = [[] for _ in parts]
    for r in range(-1, options.rounds):  # the first round compiles and does not count
        for (facts, function), own in zip(parts, times):
            os.environ[VARIABLE] = str(facts["threads"])
            seconds = _timed(function)
            if r >= 0:
                own.append(seconds)
        print(f"round {r + 1}/{options.rounds}", flush=True)
    rows = []
    for (facts, _), own in zip(parts, times):
        best = facts["what"] in ("threads", "memory")
        seconds = min(own) if best else float(np.median(own))
        rows.append({**facts, "ms": 1e3 * seconds, "round_ms": [1e3 * t for t in own]})
    return rows


def _basis(what: str, size: int, dim: int, distribution: str, source: str, step: str, threads: int) -> Any:
    from rbd_ipu._compat import tf
    from rbd_ipu.basis import RandomBasis
    from rbd_ipu.directions import DISTRIBUTIONS

    basis = RandomBasis(size, dim, distribution, source=source)
    argument = tf.constant(np.random.default_rng(0).normal(size=dim if step == "expand" else size).astype(np.float32))
    seed = tf.constant([1, 2])

    # In a graph, as in training: called one by one, the operations around a kernel would cost more than it.
    @tf.function
    def call() -> Any:
        result = getattr(basis, step)(argument, seed)
        return result[1] if step == "sketch" else result

    samples = size * dim if distribution in DISTRIBUTIONS and what != "overhead" else None
    facts = {"what": what, "distribution": distribution, "source": source, "pass": step, "threads": threads}
    return {**facts, "d": dim, "samples": samples, "gigabytes": None}, lambda: call().numpy()


def _memory() -> Any:
    a, b = np.ones(2**26, np.float32), np.zeros(2**26, np.float32)
    facts = {"what": "memory", "distribution": None, "source": None, "threads": 1, "d": None, "samples": None}
    return [
        ({**facts, "pass": "copy", "gigabytes": 2 * a.nbytes / 1e9}, lambda: np.copyto(b, a)),
        ({**facts, "pass": "add", "gigabytes": 3 * a.nbytes / 1e9}, lambda: np.add(a, b, out=b)),
    ]


def _timed(function: Callable[[], Any]) -> float:
    """Seconds a call; short ones are repeated for 50 ms."""
    started, calls = time.perf_counter(), 0
    while True:
        function()
        calls += 1
        seconds = time.perf_counter() - started
        if seconds > 0.05:
            return seconds / calls


if __name__ == "__main__":
    main()
