"""State: a model at its present weights, and what a method may ask of it."""

from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from rbd_ipu._stack import tensors, tf


class Evaluation(NamedTuple):
    """A mini-batch seen by the model: mean loss [], outputs [B, ...], gradient of the loss [D]."""

    loss: Any
    outputs: Any
    gradient: Any


class State:
    """The model at its present weights; a new one is made for each step.

    Args:
      model: a Keras model.
      loss: ``loss(y, outputs) -> []``, the mean over the mini-batch.
      variables: the trainable variables, in the order in which they make the flat vector.
      next_batch: gives a further mini-batch, for methods whose step takes several.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any, Any], Any],
        variables: Sequence[Any],
        next_batch: Optional[Callable[[], Any]] = None,
    ):
        self.model = model
        self.loss = loss
        self.variables = list(variables)
        self.next_batch = next_batch
        self._seen: List[Any] = []

    def evaluate(self, batch: Any) -> Evaluation:
        """Loss, outputs and gradient; asked twice about a batch, it computes once."""
        for known, evaluation in self._seen:
            if known is batch:
                return evaluation
        x, y = batch
        with tf.GradientTape() as tape:
            outputs = self.model(x, training=True)
            loss = self.loss(y, outputs)
            if self.model.losses:  # regularisers
                loss += tf.add_n(self.model.losses)
        gradients = tape.gradient(loss, tensors(self.variables), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        evaluation = Evaluation(loss, outputs, flatten(gradients))
        self._seen.append((batch, evaluation))
        return evaluation

    def gradient(self, batch: Any) -> Any:
        """g = grad L(theta) on a mini-batch: float32 [D]."""
        return self.evaluate(batch).gradient


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
