"""What a process keeps of each model it built and trained: random bases beside the SGD of Keras.

    python benchmarks/memory_growth.py [--models 50] [--source native] [--output growth.json]

Each optimizer has a process of its own, which builds, trains and drops one small model after the other, with
``keras.backend.clear_session()`` between. The growth is the slope of a least-squares line through the memory in use
(RSS) after each model, those of the warm-up left out. Linux only.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from documents import heading, write

OPTIMIZERS = ("SGD", "RandomBasesDescent", "FixedProjectionDescent")

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--models", type=int, default=50)
ARGUMENTS.add_argument("--warm-up", type=int, default=15, help="models before the line begins")
ARGUMENTS.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS[:2]))
ARGUMENTS.add_argument("--dim", type=int, default=8, help="d of the random bases")
ARGUMENTS.add_argument("--compartments", default="global", help="of the random bases")
ARGUMENTS.add_argument("--source", default="auto", help="of the random bases")
ARGUMENTS.add_argument("--widths", choices=("same", "grow"), default="same", help="grow: no two models are alike")
ARGUMENTS.add_argument("--output", type=Path, help="a JSON file")
ARGUMENTS.add_argument("--only", choices=OPTIMIZERS, help=argparse.SUPPRESS)


def memory() -> float:
    """The memory in use now, in MB (2^20 bytes)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS:"))


def slope(values: List[float], warm_up: int) -> float:
    """Of the least-squares line through the values after the first ``warm_up``, a value."""
    kept = values[warm_up:]
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0])


def train(name: str, options: argparse.Namespace) -> List[float]:
    """Trains the models one after the other in this process; the memory in use after each."""
    import rbd_ipu
    from rbd_ipu._compat import keras

    bases = {"dim": options.dim, "compartments": options.compartments, "source": options.source}
    x, y = np.ones((64, 20), np.float32), np.zeros((64, 5), np.float32)
    used = []
    for k in range(options.models):
        keras.backend.clear_session()
        width = 32 + (k if options.widths == "grow" else 0)
        layers = [keras.layers.Dense(width, activation="relu"), keras.layers.Dense(5)]
        model = keras.Sequential([keras.Input((20,)), *layers])
        optimizer = keras.optimizers.SGD(0.1) if name == "SGD" else getattr(rbd_ipu, name)(0.1, **bases)
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(x, y, batch_size=16, verbose=0)
        used.append(memory())
    return used


def main() -> None:
    """Measure, print a table, write the numbers."""
    options = ARGUMENTS.parse_args()
    if options.models - options.warm_up < 2:
        ARGUMENTS.error(f"--models {options.models} with --warm-up {options.warm_up} leaves no two points for a line")
    if options.only:
        print(json.dumps(train(options.only, options)))
        return
    rows: List[Dict[str, Any]] = []
    print(f"{'optimizer':<24}{'first, MB':>12}{'last, MB':>12}{'MB a model':>12}")
    for name in options.optimizers:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        used = json.loads(done.stdout.splitlines()[-1])
        rows.append({"optimizer": name, "used_mb": used, "mb_a_model": slope(used, options.warm_up)})
        row = f"{used[0]:12.1f}{used[-1]:12.1f}{rows[-1]['mb_a_model']:12.3f}"
        print(f"{name:<24}{row}", flush=True)
    if options.output:
        write(options.output, {**heading("memory_growth.py", sys.argv[1:]), "rows": rows})


if __name__ == "__main__":
    main()
