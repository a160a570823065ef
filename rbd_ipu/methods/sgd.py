"""Stochastic gradient descent, the baseline: the message is the gradient."""

from typing import Any, Sequence

from rbd_ipu._stack import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods.base import METHODS, Method


@METHODS.register("sgd")
class SGD(Method):
    """theta <- theta - lr * mean_k g_k, with m = d = D.

    Example:
      >>> SGD(learning_rate=2.0**-3).name
      'sgd'
    """

    name = "sgd"
    follows_gradient = True

    def build(self, variables: Sequence[Any]) -> None:
        self.size = self.dim = Compartments.of(variables, "global", 1).size

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        return state.gradient(batch)

    def update(self, messages: Any, step: Any) -> Any:
        return tf.reduce_mean(messages, axis=0)

    def step(self, state: Any, batch: Any, step: Any, worker: Any = 0) -> Any:
        return state.gradient(batch)
