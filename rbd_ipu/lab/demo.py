"""The demonstration: SGD, random bases (RBD) and a fixed projection (FPD) on real digits, or on a text.

All three train the same network on the same data with the same seeds; RBD and FPD move it along d
directions at a time. RBD draws new ones at every step and so reaches the whole space, FPD keeps
those of the first step.
"""

import csv
import io
import math
import statistics
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from rbd_ipu import files, plots, provenance
from rbd_ipu.config import OF_TEXT, Config, resolve
from rbd_ipu.runs.experiment import prepare

METHODS = ("sgd", "rbd", "fpd")
_MOVES = {
    "sgd": "all {:,} dimensions",
    "rbd": "{:,} random directions, new at every step",
    "fpd": "{:,} random directions, the same at every step",
}


class Plan(NamedTuple):
    """What is trained, and how much: the number of directions, the epochs, the seeds and all other settings.

    ``rates`` are the learning rates by method; those on record where there are none.
    """

    dim: int = 32
    epochs: int = 40  # as the rates on record were tuned
    seeds: Sequence[int] = (0, 1, 2)
    settings: Mapping[str, Any] = {"dataset": "digits", "network": "fc"}
    rates: Mapping[str, float] = {}
    bases: Mapping[str, Any] = {}  # settings of RBD and FPD alone
    about: str = "1,797 real handwritten digits"


FULL = Plan()
QUICK = Plan(epochs=5, seeds=(0, 1))

#: Of SGD, 2**-1 has a validation loss of 2.48 after 20 epochs (seed 0), 2**0 of 3.20, and 2**1 diverges. The rates
#: of RBD and FPD have not been searched for yet.
TEXT = Plan(
    dim=1000,
    epochs=20,
    settings={"dataset": "shakespeare_excerpt", "network": "gpt", "layers": 2, "width": 64, "heads": 4},
    rates={"sgd": 0.5, "rbd": 16.0, "fpd": 8.0},
    bases={"distribution": "hadamard"},
    about="49,981 characters of Shakespeare",
)
QUICK_TEXT = TEXT._replace(epochs=2, seeds=(0,))


class Run(NamedTuple):
    """One trained network: settings, an epoch a row, the numbers on the test images."""

    config: Config
    rows: List[Dict[str, Any]]
    test: Mapping[str, float]
    seconds: float
    d: int
    D: int


def configs(plan: Plan) -> List[Config]:
    """The runs of a plan, method by method."""
    runs = []
    for method in METHODS:
        for seed in plan.seeds:
            settings = {**plan.settings, "method": method, "seed": seed, "epochs": plan.epochs}
            if method != "sgd":
                settings.update(plan.bases, dim=plan.dim)
            if method in plan.rates:
                settings["learning_rate"] = plan.rates[method]
            runs.append(resolve(settings))
    return runs


def train(config: Config) -> Run:
    """Trains one network."""

    began = time.perf_counter()
    experiment = prepare(config)
    history = experiment.fit(verbose=0).history
    rows = [
        {"epoch": epoch + 1, **{name: values[epoch] for name, values in history.items()}}
        for epoch in range(config.epochs)
    ]
    test = experiment.test()
    seconds = time.perf_counter() - began
    return Run(config, rows, test, seconds, experiment.method.dim, experiment.method.size)


def check(settings: Sequence[Config]) -> None:
    """Builds the first run, so that what is missing is said before anything is written."""

    prepare(settings[0])


def table(runs: Sequence[Run]) -> List[Dict[str, Any]]:
    """A row for each method: accuracy over the seeds (of a text also perplexity), sizes, speed."""
    rows = []
    for method in METHODS:
        own = [run for run in runs if run.config.method == method]
        if not own:
            continue
        accuracies = [100 * run.test["accuracy"] for run in own]
        # The first epoch includes compiling.
        speeds = [row["images_per_second"] for run in own for row in (run.rows[1:] or run.rows)]
        rows.append(
            {
                "method": method.upper(),
                "d": own[0].d,
                "D": own[0].D,
                "compression": own[0].D / own[0].d,
                "learning_rate": own[0].config.learning_rate,
                "test_accuracy_mean": statistics.mean(accuracies),
                "test_accuracy_std": statistics.stdev(accuracies) if len(own) > 1 else None,
                "seeds": len(own),
                "images_per_second_median": statistics.median(speeds),
            }
        )
        if own[0].config.network in OF_TEXT:
            found = [math.exp(run.test["loss"]) for run in own]
            spread = statistics.stdev(found) if len(own) > 1 else None
            rows[-1].update(test_perplexity_mean=statistics.mean(found), test_perplexity_std=spread)
    return rows


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    text = "test_perplexity_mean" in rows[0]
    name, heading, places = (
        ("test_perplexity", "test perplexity", 2) if text else ("test_accuracy", "test accuracy (%)", 1)
    )
    lines = [f"method       d       D   D/d   {heading:>17}   {'windows/s' if text else 'images/s'}"]
    for row in rows:
        spread = "" if row[f"{name}_std"] is None else f" +- {row[f'{name}_std']:.{places}f}"
        accuracy = f"{row[f'{name}_mean']:.{places}f}{spread}"
        lines.append(
            f"{row['method']:<6} {row['d']:>7,} {row['D']:>7,} {row['compression']:>5.0f}"
            f"   {accuracy:>17}   {row['images_per_second_median']:>8,.0f}"
        )
    return "\n".join(lines)


def write_numbers(folder: Path, runs: Sequence[Run], command: str) -> None:
    """Leaves demo.json (everything) and demo.csv (the table), over those of fewer runs."""
    rows = table(runs)
    document = {
        "command": command,
        **provenance.origin(),
        "table": rows,
        "runs": [
            {
                "config": run.config.as_dict(),
                "test": run.test,
                "seconds": run.seconds,
                "epochs": run.rows,
            }
            for run in runs
        ],
    }
    files.write_text(folder / "demo.json", files.document(document))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(folder / "demo.csv", text.getvalue())


def write_picture(folder: Path, runs: Sequence[Run]) -> None:
    """Leaves curves.png in ``folder``, where matplotlib is installed."""
    if not files.installed("matplotlib"):
        return
    lines = []
    for row in table(runs):
        own = [run for run in runs if run.config.method.upper() == row["method"]]
        scale, column = (1, "val_loss") if own[0].config.network in OF_TEXT else (100, "val_accuracy")
        mean, std = plots.statistics_of([[scale * epoch[column] for epoch in run.rows] for run in own])
        label = f"{row['method']}: {_MOVES[own[0].config.method].format(row['d'])}"
        lines.append(plots.Line(label, [float(epoch["epoch"]) for epoch in own[0].rows], mean, std, None, len(own)))
    seeds, parameters = max(row["seeds"] for row in table(runs)), runs[0].D
    text = runs[0].config.network in OF_TEXT
    what = "characters of Shakespeare" if text else "handwritten digits"
    title = f"{what.capitalize()}, {parameters:,} parameters: mean and standard deviation of {seeds} seeds"
    label = "validation loss (nats)" if text else "validation accuracy (%)"
    panel = plots.Panel("a language model" if text else "a fully connected network", "epoch", label, lines)
    plots.draw(folder / "curves.png", title, [panel])
