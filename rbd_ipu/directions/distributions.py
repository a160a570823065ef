"""Distributions: how the bits of the counter stream become the entries of a direction.

All rows give the same numbers in eager mode, in a graph and under XLA, on every stack: bit for bit, but for the
normal, whose last bits depend on whether a compiler fuses multiplication and addition.
"""

from typing import Any, Callable, NamedTuple

from rbd_ipu._stack import tf
from rbd_ipu.directions.hashing import word_at
from rbd_ipu.directions.normal import SIGN, normal
from rbd_ipu.registry import Registry

DISTRIBUTIONS = Registry("distribution")
Words = Callable[[Any, Any], Any]

# Sample j of a two-valued distribution is bit (j // PLANE) % 32 of word (j // (32 PLANE)) * PLANE + j % PLANE:
# planes of this many samples share a shift, so that whole vectors of words are shifted alike.
PLANE = 1024


class Distribution(NamedTuple):
    """One row.

    Attributes:
      name: as users write it.
      second_moment: E[x^2] of an entry x; the expected squared norm of a direction in R^n is n times this.
      draw: ((offset, step) int32 [..., 2], n, start=0, words=word_at) -> entries start ... start + n - 1 of each
        direction, float32 [..., n], of the words that a function like :func:`word_at` gives.
      about: one line for the documentation.
    """

    name: str
    second_moment: float
    draw: Callable[..., Any]
    about: str


def _add(name: str, second_moment: float, about: str) -> Callable[[Callable], Callable]:
    def register(draw: Callable) -> Callable:
        DISTRIBUTIONS.register(name)(Distribution(name, second_moment, draw, about))
        return draw

    return register


@_add("normal", 1.0, "standard normal, by its inverse distribution function: the paper's choice")
def _normal(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    return normal(words(pairs, start + tf.range(size)))


@_add("uniform", 1.0 / 3.0, "uniform on the 2^24 midpoints of (-1, 1), none of which is 0")
def _uniform(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    bits = words(pairs, start + tf.range(size))
    return (tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) + 0.5) * 2.0**-23


@_add("rademacher", 1.0, "+1 or -1 with equal probability; 32 entries a word")
def _rademacher(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    # Elementwise, so that XLA fuses it; hashing each word 32 times is quicker there than storing it once.
    j = start + tf.range(size)
    tile, plane = tf.bitwise.right_shift(j, 15), tf.bitwise.bitwise_and(tf.bitwise.right_shift(j, 10), 31)
    word = tile * PLANE + tf.bitwise.bitwise_and(j, PLANE - 1)
    shifted = tf.bitwise.left_shift(words(pairs, word), 31 - plane)
    # The bit becomes the sign of the float 1.0.
    bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(shifted, SIGN), 0x3F800000)
    return tf.bitcast(bits, tf.float32)


@_add(
    "bernoulli-0.5",
    1.25,
    "+0.5 or -1.5 with equal probability, as first published: its mean is -0.5 and not 0, so two of its "
    "directions have cosine 0.2; for Table 2 only",
)
def _bernoulli(pairs: Any, size: int, start: Any = 0, words: Words = word_at) -> Any:
    return _rademacher(pairs, size, start, words) - 0.5
