"""Finds the learning rates on record for the digits: powers of two, lowest validation loss, mean of three seeds.

    python scripts/tune_digits.py --epochs 40

Prints a line for each rate and marks the best of each method; it writes nothing. Takes about seven minutes.
"""

import argparse
from typing import Any, Dict, List, Tuple

import numpy as np

import rbd_ipu
from rbd_ipu import data, methods, models

GRID: List[Tuple[str, Dict[str, int], range]] = [
    ("sgd", {}, range(-5, 2)),
    ("rbd", {"dim": 32}, range(-1, 6)),
    ("fpd", {"dim": 32}, range(-1, 6)),
    ("rbd", {"dim": 250}, range(-1, 6)),
    ("fpd", {"dim": 250}, range(-1, 6)),
]
SEEDS = (0, 1, 2)


def measure(name: str, options: Dict[str, Any], rate: float, epochs: int) -> np.ndarray:
    """Validation loss, validation accuracy and test accuracy for each seed: [seeds, 3]; inf where it diverged."""
    digits = data.load("digits")
    held_out, test = digits.evaluation("validation", 300), digits.evaluation("test", 300)
    rows = []
    for seed in SEEDS:
        own = options if name == "sgd" else {**options, "seed": seed}
        method = methods.create(name, learning_rate=rate, **own)
        trainer = rbd_ipu.Trainer(models.build("fc", digits.shape, seed=seed), method)
        try:
            history = trainer.fit(digits.batches(32, seed=seed), held_out, epochs=epochs, verbose=0).history
            row = [history["val_loss"][-1], history["val_accuracy"][-1], trainer.evaluate(test)["accuracy"]]
        except rbd_ipu.NonFiniteError:
            row = [np.inf, 0.0, 0.0]
        rows.append(row)
    return np.array(rows)


def main() -> None:
    """Runs the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs
    for name, options, exponents in GRID:
        means = {e: measure(name, options, 2.0**e, epochs).mean(axis=0) for e in exponents}
        best = min(means, key=lambda e: means[e][0])
        for e, (loss, validation, test) in means.items():
            mark = "  <- lowest" if e == best else ""
            print(
                f"{name} {options or ''} 2**{e}: val_loss {loss:.4f}, val_accuracy {100 * validation:.1f} %, "
                f"test {100 * test:.1f} %{mark}",
                flush=True,
            )


if __name__ == "__main__":
    main()
