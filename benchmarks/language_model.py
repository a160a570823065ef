"""Optimizers on a small language model: validation loss, and what a step sends and keeps.

    python benchmarks/language_model.py --recipe adam rbd --rate 0.01 --steps 1000 --seeds 3
    python benchmarks/language_model.py --recipe top-k --rate 2**-5 --bracket --seeds 3 --workers 4

trains the network ``gpt`` on tiny_shakespeare ($RBD_DATA_DIR), character by character, with each optimizer at each
rate and from each seed. A step takes a mini-batch of windows that begin at random places, drawn from the seed. The
rate rises over the first 100 steps and falls from there to a tenth, both in a straight line. The loss is the mean
over all windows of the validation text that do not overlap, in nats a character, before the first step and after the
last. With --workers K there are K batches a step, one for each simulated worker, whose gradients stay apart. With
--group-size G, leaders of G workers each pass on one message; with --group-levels L they have leaders themselves.

With --bracket, rates are halved and doubled from the given one on, with the first seed, until the best has a worse
one on both sides; the other seeds run at the best. A run whose loss is not finite is a row that says so.

With --cost nothing is trained to the end: a process of its own for each recipe takes some steps on random tokens, and
a row says what a step takes and the most memory that the process held.

Each run is a line of the output, written as soon as it is done; a run that is there is not run again. To compare one
more optimizer, add a row to RECIPES. comparison.py makes tables and pictures of the rows.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

import numpy as np
from documents import heading
from documents import rows as rows_of

from rbd_ipu import files


def parsed(text: str) -> float:
    """A rate: a number, or a power of two.

    Example:
      >>> parsed("2**-7"), parsed("0.005")
      (0.0078125, 0.005)
    """
    base, power, exponent = text.partition("**")
    return float(base) ** int(exponent) if power else float(text)


ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--recipe", nargs="+", default=["adam"], help="rows of RECIPES (default adam); all: every one")
ARGUMENTS.add_argument(
    "--rate", nargs="+", type=parsed, default=[0.01], help="the highest learning rates: 0.01, 2**-7"
)
ARGUMENTS.add_argument("--bracket", action="store_true", help="halve and double the rate until the best is bracketed")
ARGUMENTS.add_argument("--cost", action="store_true", help="measure time and memory of a step instead")
ARGUMENTS.add_argument("--workers", type=int, default=1, help="K, simulated, each with batches of its own")
ARGUMENTS.add_argument("--group-size", type=int, default=1, help="G workers have a leader; 1: no groups")
ARGUMENTS.add_argument("--group-levels", type=int, default=1, help="L levels of leaders")
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
ARGUMENTS.add_argument("--only", help=argparse.SUPPRESS)  # the recipe whose cost this process measures

WARM_UP = 100  # steps
MOST_RATES = 12  # that --bracket tries
LAST = 0.1  # of the highest rate, at the last step
CALL = 50  # steps of a call of the compiled loop
VOCABULARY = 65  # of the random tokens of --cost, as many as tiny_shakespeare has
EVALUATION = 129  # windows at a time, in the evaluation


class Made(NamedTuple):
    """What a recipe is told: the rate as a Keras schedule, the steps, D, d, the seed and the width of the network."""

    rate: Any
    steps: int
    D: int
    d: int
    seed: int
    width: int


class Recipe(NamedTuple):
    """An optimizer to compare.

    Attributes:
      make: what the run has (a :class:`Made`) -> the Keras optimizer, or a :class:`simulated.Simulated`.
      sent: a :class:`Made` -> bytes of the message of a worker; an optimizer's own message_bytes counts before it.
      state: a :class:`Made` -> floats that a worker keeps between two steps, beside the weights; an optimizer's own
        state_floats counts before it.
      note: of the settings.
      reduced: whether messages are added up on their way (all-reduce); else all are gathered by all.
      lazy: whether gradients of an embedding are sparse, as Keras has them: its optimizers then change the slots of
        the rows that came only. All others are given dense ones.
    """

    make: Callable[[Made], Any]
    sent: Callable[[Made], float]
    state: Callable[[Made], float]
    note: str = ""
    reduced: bool = True
    lazy: bool = False


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


def _fpd(made: Made) -> Any:
    import rbd_ipu

    return rbd_ipu.FixedProjectionDescent(made.rate, dim=made.d, distribution="hadamard", seed=made.seed)


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


def _rival(name: str, note: str, reduced: bool = True, **options: Any) -> Recipe:
    """A row of a class of rivals.py; options that are functions are given what the run has."""

    def make(made: Made) -> Any:
        import rivals

        given = {key: value(made) if callable(value) else value for key, value in options.items()}
        return getattr(rivals, name)(made.rate, **given)

    return Recipe(make, dense, _full, note, reduced)


def _part(made: Made) -> float:
    return made.d / made.D


def _seed(made: Made) -> int:
    return made.seed


def _quarter(made: Made) -> int:
    return made.width // 4


#: name -> the recipe. Another optimizer is one more row.
RECIPES: Dict[str, Recipe] = {
    "adam": Recipe(
        _keras("Adam", beta_2=0.99), dense, lambda made: 2.0 * made.D, "betas 0.9, 0.99; lazy embedding", lazy=True
    ),
    "adam-dense": Recipe(_keras("Adam", beta_2=0.99), dense, lambda made: 2.0 * made.D, "betas 0.9, 0.99"),
    "adamw": Recipe(
        _keras("AdamW", beta_2=0.99, weight_decay=0.1), dense, lambda made: 2.0 * made.D, "betas 0.9, 0.99; decay 0.1"
    ),
    "sgd-momentum": Recipe(
        _keras("SGD", momentum=0.9), dense, lambda made: 1.0 * made.D, "momentum 0.9; lazy embedding", lazy=True
    ),
    "signum": Recipe(_signum, dense, lambda made: 1.0 * made.D, "momentum 0.9"),
    "lion": Recipe(_keras("Lion", beta_1=0.9, beta_2=0.99), dense, lambda made: 1.0 * made.D, "betas 0.9, 0.99"),
    "rbd": Recipe(_rbd, lambda made: 4.0 * made.d, lambda made: 0.0, "hadamard, new at every step"),
    "fpd": Recipe(_fpd, lambda made: 4.0 * made.d, lambda made: 0.0, "hadamard, fixed"),
    "largest": Recipe(
        _largest(redraw_every=0), dense, _full, "largest of each block, memory, one bit, sign; fixed", False
    ),
    "largest-rms": Recipe(
        _largest(redraw_every=0, second_moment=0.99),
        dense,
        lambda made: 2.0 * made.D,
        "the same of g / sqrt(v), v the running mean of g^2 (decay 0.99); mean, not sign",
        False,
    ),
    "largest-redrawn": Recipe(_largest(redraw_every=1), dense, _full, "the same, new bases at every step", False),
    "largest-float32": Recipe(
        _largest(redraw_every=0, wire="float32"), dense, _full, "the same, fixed, in float32", False
    ),
    "one-bit-adam": Recipe(
        _one_bit_adam, dense, lambda made: 2.0 * made.D, "hadamard, all d, one bit; Adam on u", False
    ),
    "adam-in-coordinates": Recipe(
        _in_coordinates("groups"), dense, lambda made: 2.0 * made.d, "groups, new every 100 steps"
    ),
    "adam-in-hadamard-coordinates": Recipe(
        _in_coordinates("hadamard"), dense, lambda made: 2.0 * made.d, "hadamard, new every 100 steps"
    ),
    "top-k": _rival("TopK", "of each variable, error feedback", False, fraction=_part, momentum=0.0),
    "top-k-momentum": _rival("TopK", "the same, momentum 0.9 of each worker", False, fraction=_part),
    **{f"powersgd-{r}": _rival("PowerSGD", f"rank {r}, momentum 0.9", rank=r, seed=_seed) for r in (1, 2, 4)},
    **{
        f"powersgd-{r}-adam": _rival("PowerSGD", f"rank {r}, then Adam", rank=r, then="adam", seed=_seed)
        for r in (1, 4)
    },
    "1-bit-adam": _rival(
        "OneBitAdam",
        "15 % of the steps Adam",
        steps=lambda made: made.steps,
        warm_up=lambda made: made.steps * 15 // 100,
    ),
    **{f"demo-{k}": _rival("DeMo", f"{k} of each chunk", False, top=k) for k in (1, 8, 32)},
    "galore": _rival("GaLore", "rank 1/4 of the width, new every 200 steps", rank=_quarter),
    "apollo": _rival("Apollo", "rank 1/4 of the width, new every 200 steps", rank=_quarter, seed=_seed),
    "apollo-mini": _rival(
        "Apollo", "rank 1, one scale a matrix", rank=1, whole=True, scale=math.sqrt(128), seed=_seed
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


def trainer(model: Any, optimizer: Any, lazy: bool = False) -> Callable[[Any, Any], Any]:
    """The compiled function (x [k, K * batch, context], y) -> losses [k] of k steps: a plain graph, without XLA."""
    from simulated import Mean

    from rbd_ipu._compat import tf

    K, variables = optimizer.workers, model.trainable_variables
    windows = tf.TensorSpec([None, None, *model.input_shape[1:]], tf.int32)

    def gradients_of(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = cross_entropy(model(x, training=True), y)
        return loss, tape.gradient(loss, variables)

    def dense_of(x: Any, y: Any) -> Any:
        loss, gradients = gradients_of(x, y)
        return loss, [tf.convert_to_tensor(g) for g in gradients]

    def of_workers(x: Any, y: Any) -> Any:
        if K == 1:
            loss, gradients = gradients_of(x, y) if lazy else dense_of(x, y)
            return loss, gradients if isinstance(optimizer, Mean) else [g[tf.newaxis] for g in gradients]
        specs = (tf.TensorSpec([], tf.float32), [tf.TensorSpec(v.shape, tf.float32) for v in variables])
        cut = [tf.reshape(part, [K, -1, part.shape[-1]]) for part in (x, y)]
        losses, gradients = tf.map_fn(lambda own: dense_of(*own), cut, fn_output_signature=specs)
        return tf.reduce_mean(losses), gradients

    @tf.function(jit_compile=False, input_signature=[windows, windows])
    def run(x: Any, y: Any) -> Any:
        losses = tf.TensorArray(tf.float32, tf.shape(x)[0])
        for k in tf.range(tf.shape(x)[0]):
            loss, gradients = of_workers(x[k], y[k])
            optimizer.apply(gradients)
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


class Prepared(NamedTuple):
    """A network and its optimizer, ready to run."""

    model: Any
    made: Made
    optimizer: Any
    run: Callable[[Any, Any], Any]

    def bytes_a_step(self, recipe: Recipe) -> float:
        """Of the message of one worker."""
        return getattr(self.optimizer, "message_bytes", None) or recipe.sent(self.made)

    def state_floats(self, recipe: Recipe) -> float:
        """That one worker keeps."""
        return getattr(self.optimizer, "state_floats", None) or recipe.state(self.made)


def prepare(
    recipe: Recipe, rate: float, steps: int, seed: int, context: int, classes: int, options: argparse.Namespace
) -> Prepared:
    """The network of the options, the recipe's optimizer, K workers."""
    from simulated import simulated

    from rbd_ipu import models
    from rbd_ipu._compat import keras
    from rbd_ipu.parallel.workers import groups

    keras.backend.clear_session()
    sizes = {"layers": options.layers, "width": options.width, "heads": options.heads}
    model = models.build("gpt", (context,), classes, seed, **sizes)
    size = model.count_params()
    d = max(1, round(options.fraction * size))
    made = Made(schedule(rate, steps), steps, size, d, seed, options.width)
    optimizer = recipe.make(made)
    workers = simulated(optimizer, options.workers, groups(options.group_size, options.group_levels))
    workers.build(model.trainable_variables, options.workers)
    return Prepared(model, made, optimizer, trainer(model, workers, recipe.lazy))


def train(
    recipe: Recipe, rate: float, steps: int, seed: int, data: Any, options: argparse.Namespace
) -> Dict[str, Any]:
    """One run: its numbers."""
    ready = prepare(recipe, rate, steps, seed, data.context, data.classes, options)
    validation, windows = judge(ready.model), data.validation.windows()
    first = validation(*windows)
    generator = np.random.default_rng([seed, 1])
    done, seconds, losses = 0, [], []
    while done < steps:
        n = min(CALL, steps - done)
        x, y = draw(data.train.tokens, data.context, options.workers * options.batch, generator, n)
        began = time.perf_counter()
        losses += ready.run(x, y).numpy().tolist()
        seconds.append((time.perf_counter() - began) / n)
        done += n
        if not np.isfinite(losses[-1]):
            break
    sent = ready.bytes_a_step(recipe)
    # The first call traces.
    return {
        "D": ready.made.D,
        "d": ready.made.d if sent < dense(ready.made) else ready.made.D,
        "first_loss": first,
        "validation_loss": validation(*windows),
        "training_loss": float(np.mean(losses[-100:])),
        "done": done,
        "bytes_a_step": sent,
        "state_floats": ready.state_floats(recipe),
        "seconds_a_step": float(np.median(seconds[1:] or seconds)),
    }


COST_CALLS, COST_STEPS = 9, 10  # of a call, after one that traces


def cost(recipe: Recipe, options: argparse.Namespace) -> Dict[str, Any]:
    """What a step of one worker takes here, and the most memory that this process has held."""
    from rbd_ipu.lab.bench.runners import MEGABYTE, peak_now

    ready = prepare(recipe, 1e-4, 1000, 0, options.context, VOCABULARY, options)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 10_000)
    shape = (options.context, options.workers * options.batch, np.random.default_rng(1), COST_STEPS)
    seconds = []
    for _ in range(1 + COST_CALLS):
        x, y = draw(tokens, *shape)
        began = time.perf_counter()
        ready.run(x, y).numpy()
        seconds.append((time.perf_counter() - began) / COST_STEPS)
    times = sorted(1e3 * one for one in seconds[1:])
    return {
        "D": ready.made.D,
        "bytes_a_step": ready.bytes_a_step(recipe),
        "state_floats": ready.state_floats(recipe),
        "ms": times[len(times) // 2],
        "ms_quartiles": [times[len(times) // 4], times[-1 - len(times) // 4]],
        "peak_bytes": int(peak_now() * MEGABYTE),
    }


#: What makes two runs the same.
KEY = (
    "recipe", "rate", "steps", "seed", "layers", "width", "heads", "context", "batch", "fraction", "data", "device",
    "workers", "group_size", "group_levels",
)  # fmt: skip
DEFAULTS = {"workers": 1, "group_size": 1, "group_levels": 1}  # of rows that were written before there was a choice


def key_of(row: Mapping[str, Any], *left_out: str) -> str:
    """What makes the run of this row another one than the rest."""
    return json.dumps([row.get(name, DEFAULTS.get(name)) for name in KEY if name not in left_out])


def loss_of(row: Mapping[str, Any]) -> float:
    """The validation loss of a run; infinite where it is not finite."""
    loss = row["validation_loss"]
    return math.inf if loss is None or not math.isfinite(loss) else loss


def next_rate(tried: Mapping[float, float]) -> Optional[float]:
    """The rate to try next, of rate -> loss: half the lowest or twice the highest, if that one is the best so far.

    Where all have diverged it is the half. None where the best has worse ones on both sides.

    Example:
      >>> next_rate({0.5: 2.0}), next_rate({0.5: 2.0, 0.25: 3.0}), next_rate({0.5: 2.0, 0.25: 3.0, 1.0: 3.0})
      (0.25, 1.0, None)
    """
    best = min(tried, key=lambda rate: (tried[rate], rate))
    if best == min(tried):
        return best / 2
    return 2 * best if best == max(tried) else None


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
    if options.only:
        print(json.dumps(cost(RECIPES[options.only], options)))
        return
    about = heading("language_model.py", sys.argv[1:])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.cost:
        for name in names:
            words = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            said = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
            row = {"measured": "cost", **{key: vars(options)[key] for key in KEY if key in vars(options)}}
            row.update(recipe=name, steps=None, rate=None, **json.loads(said), **about)
            append(options.output, row)
            print(f"{name}: {row['ms']:.1f} ms a step, {row['peak_bytes'] / 2**20:,.0f} MB", flush=True)
        return
    data = datasets.load(options.data, options.data_dir).with_context(options.context)
    done = {key_of(row): row for row in rows_of(options.output) if "validation_loss" in row}

    def run(name: str, rate: float, steps: int, seed: int) -> float:
        settings = {**vars(options), "recipe": name, "rate": rate, "steps": steps, "seed": seed}
        row = {key: settings[key] for key in KEY}
        what = f"{name} rate {rate:g} steps {steps} seed {seed}"
        if key_of(row) in done:
            print(f"{what}: is there already", flush=True)
            return loss_of(done[key_of(row)])
        recipe = RECIPES[name]
        row.update(note=recipe.note, **train(recipe, rate, steps, seed, data, options), **about)
        append(options.output, row)
        done[key_of(row)] = row
        loss = loss_of(row)
        said = f"{loss:.4f} nats (perplexity {_perplexity(loss):.2f})" if math.isfinite(loss) else "diverged"
        print(
            f"{what}: {said}, {row['bytes_a_step']:,.0f} bytes and {1000 * row['seconds_a_step']:.1f} ms a step on "
            f"{platform.machine()}, {row['state_floats']:,.0f} floats kept",
            flush=True,
        )
        return loss

    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for steps in options.steps:
        for name in names:
            if not options.bracket:
                for rate in options.rate:
                    for seed in seeds:
                        run(name, rate, steps, seed)
                continue
            tried = {rate: run(name, rate, steps, seeds[0]) for rate in options.rate}
            following = next_rate(tried)
            while following is not None and len(tried) < MOST_RATES:
                tried[following] = run(name, following, steps, seeds[0])
                following = next_rate(tried)
            for seed in seeds[1:]:
                run(name, min(tried, key=lambda rate: tried[rate]), steps, seed)


def append(path: Path, row: Dict[str, Any]) -> None:
    """One more line of the file."""
    with files.naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(files.line(row))


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


if __name__ == "__main__":
    main()
