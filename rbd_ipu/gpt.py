"""A small language model in the shape of GPT-2: its layers, the network, and text that it writes.

For tokens x of shape [n, t], 0 .. V - 1, the network gives logits [n, t, V]: at each place those of the next token,
from the tokens up to there::

    h = E[x] + P[:t]                                 E [V, w] tokens, P [context, w] places
    h = h + W_o attention(W_a LN(h))                 in each of the layers
    h = h + W_2 gelu(W_1 LN(h))                      4 w in between
    logits = W_h LN(h)

No dense layer and no layer normalisation has a bias, and the output W_h [w, V] is a matrix of its own. With L layers
there are ``12 L w^2 + (2 L + 1) w + (2 V + context) w`` parameters.
"""

import math
from typing import Any, Callable, Dict, Optional

import numpy as np

from rbd_ipu import _imports, checks
from rbd_ipu._compat import keras, tf
from rbd_ipu.models import normal
from rbd_ipu.seeds import fold_in, fold_in_numpy

register = _imports.register(keras.utils.register_keras_serializable, keras.utils.get_custom_objects())

DEVIATION = 0.02  # of fresh weights, as in GPT-2
EPSILON = 1e-5  # of the layer normalisations


@register
class Positions(keras.layers.Layer):
    """Adds a learned vector to the tokens of each place: h [n, t, w] -> h + P[:t], with P [context, w].

    Args:
      context: how many places there are.
      initializer: of P, as Keras takes it.
      **kwargs: those of a Keras layer.

    Raises:
      ValueError: there are more tokens than places.

    Example:
      >>> Positions(context=4)(tf.zeros([2, 3, 8])).shape.as_list()
      [2, 3, 8]
    """

    def __init__(self, context: int, initializer: Any = "zeros", **kwargs: Any):
        super().__init__(**kwargs)
        self.context = checks.positive_int("context", context)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Makes P."""
        length, width = input_shape[-2:]
        if length is not None and length > self.context:
            raise ValueError(f"{length} tokens are more than the context of {self.context} of layer {self.name!r}")
        self.places = self.add_weight(
            name="places", shape=(self.context, int(width)), initializer=self.initializer, trainable=True
        )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """h + P[:t]."""
        places = tf.convert_to_tensor(self.places)
        if inputs.shape[-2] is None:
            return inputs + places[: tf.shape(inputs)[-2]]
        return inputs + places[: inputs.shape[-2]]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the input."""
        return input_shape

    def get_config(self) -> Dict[str, Any]:
        """What makes the layer again."""
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "context": self.context, "initializer": initializer}


@register
class CausalAttention(keras.layers.Layer):
    """Scaled dot products of each token with those before it: [n, t, 3 w] -> [n, t, w], without weights of its own.

    The input holds queries, keys and values side by side. Each of the heads takes w / heads columns of them::

        A = softmax(q k^T / sqrt(w / heads))      over the places up to the own one
        y = A v

    Args:
      heads: how many; they must divide w.
      **kwargs: those of a Keras layer.

    Raises:
      ValueError: the heads do not divide the width.

    Example:
      >>> CausalAttention(heads=2)(tf.zeros([1, 5, 12])).shape.as_list()
      [1, 5, 4]
    """

    def __init__(self, heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = checks.positive_int("heads", heads)

    def build(self, input_shape: Any) -> None:
        """Checks the width."""
        if input_shape[-1] % (3 * self.heads):
            raise ValueError(
                f"queries, keys and values [n, t, 3 width] of layer {self.name!r} need a width that its "
                f"{self.heads} heads divide, got {list(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """A v of all heads, side by side."""
        # Shapes that are known stay known: an IPU has no others.
        count, length, width = inputs.shape[0], inputs.shape[1], inputs.shape[2] // 3
        count = -1 if count is None else count
        length = tf.shape(inputs)[1] if length is None else length
        size = width // self.heads
        q, k, v = tf.unstack(tf.reshape(inputs, [count, length, 3, self.heads, size]), axis=2)
        q, k, v = (tf.transpose(part, [0, 2, 1, 3]) for part in (q, k, v))  # [n, heads, t, size]
        scores = tf.matmul(q, k, transpose_b=True) * tf.cast(size**-0.5, inputs.dtype)
        seen = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
        scores = tf.where(seen, scores, tf.cast(scores.dtype.min, scores.dtype))
        mixed = tf.matmul(tf.nn.softmax(scores), v)
        return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [count, length, width])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[n, t, w]."""
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self) -> Dict[str, Any]:
        """What makes the layer again."""
        return {**super().get_config(), "heads": self.heads}


def network(
    context: int, vocabulary: int, seed: Any, layers: int = 3, width: int = 96, heads: int = 4
) -> Callable[[Any], Any]:
    """The function from tokens [n, context] to logits [n, context, vocabulary] that makes the layers.

    Fresh weights are normal with deviation 0.02; those of the matrices W_o and W_2, whose outputs are added up, are
    smaller by sqrt(2 layers), as in GPT-2.

    Raises:
      TypeError, ValueError: a size is not a whole number from 1, or the heads do not divide the width.
    """
    sizes = {"layers": layers, "width": width, "heads": heads}
    layers, width, heads = (checks.positive_int(name, value) for name, value in sizes.items())
    if width % heads:
        fitting = ", ".join(str(count) for count in range(1, width + 1) if width % count == 0)
        raise ValueError(f"heads={heads} do not divide width={width}; accepted: {fitting}")
    make = keras.layers

    def dense(x: Any, name: str, units: int, activation: Optional[str] = None, share: float = 1.0) -> Any:
        start = normal(seed, name, DEVIATION * share)
        return make.Dense(units, activation=activation, use_bias=False, kernel_initializer=start, name=name)(x)

    def norm(x: Any, name: str) -> Any:
        return make.LayerNormalization(center=False, epsilon=EPSILON, name=name)(x)

    def tokens_to_logits(tokens: Any) -> Any:
        start = normal(seed, "tokens", DEVIATION)
        h = make.Embedding(vocabulary, width, embeddings_initializer=start, name="embedding")(tokens)
        h = Positions(context, normal(seed, "positions", DEVIATION), name="positions")(h)
        share = 1 / math.sqrt(2 * layers)
        for index in range(1, layers + 1):
            of = f"layer{index}"
            a = dense(norm(h, f"{of}_norm1"), f"{of}_qkv", 3 * width)
            a = CausalAttention(heads, name=f"{of}_attention")(a)
            h = make.Add(name=f"{of}_add1")([h, dense(a, f"{of}_mixed", width, share=share)])
            b = dense(norm(h, f"{of}_norm2"), f"{of}_hidden", 4 * width, activation="gelu")
            h = make.Add(name=f"{of}_add2")([h, dense(b, f"{of}_out", width, share=share)])
        return dense(norm(h, "norm"), "logits", vocabulary)

    return tokens_to_logits


def generate(model: Any, prompt: Any, length: int, seed: Any = 0, temperature: float = 1.0) -> np.ndarray:
    """Tokens that a language model writes after a prompt, one by one, each drawn from softmax(logits / temperature).

    Args:
      model: int32 [n, context] -> logits [n, context, V], such as ``models.build("gpt", ...)`` makes.
      prompt: whole numbers [m], m from 1: what comes before; only the last ``context`` of them are seen.
      length: how many tokens to write.
      seed: an int or int32 [2]; the i-th token is drawn by ``fold_in(seed, "sample", i)``.
      temperature: above 0; below 1 the likely tokens become likelier.

    Returns:
      int32 [length], without the prompt.

    Raises:
      TypeError, ValueError: the prompt is empty or names tokens that the model does not know; ``length`` or the
        temperature are out of range.

    Example:
      >>> from rbd_ipu import models
      >>> model = models.build("gpt", shape=(8,), classes=5, layers=1, width=4, heads=1)
      >>> generate(model, prompt=[0], length=3, seed=1).shape
      (3,)
    """
    length = checks.positive_int("length", length)
    if not checks.finite_float("temperature", temperature) > 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    context, vocabulary = int(model.input_shape[1]), int(model.output_shape[-1])
    given = np.asarray(prompt)
    if given.dtype.kind not in "iu" or given.ndim != 1 or given.size == 0:
        raise TypeError(f"prompt must be whole numbers [m] and not empty, got {given.dtype} {list(given.shape)}")
    if given.min() < 0 or given.max() >= vocabulary:
        raise ValueError(f"prompt must hold tokens 0 .. {vocabulary - 1}, got {given.min()} .. {given.max()}")

    @tf.function
    def draw(window: Any, last: Any, one: Any) -> Any:
        logits = model(window[tf.newaxis], training=False)[0, last] / temperature
        return tf.random.stateless_categorical(logits[tf.newaxis], 1, one, dtype=tf.int32)[0, 0]

    written = given.astype(np.int32).tolist()
    fold_in_numpy(seed)  # refuses an unfit one
    for index in range(length):
        seen = written[-context:]
        # What comes after the last token is not looked at: any token fills the window.
        window = np.zeros(context, np.int32)
        window[: len(seen)] = seen
        one = fold_in(seed, "sample", index)
        written.append(int(draw(tf.constant(window), tf.constant(len(seen) - 1), one)))
    return np.asarray(written[given.size :], np.int32)
