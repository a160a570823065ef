"""Gradients as directions: how good could a subspace be that knows the loss? (Section B.7 of the paper)"""

from typing import Any, Sequence

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.checks import Registry
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions.source import repeat
from rbd_ipu.methods.base import METHODS, Method

WHICH = Registry("choice of gradients")
WHICH.register("earlier")("of the d mini-batches before, each at the weights of its time")
WHICH.register("present")("the same, the present mini-batch among them")
WHICH.register("other")("of d further mini-batches at the present weights")


@METHODS.register("gradients")
class Gradients(Method):
    """Descent in the span of d gradients, each divided by its norm::

        phi_i = g_i / |g_i|
        c_i   = <g, phi_i>
        theta <- theta - lr * sum_i c_i phi_i

    Gradients are alike, so that the step grows with d: with d equal ones it is d times that of SGD.

    Which gradients: "present" and "earlier" are ``offset`` false and true of the first public implementation (which
    divides by the squared norm, and waits d steps before the first update; here directions that are not known yet are
    zero). "other" takes d + 1 mini-batches a step. The basis is kept: d D floats of memory, in every checkpoint too,
    unless it is that of "other", which is made anew in each step.

    Args:
      learning_rate, momentum: as for every method.
      dim: d, at least 1.
      gradients: a row of ``WHICH``.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong.

    Example:
      >>> method = Gradients(learning_rate=0.125, dim=5)
      >>> method.build([(20, 10), (10,)])
      >>> method.slots["basis"].shape.as_list()
      [5, 210]
    """

    name = "gradients"
    parallel = False
    not_parallel_because = "its directions are gradients, which no other worker can draw again from a seed"

    def __init__(self, learning_rate: Any, dim: int, gradients: str = "earlier", momentum: float = 0.0):
        super().__init__(learning_rate, momentum)
        self.dim = checks.positive_int("dim", dim)
        WHICH.get(gradients)
        self.gradients = gradients
        self.batches = 1 + self.dim if gradients == "other" else 1

    def build(self, variables: Sequence[Any]) -> None:
        self.size = Compartments.of(variables, "global", 1).size
        self.slots = {}
        if self.gradients != "other":
            self.slots["basis"] = tf.Variable(tf.zeros([self.dim, self.size]), trainable=False, name="basis")

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        g = state.gradient(batch)
        if self.gradients == "other":

            def further(_: Any) -> Any:
                return (unit(state.gradient(state.next_batch())),)

            return through(repeat(self.dim, further, [[self.size]])[0], g)
        basis = tf.identity(self.slots["basis"])
        newer = replaced(basis, step % self.dim, g)
        self.slots["basis"].assign(newer)
        return through(newer if self.gradients == "present" else basis, g)


def unit(g: Any) -> Any:
    """g / |g|; zeros where g is zero."""
    return tf.math.divide_no_nan(g, tf.norm(g))


def through(basis: Any, g: Any) -> Any:
    """sum_i <g, phi_i> phi_i for the rows phi_i of a basis: [d, D], [D] -> [D]."""
    return tf.linalg.matvec(basis, tf.linalg.matvec(basis, g), transpose_a=True)


def replaced(basis: Any, row: Any, g: Any) -> Any:
    """The basis [d, D] with g / |g| as one of its rows; as it is where g is not finite, so that no NaN stays."""
    here = tf.equal(tf.range(basis.shape[0]), row) & tf.math.is_finite(tf.reduce_sum(g))
    return tf.where(here[:, tf.newaxis], unit(g)[tf.newaxis], basis)
