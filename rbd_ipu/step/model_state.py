"""State: a model at its present weights, and what a method may ask of it."""

import contextlib
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

from rbd_ipu._compat import tensors, tf


class Evaluation(NamedTuple):
    """A mini-batch seen by the model: mean loss [], outputs [B, ...], gradient of the loss [D]."""

    loss: Any
    outputs: Any
    gradient: Any


class State:
    """The model at its present weights; a new one is made for each step.

    Whatever a method asks for, a mini-batch leaves its mark on the model once: of several passes over it (a gradient
    after :meth:`look`, weights beside the present ones) the first counts, and the moving statistics of batch
    normalisation are kept out of the others.

    Args:
      model: a Keras model.
      objective: its :class:`rbd_ipu.objective.Objective`, ``(batch, training) -> (loss [], outputs)``.
      variables: the trainable variables, in the order in which they make the flat vector.
      next_batch: gives a further mini-batch, for methods whose step takes several.
      beside: more variables that a pass may change, those of metrics.
    """

    def __init__(
        self,
        model: Any,
        objective: Callable[..., Any],
        variables: Sequence[Any],
        next_batch: Optional[Callable[[], Any]] = None,
        beside: Sequence[Any] = (),
    ):
        self.model = model
        self.objective = objective
        self.variables = list(variables)
        self.next_batch = next_batch
        self.beside = list(beside)
        self._seen: List[Any] = []

    def evaluate(self, batch: Any) -> Evaluation:
        """Loss, outputs and gradient; asked twice about a batch, it computes once."""
        known = self._find(batch)
        if known is not None and known.gradient is not None:
            return known
        # Seen without a gradient before: this pass is not the one that counts.
        with self.untouched([] if known is None else [*self.model.non_trainable_variables, *self.beside]):
            with tf.GradientTape() as tape:
                loss, outputs = self._forward(batch)
            gradients = tape.gradient(
                loss, tensors(self.variables), unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        return self._keep(batch, Evaluation(loss, outputs, flatten(gradients)))

    def look(self, batch: Any) -> Evaluation:
        """Loss and outputs by a forward pass alone; the gradient is None unless it is known already."""
        known = self._find(batch)
        if known is not None:
            return known
        loss, outputs = self._forward(batch)
        return self._keep(batch, Evaluation(loss, outputs, None))

    def gradient(self, batch: Any) -> Any:
        """g = grad L(theta) on a mini-batch: float32 [D]."""
        return self.evaluate(batch).gradient

    def weights(self) -> Any:
        """theta: float32 [D]."""
        return flatten(self.variables)

    def loss_at(self, weights: Any, batch: Any) -> Any:
        """L(weights) on a mini-batch: float32 [D] -> []. Within :meth:`untouched` only: it leaves the weights there.

        In training mode, as the gradient is: batch normalisation takes the statistics of the mini-batch.
        """
        for variable, value in zip(tensors(self.variables), unflatten(weights, self.variables)):
            variable.assign(value)
        return tf.cast(self._forward(batch)[0], tf.float32)

    @contextlib.contextmanager
    def untouched(self, variables: Optional[Sequence[Any]] = None) -> Iterator[None]:
        """Puts variables (None: all of the model) back afterwards, bit for bit: values are saved, not computed."""
        kept = tensors([*self.model.variables, *self.beside] if variables is None else variables)
        values = [tf.identity(variable) for variable in kept]
        try:
            yield
        finally:
            for variable, value in zip(kept, values):
                variable.assign(value)

    def _forward(self, batch: Any) -> Any:
        return self.objective(batch, training=True)

    def _find(self, batch: Any) -> Optional[Evaluation]:
        """What is known of a mini-batch here: results from inside a branch or a loop cannot be used outside."""
        found = [e for known, e in self._seen if known is batch and _visible(e.loss)]
        return found[-1] if found else None

    def _keep(self, batch: Any, evaluation: Evaluation) -> Evaluation:
        self._seen.append((batch, evaluation))
        return evaluation


def _visible(tensor: Any) -> bool:
    """Whether a tensor belongs to the graph that is being made, or to one around it."""
    if tf.executing_eagerly():
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def flatten(arrays: Sequence[Any]) -> Any:
    """One float32 vector [D] of tensors of any rank; sparse gradients are made dense."""
    return tf.concat([tf.reshape(tf.cast(tf.convert_to_tensor(a), tf.float32), [-1]) for a in arrays], axis=0)


def unflatten(vector: Any, like: Sequence[Any]) -> List[Any]:
    """The vector [D] in pieces of the shapes and types of ``like``."""
    sizes = [int(variable.shape.num_elements()) for variable in tensors(like)]
    return [
        tf.cast(tf.reshape(piece, variable.shape), variable.dtype)
        for piece, variable in zip(tf.split(vector, sizes), tensors(like))
    ]
