"""Does the input keep up? Milliseconds a batch, beside those of the plain SGD step it feeds.

    python benchmarks/input_pipeline.py [--data-dir DIR] [--sets mnist cifar10] [--cores 2]

For each data set, without and with its augmentation, batch 32:
  input     batches read and thrown away
  step      SGD on one batch over and over: the least that any method needs
  both      SGD on the stream: what training gets
The input is no bottleneck where `both` is close to `step`. Every figure is the median of the
repeats, with the least and the most in brackets; the loops run on the device, as in training.
"""

import argparse
import statistics
import time
from typing import Any, Callable, List, Tuple

from rbd_ipu.process import keep_to, usable

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--data-dir", help="the folder of the data sets of TFDS")
ARGUMENTS.add_argument("--sets", nargs="+", default=["digits"], help="data sets (default digits)")
ARGUMENTS.add_argument("--networks", nargs="+", default=["fc", "cnn"])
ARGUMENTS.add_argument("--batch-size", type=int, default=32)
ARGUMENTS.add_argument("--batches", type=int, default=400, help="batches a repeat")
ARGUMENTS.add_argument("--repeats", type=int, default=7)
ARGUMENTS.add_argument("--cores", type=int, help="use no more than this many CPU cores (Linux)")


def main() -> None:
    """Measure and print a table."""
    options = ARGUMENTS.parse_args()
    if options.cores:  # before TensorFlow counts them
        keep_to(usable()[: options.cores])
    from rbd_ipu._compat import tf
    from rbd_ipu.data import load

    print(f"TensorFlow {tf.__version__}, batch {options.batch_size}, ms a batch")
    print(f"{'data':10} {'augment':20} {'network':8} {'input':>20} {'step':>20} {'both':>20} images/s")
    for name in options.sets:
        data = load(name, options.data_dir)
        for augment in dict.fromkeys(["none", data.augment]):
            batches = data.batches(options.batch_size, augment=augment)
            alone = _measure(_reader(batches), options)
            for network in options.networks:
                step, both = (_measure(_trainer(network, data, batches, fresh), options) for fresh in (False, True))
                rate = options.batch_size / both[0] * 1e3
                figures = " ".join(f"{_text(figure):>20}" for figure in (alone, step, both))
                print(f"{name:10} {augment:20} {network:8} {figures} {rate:8,.0f}", flush=True)


def _measure(run: Callable[[Any], Any], options: Any) -> Tuple[float, float, float]:
    """Median, least and most milliseconds a batch of ``run(batches)``."""
    from rbd_ipu._compat import tf

    count = tf.constant(options.batches)
    run(tf.constant(20))
    times: List[float] = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        run(count)
        times.append((time.perf_counter() - start) / options.batches * 1e3)
    return statistics.median(times), min(times), max(times)


def _text(figure: Tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f} {:.3f}]".format(*figure)


def _reader(batches: Any) -> Callable[[Any], Any]:
    from rbd_ipu._compat import tf

    iterator = iter(batches.dataset())

    @tf.function
    def read(count: Any) -> Any:
        total = 0.0
        for _ in tf.range(count):
            images, _labels = next(iterator)
            total += tf.reshape(images, [-1])[0]
        return total

    return lambda count: read(count).numpy()


def _trainer(network: str, data: Any, batches: Any, fresh: bool) -> Callable[[Any], Any]:
    from rbd_ipu._compat import keras, tf
    from rbd_ipu.models import build

    model = build(network, data.shape, data.classes)
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    iterator = iter(batches.dataset())
    first = next(iterator)

    @tf.function
    def train(count: Any) -> Any:
        loss = 0.0
        for _ in tf.range(count):
            images, labels = next(iterator) if fresh else first
            with tf.GradientTape() as tape:
                loss = criterion(labels, model(images, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            for variable, gradient in zip(model.trainable_variables, gradients):
                variable.assign_sub(0.01 * gradient)
        return loss

    return lambda count: train(count).numpy()


if __name__ == "__main__":
    main()
