"""Small models and data that several tests share."""

import numpy as np

from rbd_ipu._compat import keras, tf


def dense(seed=1, outputs=10, inputs=(6,)):
    """A two-layer network with seeded weights: D = 6 * 12 + 12 + 12 * 10 + 10 = 214."""
    layers, glorot = keras.layers, keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            layers.InputLayer(inputs),
            layers.Flatten(),
            layers.Dense(12, "relu", kernel_initializer=glorot(seed)),
            layers.Dense(outputs, kernel_initializer=glorot(seed + 1)),
        ]
    )


def blobs(n=320, classes=10, width=6, seed=0):
    """Gaussian blobs, easy to tell apart: x float32 [n, width], y int32 [n]."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((classes, width))
    y = rng.integers(0, classes, n).astype(np.int32)
    return (centres[y] + 0.3 * rng.standard_normal((n, width))).astype(np.float32), y


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def flat(model):
    """All trainable weights as one float64 vector."""
    return np.concatenate([np.ravel(w) for w in _values(model)]).astype(np.float64)


def set_flat(model, vector):
    start = 0
    for variable in model.trainable_variables:
        size = int(np.prod(variable.shape))
        variable.assign(np.reshape(vector[start : start + size], variable.shape).astype(np.float32))
        start += size


def _values(model):
    return [np.asarray(v.numpy()) for v in model.trainable_variables]


def gradient(model, x, y):
    """float64 [D], by a plain eager tape."""
    variables = [getattr(v, "value", v) if not isinstance(v, tf.Variable) else v for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = crossentropy()(y, model(x, training=True))
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    return np.concatenate([np.ravel(g) for g in gradients]).astype(np.float64)
