"""Does speed cost accuracy? Three tables.

    python benchmarks/accuracy.py --data-dir DIR --output accuracy.json [--markdown accuracy.md]

  distributions  FC on MNIST, random bases with each distribution, d = 250, learning rate 2^2, one epoch of all
                 60,000 training images without augmentation: test accuracy over five seeds
  against sgd    CNN on CIFAR-10, Hadamard bases at d = 60,000 beside plain SGD after the same epochs, each at the
                 power of two that does best on the validation images; then trained on all images: test accuracy
  correlation    of the update with the gradient, Hadamard bases on that CNN, beside the theory

Finished runs are kept in a file beside the output (accuracy.runs.jsonl); a stopped script goes on after them.
With --quick the tables are made from the embedded digits, to see that all works; the numbers mean nothing.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import accuracy_tables
import numpy as np
from documents import Finished, heading, powers, write

from rbd_ipu import files

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--data-dir", help="the folder of the data sets of TFDS")
ARGUMENTS.add_argument("--output", type=Path, required=True, help="a JSON file")
ARGUMENTS.add_argument("--markdown", type=Path, help="the tables as Markdown")
ARGUMENTS.add_argument("--parts", nargs="+", choices=["distributions", "sgd", "correlation"])
ARGUMENTS.add_argument("--seeds", type=int, default=5, help="of the first table (default 5)")
ARGUMENTS.add_argument("--sgd-seeds", type=int, default=3, help="of the second table (default 3)")
ARGUMENTS.add_argument("--epochs", type=int, default=4, help="of the second table (default 4)")
ARGUMENTS.add_argument("--sgd-rates", type=powers, default="-7..-3", help="exponents to begin with (default -7..-3)")
ARGUMENTS.add_argument("--bases-rates", type=powers, default="-6..-2", help="the same for the Hadamard bases")
ARGUMENTS.add_argument("--quick", action="store_true", help="use the embedded digits")


class Plan(NamedTuple):
    """Data sets and sizes."""

    fc_data: str = "mnist"
    fc_dim: int = 250
    fc_rate: float = 4.0
    cnn_data: str = "cifar10"
    cnn_dim: int = 60_000
    correlation_dims: Sequence[int] = (250, 10_000, 60_000)
    chunks: int = 10
    chunk_steps: int = 20


QUICK = Plan("digits", 32, 4.0, "digits", 20_000, (250, 10_000, 20_000))
BATCH = 32
EXCLUDED = ("bernoulli-0.5",)  # biased: it is no choice to train with


def train(data: Any, network: str, method: str, seed: int, epochs: int, **options: Any) -> Any:
    """Trains without augmentation; returns (the trainer, its history as a dict, None if it diverged)."""
    from rbd_ipu import methods, models
    from rbd_ipu.training import NonFiniteError, Trainer

    seeds = {} if method == "sgd" else {"seed": seed}
    model = models.build(network, data.shape, data.classes, seed=seed)
    trainer = Trainer(model, methods.create(method, **seeds, **options), "cpu")
    try:
        return trainer, trainer.fit(data.batches(BATCH, seed, augment=False), epochs=epochs, verbose=0).history
    except NonFiniteError:
        return trainer, None


def accuracy(data: Any, which: str, *arguments: Any, **options: Any) -> Any:
    """Accuracy on a split after training; None if it diverged."""
    trainer, history = train(data, *arguments, **options)
    return None if history is None else trainer.evaluate(data.evaluation(which, 256))["accuracy"]


def distributions(plan: Plan, data_dir: Any, seeds: int, finished: Finished) -> Dict[str, Any]:
    """Test accuracies by distribution, one for each seed."""
    from rbd_ipu.data import load
    from rbd_ipu.directions import distribution_names

    data = load(plan.fc_data, data_dir).joined()
    found: Dict[str, List[Any]] = {}
    for seed in range(seeds):
        for name in (name for name in distribution_names() if name not in EXCLUDED):
            options = {"learning_rate": plan.fc_rate, "dim": plan.fc_dim, "distribution": name}
            settings = {"part": "distributions", "data": plan.fc_data, "seed": seed, **options}
            value = finished.run(settings, lambda s=seed, o=options: accuracy(data, "test", "fc", "rbd", s, 1, **o))
            found.setdefault(name, []).append(value)
            print(f"fc {plan.fc_data} {name} seed {seed}: {value}", flush=True)
    return {"data": plan.fc_data, "d": plan.fc_dim, "learning_rate": plan.fc_rate, "accuracies": found}


def against_sgd(plan: Plan, options: argparse.Namespace, finished: Finished) -> Dict[str, Any]:
    """For SGD and the bases: the grid of rates on the validation images, the best rate, test accuracies."""
    from rbd_ipu.data import load

    data = load(plan.cnn_data, options.data_dir)
    whole = data.joined()
    result: Dict[str, Any] = {"data": plan.cnn_data, "d": plan.cnn_dim, "epochs": options.epochs}
    bases = {"dim": plan.cnn_dim, "distribution": "hadamard"}
    for method, extra, rates in (("sgd", {}, options.sgd_rates), ("rbd", bases, options.bases_rates)):

        def score(which: str, images: Any, seed: int, power: int, method: str = method, extra: Any = extra) -> Any:
            own = {"learning_rate": 2.0**power, **extra}
            settings = {"part": "sgd", "data": plan.cnn_data, "which": which, "method": method, "seed": seed}
            value = finished.run(
                {**settings, "epochs": options.epochs, **own},
                lambda: accuracy(images, which, "cnn", method, seed, options.epochs, **own),
            )
            print(f"cnn {plan.cnn_data} {method} 2^{power} seed {seed}, {which}: {value}", flush=True)
            return value

        scores = {power: score("validation", data, 0, power) for power in rates}
        best = accuracy_tables.best(scores)
        while best in (min(scores), max(scores)):  # the best rate must have worse ones on both sides
            power = best - 1 if best == min(scores) else best + 1
            scores[power] = score("validation", data, 0, power)
            best = accuracy_tables.best(scores)
        tests = [score("test", whole, seed, best) for seed in range(options.sgd_seeds)]
        grid = {str(power): scores[power] for power in sorted(scores)}
        result[method] = {"grid": grid, "power": best, "accuracies": tests}
    return result


def correlation(plan: Plan, data_dir: Any, finished: Finished) -> Dict[str, Any]:
    """Pearson correlations and cosines by d: means over chunks of steps, at the initial weights."""
    from rbd_ipu import methods, models
    from rbd_ipu.data import Batches, load
    from rbd_ipu.directions.hadamard import split
    from rbd_ipu.training import Trainer

    data = load(plan.cnn_data, data_dir)
    size, rows = 0, []
    for dim in plan.correlation_dims:

        def chunks(dim: int = dim) -> Any:
            few = data.train.take(np.arange(BATCH * plan.chunk_steps))
            model = models.build("cnn", data.shape, data.classes)
            # The network stays where it is: a rate of 0, new directions at every step.
            method = methods.create("rbd", learning_rate=0.0, dim=dim, distribution="hadamard")
            history = Trainer(model, method, "cpu").fit(Batches(few, BATCH), epochs=plan.chunks, verbose=0).history
            return {"D": method.size, "correlation": history["correlation"], "cosine": history["cosine"]}

        settings = {"part": "correlation", "data": plan.cnn_data, "dim": dim, "chunks": plan.chunks}
        done = finished.run({**settings, "steps": plan.chunk_steps}, chunks)
        size = done["D"]
        rows.append({"d": dim, "correlations": done["correlation"], "cosines": done["cosine"]})
        print(f"correlation d={dim}: {np.mean(done['correlation']):.4f}", flush=True)
    a, b = split(size)
    steps = plan.chunks * plan.chunk_steps
    return {"data": plan.cnn_data, "D": size, "padded": a * b, "steps": steps, "rows": rows}


def main() -> None:
    """Run what is not done yet, write the document after each part."""
    options = ARGUMENTS.parse_args()
    plan = QUICK if options.quick else Plan()
    parts = options.parts or ["distributions", "sgd", "correlation"]
    finished = Finished(options.output.with_suffix(".runs.jsonl"))
    if len(finished):
        print(f"{len(finished)} runs are done already ({finished.path})")
    document = heading("accuracy.py", sys.argv[1:])
    for part in parts:
        if part == "distributions":
            document[part] = distributions(plan, options.data_dir, options.seeds, finished)
        elif part == "sgd":
            document[part] = against_sgd(plan, options, finished)
        else:
            document[part] = correlation(plan, options.data_dir, finished)
        write(options.output, document)
    text = accuracy_tables.everything(document)
    print(f"\n{text}")
    if options.markdown:
        files.write_text(options.markdown, text)


if __name__ == "__main__":
    main()
