"""One step of a method on a small model, without a trainer, and the same losses and gradients in float64 NumPy."""

import numpy as np
from nets import blobs, crossentropy, dense

from rbd_ipu import methods
from rbd_ipu._compat import keras, tf
from rbd_ipu.objective import Objective
from rbd_ipu.step import State


def batch(seed=0, n=16):
    x, y = blobs(n, seed=seed)
    return tf.constant(x), tf.constant(y)


def further(seed=1):
    """A stream of mini-batches: those of seed, seed + 1, ..."""
    seeds = iter(range(seed, 10_000))
    return lambda: batch(next(seeds))


def make(name, model=None, loss=None, next_batch=None, **options):
    """(method, model, a function that makes the state of a new step)."""
    method = methods.create(name, **{"learning_rate": 0.5, **options})
    model = model or dense()
    method.build(model.trainable_variables)
    objective = Objective(model, loss or crossentropy())
    return method, model, lambda: State(model, objective, model.trainable_variables, next_batch)


def linear(width=6):
    """Outputs <w, x>, one each: with ``mean_output`` a loss linear in w, with ``mean_square`` a quadratic one."""
    init = keras.initializers.RandomNormal(seed=3)
    return keras.Sequential(
        [keras.layers.InputLayer((width,)), keras.layers.Dense(1, use_bias=False, kernel_initializer=init)]
    )


def mean_output(_, outputs):
    return tf.reduce_mean(outputs)


def mean_square(_, outputs):
    return tf.reduce_mean(tf.square(outputs)) / 2.0


def normalising():
    """A network with batch normalisation."""
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            layers.InputLayer((6,)),
            layers.Dense(8, kernel_initializer=glorot(1)),
            layers.BatchNormalization(),
            layers.Dense(10, kernel_initializer=glorot(2)),
        ]
    )


def dense_loss(weights, x, y, hidden=12, outputs=10):
    """The loss of ``nets.dense`` at a flat float64 vector, from the definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y)
    shapes = [(x.shape[1], hidden), (hidden,), (hidden, outputs), (outputs,)]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    W, b, V, c = (part.reshape(shape) for part, shape in zip(np.split(weights, ends[:-1]), shapes))
    logits = np.maximum(x @ W + b, 0.0) @ V + c
    logits = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    return np.mean(log_sum - logits[np.arange(len(y)), y])


def ranks(values):
    """Mean ranks from -1/2 to 1/2, by counting."""
    values = np.asarray(values, np.float64)
    places = [(np.sum(values < v) + np.sum(values <= v) - 1) / 2 for v in values]
    return np.array(places) / (len(values) - 1) - 0.5
