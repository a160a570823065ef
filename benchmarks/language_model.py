"""Optimizers on a small language model: validation loss, and what a step sends and keeps.

    python benchmarks/language_model.py --recipe adam rbd --rate 0.01 --steps 1000 --seeds 3

trains the network ``gpt`` on tiny_shakespeare ($RBD_DATA_DIR), character by character, with each optimizer at each
rate and from each seed. A step takes a mini-batch of windows that begin at random places, drawn from the seed. The
rate rises over the first 100 steps and falls from there to a tenth, both in a straight line. The loss is the mean
over all windows of the validation text that do not overlap, in nats a character, before the first step and after the
last.

Each run is a line of the output, written as soon as it is done; a run that is there is not run again. To compare one
more optimizer, add a row to RECIPES.
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import numpy as np
from documents import heading
from documents import rows as rows_of

from rbd_ipu import files, text_table

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--recipe", nargs="+", default=["adam"], help="rows of RECIPES (default adam); all: every one")
ARGUMENTS.add_argument("--rate", nargs="+", type=float, default=[0.01], help="the highest learning rates")
ARGUMENTS.add_argument("--steps", nargs="+", type=int, default=[1000])
ARGUMENTS.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...")
ARGUMENTS.add_argument("--first-seed", type=int, default=0)
ARGUMENTS.add_argument("--layers", type=int, default=3)
ARGUMENTS.add_argument("--width", type=int, default=96)
ARGUMENTS.add_argument("--heads", type=int, default=4)
ARGUMENTS.add_argument("--context", type=int, default=48)
ARGUMENTS.add_argument("--batch", type=int, default=16)
ARGUMENTS.add_argument("--fraction", type=float, default=0.1, help="d / D of the rows that have a d")
ARGUMENTS.add_argument("--data", default="tiny_shakespeare", help="tiny_shakespeare or shakespeare_excerpt")
ARGUMENTS.add_argument("--data-dir", help="the folder of the data sets of TFDS (default $RBD_DATA_DIR)")
ARGUMENTS.add_argument(
    "--device", default="cpu", help="cpu or gpu: only written down; TensorFlow takes what there is"
)
ARGUMENTS.add_argument("--output", type=Path, default=Path("results/performance/language_model.jsonl"))

WARM_UP = 100  # steps
LAST = 0.1  # of the highest rate, at the last step
CALL = 50  # steps of a call of the compiled loop
EVALUATION = 129  # windows at a time, in the evaluation


class Made(NamedTuple):
    """What a recipe is told: the rate as a Keras schedule, the steps, D and d."""

    rate: Any
    steps: int
    D: int
    d: int
    seed: int


class Recipe(NamedTuple):
    """An optimizer to compare.

    Attributes:
      make: what the run has (a :class:`Made`) -> the Keras optimizer.
      sent: a :class:`Made` -> bytes that a worker sends at a step, without any compression of the message.
      state: a :class:`Made` -> floats that the optimizer keeps between two steps, beside the weights.
      note: of the settings.
    """

    make: Callable[[Made], Any]
    sent: Callable[[Made], float]
    state: Callable[[Made], float]
    note: str = ""


def _keras(name: str, **options: Any) -> Callable[[Made], Any]:
    def make(made: Made) -> Any:
        from rbd_ipu._compat import keras

        return getattr(keras.optimizers, name)(made.rate, **options)

    return make


def _signum(made: Made) -> Any:
    """theta <- theta - rate * sign(m), with m = 0.9 m + 0.1 g, as Lion whose two averages are one."""
    from rbd_ipu._compat import keras

    return keras.optimizers.Lion(made.rate, beta_1=0.9, beta_2=0.9, weight_decay=None)


def _rbd(made: Made) -> Any:
    import rbd_ipu

    return rbd_ipu.RandomBasesDescent(made.rate, dim=made.d, distribution="hadamard", seed=made.seed)


def _largest(**options: Any) -> Callable[[Made], Any]:
    def make(made: Made) -> Any:
        from rbd_ipu import presets

        return presets.small_messages(made.rate, made.d / made.D, seed=made.seed, **options)

    return make


def _one_bit_adam(made: Made) -> Any:
    import rbd_ipu
    from rbd_ipu._compat import keras

    adam = keras.optimizers.Adam(made.rate, beta_2=0.99)
    return rbd_ipu.SubspaceOptimizer(adam, dim=made.d, distribution="hadamard", wire="sign", seed=made.seed)


def _in_coordinates(distribution: str) -> Callable[[Made], Any]:
    def make(made: Made) -> Any:
        from rbd_ipu import presets
        from rbd_ipu._compat import keras

        adam = keras.optimizers.Adam(made.rate, beta_2=0.99)
        fraction = made.d / made.D
        return presets.small_state(None, fraction, adam, distribution=distribution, seed=made.seed)

    return make


def dense(made: Made) -> float:
    """Bytes of a gradient in float32; of an optimizer that says what it sends, its own number counts."""
    return 4.0 * made.D


def _full(made: Made) -> float:
    return 1.0 * made.D


#: name -> the recipe. Another optimizer is one more row.
RECIPES: Dict[str, Recipe] = {
    "adam": Recipe(_keras("Adam", beta_2=0.99), dense, lambda made: 2.0 * made.D, "betas 0.9, 0.99"),
    "adamw": Recipe(
        _keras("AdamW", beta_2=0.99, weight_decay=0.1), dense, lambda made: 2.0 * made.D, "betas 0.9, 0.99; decay 0.1"
    ),
    "sgd-momentum": Recipe(_keras("SGD", momentum=0.9), dense, lambda made: 1.0 * made.D, "momentum 0.9"),
    "signum": Recipe(_signum, dense, lambda made: 1.0 * made.D, "momentum 0.9"),
    "lion": Recipe(_keras("Lion", beta_1=0.9, beta_2=0.99), dense, lambda made: 1.0 * made.D, "betas 0.9, 0.99"),
    "rbd": Recipe(_rbd, lambda made: 4.0 * made.d, lambda made: 0.0, "hadamard, new at every step"),
    "largest": Recipe(_largest(redraw_every=0), dense, _full, "largest of each block, memory, one bit, sign; fixed"),
    "largest-redrawn": Recipe(_largest(redraw_every=1), dense, _full, "the same, new bases at every step"),
    "largest-float32": Recipe(_largest(redraw_every=0, wire="float32"), dense, _full, "the same, fixed, in float32"),
    "one-bit-adam": Recipe(_one_bit_adam, dense, lambda made: 2.0 * made.D, "hadamard, all d, one bit; Adam on u"),
    "adam-in-coordinates": Recipe(
        _in_coordinates("groups"), dense, lambda made: 2.0 * made.d, "groups, new every 100 steps"
    ),
    "adam-in-hadamard-coordinates": Recipe(
        _in_coordinates("hadamard"), dense, lambda made: 2.0 * made.d, "hadamard, new every 100 steps"
    ),
}


def schedule(rate: float, steps: int) -> Any:
    """The learning rate of step t = 0, 1, ...: rate * min((t + 1) / warm-up, the line from 1 at its end to 0.1)."""
    from rbd_ipu._compat import keras, tf

    class WarmUpThenLine(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            t = tf.cast(step, tf.float32)
            rise = (t + 1.0) / WARM_UP
            gone = tf.clip_by_value((t - WARM_UP) / max(1.0, steps - 1.0 - WARM_UP), 0.0, 1.0)
            return rate * tf.minimum(rise, 1.0 - (1.0 - LAST) * gone)

        def get_config(self) -> Dict[str, Any]:
            return {}

    return WarmUpThenLine()


def cross_entropy(logits: Any, targets: Any) -> Any:
    """The mean over windows and places of -ln p(next token), in nats."""
    from rbd_ipu._compat import tf

    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))


def trainer(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """The compiled function (x [k, batch, context], y) -> losses [k] of k steps: a plain graph, without XLA."""
    from rbd_ipu._compat import tf

    optimizer.build(model.trainable_variables)
    windows = tf.TensorSpec([None, None, *model.input_shape[1:]], tf.int32)

    @tf.function(jit_compile=False, input_signature=[windows, windows])
    def run(x: Any, y: Any) -> Any:
        losses = tf.TensorArray(tf.float32, tf.shape(x)[0])
        for k in tf.range(tf.shape(x)[0]):
            with tf.GradientTape() as tape:
                loss = cross_entropy(model(x[k], training=True), y[k])
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            losses = losses.write(k, loss)
        return losses.stack()

    return run


def judge(model: Any) -> Callable[[Any, Any], float]:
    """The function (x [n, context], y) -> the mean loss over all of them."""
    from rbd_ipu._compat import tf

    windows = tf.TensorSpec([None, *model.input_shape[1:]], tf.int32)

    @tf.function(input_signature=[windows, windows])
    def some(x: Any, y: Any) -> Any:
        return cross_entropy(model(x, training=False), y)

    def all_of(x: np.ndarray, y: np.ndarray) -> float:
        parts = [(len(x[i : i + EVALUATION]), i) for i in range(0, len(x), EVALUATION)]
        return sum(n * float(some(x[i : i + n], y[i : i + n])) for n, i in parts) / len(x)

    return all_of


def draw(tokens: np.ndarray, context: int, batch: int, generator: Any, steps: int) -> Any:
    """Windows that begin anywhere: x and y, int32 [steps, batch, context]."""
    starts = generator.integers(0, len(tokens) - context, (steps, batch))
    windows = tokens[starts[..., None] + np.arange(context + 1)].astype(np.int32)
    return windows[..., :-1], windows[..., 1:]


def train(
    recipe: Recipe, rate: float, steps: int, seed: int, data: Any, options: argparse.Namespace
) -> Dict[str, Any]:
    """One run: its numbers."""
    from rbd_ipu import models
    from rbd_ipu._compat import keras

    keras.backend.clear_session()
    sizes = {"layers": options.layers, "width": options.width, "heads": options.heads}
    model = models.build("gpt", data.shape, data.classes, seed, **sizes)
    size = model.count_params()
    made = Made(schedule(rate, steps), steps, size, max(1, round(options.fraction * size)), seed)
    optimizer = recipe.make(made)
    run = trainer(model, optimizer)
    validation, windows = judge(model), data.validation.windows()
    first = validation(*windows)
    generator = np.random.default_rng([seed, 1])
    done, seconds, losses = 0, [], []
    while done < steps:
        n = min(CALL, steps - done)
        x, y = draw(data.train.tokens, data.context, options.batch, generator, n)
        began = time.perf_counter()
        losses += run(x, y).numpy().tolist()
        seconds.append((time.perf_counter() - began) / n)
        done += n
        if not np.isfinite(losses[-1]):
            break
    sent = getattr(optimizer, "message_bytes", None) or recipe.sent(made)
    # The first call traces.
    return {
        "D": size,
        "d": made.d if sent < dense(made) else size,
        "first_loss": first,
        "validation_loss": validation(*windows),
        "training_loss": float(np.mean(losses[-100:])),
        "done": done,
        "bytes_a_step": sent,
        "state_floats": recipe.state(made),
        "seconds_a_step": float(np.median(seconds[1:] or seconds)),
    }


#: What makes two runs the same.
KEY = (
    "recipe", "rate", "steps", "seed", "layers", "width", "heads", "context", "batch", "fraction", "data", "device",
)  # fmt: skip


def table(rows: Sequence[Dict[str, Any]]) -> str:
    """The best rate of each recipe, network, fraction and number of steps, as Markdown: means over the seeds."""
    groups: Dict[Any, Dict[float, List[Dict[str, Any]]]] = {}
    for row in rows:
        what = (row["D"], row["steps"], row["recipe"], row["bytes_a_step"])
        groups.setdefault(what, {}).setdefault(row["rate"], []).append(row)
    lines = [["D", "steps", "method", "bytes a step", "state", "rates tried", "best", "n", "validation loss"]]
    for (D, steps, recipe, sent), rates in sorted(groups.items(), key=lambda item: (*item[0][:2], -item[0][3])):
        means = {rate: float(np.mean([row["validation_loss"] for row in own])) for rate, own in rates.items()}
        best = min(means, key=lambda rate: (-len(rates[rate]), means[rate]))
        losses = [row["validation_loss"] for row in rates[best]]
        spread = f" ± {np.std(losses, ddof=1):.3f}" if len(losses) > 1 else ""
        state = rates[best][0]["state_floats"] / D
        part = f" (1/{4 * D / sent:,.0f})" if sent < 4 * D else ""
        lines.append([
            f"{D:,}", f"{steps:,}", f"{recipe}: {rates[best][0]['note']}", f"{sent:,.0f}{part}", f"{state:.2g} D",
            ", ".join(f"{rate:g}" for rate in sorted(rates)), f"{best:g}", str(len(losses)),
            f"{np.mean(losses):.3f}{spread}",
        ])  # fmt: skip
    return text_table.markdown(lines, 3)


def main() -> None:
    """Run what is not done yet; a line each."""
    options = ARGUMENTS.parse_args()
    names = list(RECIPES) if options.recipe == ["all"] else options.recipe
    for name in names:
        if name not in RECIPES:
            ARGUMENTS.error(f"unknown recipe {name!r}; accepted: {', '.join(RECIPES)}, all")
    from rbd_ipu import data as datasets
    from rbd_ipu._compat import KERAS_3

    if not KERAS_3:
        ARGUMENTS.error("this needs Keras 3, whose optimizers it compares")
    if options.data not in datasets.datasets.TEXTS:
        ARGUMENTS.error(f"--data {options.data!r} is no text; accepted: {', '.join(datasets.datasets.TEXTS)}")
    data = datasets.load(options.data, options.data_dir).with_context(options.context)
    about = heading("language_model.py", sys.argv[1:])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = {json.dumps([row.get(name) for name in KEY]) for row in rows_of(options.output)}
    plan = [
        (name, rate, steps, seed)
        for steps in options.steps
        for name in names
        for rate in options.rate
        for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    for name, rate, steps, seed in plan:
        settings = {**vars(options), "recipe": name, "rate": rate, "steps": steps, "seed": seed}
        row = {key: settings[key] for key in KEY}
        if json.dumps(list(row.values())) in done:
            print(f"{name} rate {rate:g} steps {steps} seed {seed}: is there already", flush=True)
            continue
        recipe = RECIPES[name]
        row.update(note=recipe.note, **train(recipe, rate, steps, seed, data, options), **about)
        with files.naming(options.output), open(options.output, "a", encoding="utf-8") as file:
            file.write(files.line(row))
        loss = row["validation_loss"]
        print(
            f"{name} rate {rate:g} steps {steps} seed {seed}: {loss:.4f} nats (perplexity {_perplexity(loss):.2f}), "
            f"{row['bytes_a_step']:,.0f} bytes and {1000 * row['seconds_a_step']:.1f} ms a step on "
            f"{platform.machine()}, {row['state_floats']:,.0f} floats kept",
            flush=True,
        )


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


if __name__ == "__main__":
    main()
