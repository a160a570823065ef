"""What a step of SubspaceOptimizer costs beside Keras' optimizers: time and peak memory.

    python benchmarks/optimizer_cost.py [--layers 6 --width 376 --heads 8] [--batch 4 --context 64] [--rounds 9]

One network ``gpt`` for each optimizer, all in one process, which take turns: a round is a call of a few steps of
each. Times are medians over the rounds, ratios medians of the ratios within a round. Peak memory is that of a process
of its own for each optimizer, which builds the network and takes the same steps (VmHWM). Batches are random tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
from documents import heading, write

from rbd_ipu.lab.bench.runners import MEGABYTE, peak_now

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for size, value in (("layers", 6), ("width", 376), ("heads", 8), ("context", 64), ("batch", 4), ("rounds", 9)):
    ARGUMENTS.add_argument(f"--{size}", type=int, default=value)
ARGUMENTS.add_argument("--vocabulary", type=int, default=65)
ARGUMENTS.add_argument("--steps", type=int, default=3, help="of a call")
ARGUMENTS.add_argument("--cases", nargs="+", help="rows of CASES; default: all")
ARGUMENTS.add_argument("--jit", action="store_true", help="compile the steps by XLA, as Keras does by default")
ARGUMENTS.add_argument("--output", type=Path, help="a JSON file")
ARGUMENTS.add_argument("--only", help=argparse.SUPPRESS)


def cases() -> Dict[str, Callable[[], Any]]:
    """Name -> the optimizer."""
    import rbd_ipu
    from rbd_ipu import presets
    from rbd_ipu._compat import keras

    return {
        "sgd": lambda: keras.optimizers.SGD(0.01),
        "adam": lambda: keras.optimizers.Adam(0.001),
        "small_messages": lambda: presets.small_messages(0.001),
        "small_messages, second moment": lambda: presets.small_messages(0.001, second_moment=0.99),
        "small_state": lambda: presets.small_state(0.001),
        "rbd groups": lambda: rbd_ipu.RandomBasesDescent(0.1, dim=10_000, distribution="groups"),
        "rbd hadamard": lambda: rbd_ipu.RandomBasesDescent(0.1, dim=10_000, distribution="hadamard"),
    }


def prepared(make: Callable[[], Any], options: argparse.Namespace) -> Any:
    """(the model, the compiled function of some steps)."""
    from rbd_ipu import models
    from rbd_ipu._compat import tf

    sizes = {"layers": options.layers, "width": options.width, "heads": options.heads}
    model = models.build("gpt", (options.context,), options.vocabulary, 0, **sizes)
    optimizer = make()
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=options.jit)
    def one(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    tokens = np.random.default_rng(0).integers(0, options.vocabulary, (options.batch, options.context + 1))
    x, y = tf.constant(tokens[:, :-1], tf.int32), tf.constant(tokens[:, 1:], tf.int32)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(options.steps):
            loss = one(x, y)
        float(loss)
        return (time.perf_counter() - began) / options.steps

    return model, steps


def main() -> None:
    """Measures, prints a table, writes the file."""
    options = ARGUMENTS.parse_args()
    known = cases()
    if options.only:
        _, steps = prepared(known[options.only], options)
        for _ in range(3):
            steps()
        print(json.dumps(int(peak_now() * MEGABYTE)))
        return
    names = options.cases or list(known)
    made = {name: prepared(known[name], options) for name in names}
    D = next(iter(made.values()))[0].count_params()
    for _, steps in made.values():
        for _ in range(2):
            steps()
    rounds = [{name: steps() for name, (_, steps) in made.items()} for _ in range(options.rounds)]
    del made
    rows = []
    for name in names:
        words = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        memory = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
        ratios = {
            f"to_{other}": statistics.median(r[name] / r[other] for r in rounds)
            for other in ("sgd", "adam")
            if other in names
        }
        times = sorted(r[name] for r in rounds)
        low, high = times[len(times) // 4], times[-1 - len(times) // 4]
        quartiles = [1e3 * low, 1e3 * high]
        row = {"case": name, "D": D, "ms": 1e3 * statistics.median(times), "ms_quartiles": quartiles, **ratios}
        rows.append({**row, "peak_bytes": memory})
    base = next((row["peak_bytes"] for row in rows if row["case"] == "sgd"), None)
    for row in rows:
        row["over_sgd"] = None if base is None else (row["peak_bytes"] - base) / (4 * D)
        ratios = "  ".join(f"{key} {value:.2f}" for key, value in row.items() if key[:3] == "to_")
        over = "" if base is None else f" (SGD {row['over_sgd']:+.2f} x 4 D)"
        print(
            f"{row['case']:<30} {row['ms']:8.1f} ms  {ratios}  {row['peak_bytes'] / 2**20:,.0f} MB{over}", flush=True
        )
    if options.output:
        sizes = {key: getattr(options, key) for key in ("layers", "width", "context", "batch", "rounds", "jit")}
        write(options.output, {**heading("optimizer_cost.py", sys.argv[1:]), **sizes, "rows": rows})


if __name__ == "__main__":
    main()
