"""The loss on one batch as a function of the flat parameter vector."""

import contextlib
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np

from rbd_ipu._stack import tensors, tf
from rbd_ipu.losses import default_loss, per_batch
from rbd_ipu.state import flatten, unflatten


class Surface:
    """L: R^D -> R, the mean loss of a model on a batch; theta is where the model stood when the surface was made.

    Its methods move the weights and put them back, the moving statistics of batch normalisation and the like too.

    Args:
      model: a built Keras model.
      batch: (x, y), arrays or tensors.
      loss: a Keras loss, or ``(y, outputs)``; None for softmax cross entropy of logits. Regularisers are added.
      training: whether layers behave as in training: batch normalisation by the batch, which is the loss that
        training descends.

    Attributes:
      theta: the weights then, float32 [D]; variables in the order of ``model.trainable_variables``.

    Example:
      >>> from rbd_ipu import models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.zeros([4, 8, 8, 1]), np.arange(4)))
      >>> surface.theta.shape, surface.gradient().shape
      ((9610,), (9610,))
      >>> bool(surface.along(surface.gradient(), [-0.1, 0.0, 0.1]).argmin() == 0)
      True
    """

    def __init__(self, model: Any, batch: Tuple[Any, Any], loss: Any = None, training: bool = True):
        self.model = model
        self.training = training
        self._loss = per_batch(default_loss() if loss is None else loss)
        self._x = tf.convert_to_tensor(np.asarray(batch[0], np.float32))
        self._y = tf.convert_to_tensor(batch[1])
        self._variables = tensors(model.trainable_variables)
        self.theta = flatten(self._variables).numpy()
        self._stops: Optional[List[str]] = None  # operations that hold second derivatives up; None: not looked yet
        self._loss_at = tf.function(self._trace_loss)
        self._gradient_at = tf.function(self._trace_gradient)
        self._product_at = tf.function(self._trace_product)

    @property
    def size(self) -> int:
        """D."""
        return len(self.theta)

    def along(self, direction: Any, displacements: Any) -> np.ndarray:
        """L(theta + a phi) for each displacement a: direction [D], displacements [m] -> float64 [m]."""
        phi = self._vector("direction", direction)
        points = (self.theta + np.float32(a) * phi for a in np.asarray(displacements, np.float64))
        with self._unmoved():
            return np.array([float(self._loss_at(point, self._x, self._y)) for point in points])

    def gradient(self, offset: Any = None) -> np.ndarray:
        """grad L(theta + offset): float32 [D]."""
        point = self.theta if offset is None else self.theta + self._vector("offset", offset)
        with self._unmoved():
            return self._gradient_at(point, self._x, self._y).numpy()

    def hessian_product(self, direction: Any) -> np.ndarray:
        """H phi, the Hessian at theta times a direction, by differentiating <grad L, phi>: [D] -> float32 [D].

        Raises:
          ValueError: the network stops gradients somewhere, so that second derivatives would be wrong without a sign
            of it. Batch normalisation of Keras 3 does so in training: the mean inside its variance is held constant,
            which changes nothing in a first derivative but some percent in a second one.
        """
        phi = self._vector("direction", direction)
        if self._stops is None:
            graph = self._loss_at.get_concrete_function(self.theta, self._x, self._y).graph.as_graph_def()
            nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
            self._stops = [node.name for node in nodes if node.op == "StopGradient"]
        if self._stops:
            raise ValueError(
                f"gradients are stopped at {', '.join(self._stops[:3])}, so that second derivatives would be wrong; "
                "use curvature_by_differences, or training=False where batch normalisation does it"
            )
        with self._unmoved():
            return self._product_at(self.theta, phi, self._x, self._y).numpy()

    def _vector(self, name: str, value: Any) -> np.ndarray:
        vector = np.asarray(value, np.float32)
        if vector.shape != (self.size,):
            raise ValueError(f"{name} must be a vector of D = {self.size} numbers, got shape {list(vector.shape)}")
        return vector

    @contextlib.contextmanager
    def _unmoved(self) -> Iterator[None]:
        everything = tensors(self.model.variables)
        before = [variable.numpy() for variable in everything]
        try:
            yield
        finally:
            for variable, value in zip(everything, before):
                variable.assign(value)

    # --- traced ------------------------------------------------------------------------------------------

    def _trace_loss(self, theta: Any, x: Any, y: Any) -> Any:
        for variable, value in zip(self._variables, unflatten(theta, self._variables)):
            variable.assign(value)
        loss = self._loss(y, self.model(x, training=self.training))
        return loss + tf.add_n(self.model.losses) if self.model.losses else loss

    def _trace_gradient(self, theta: Any, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self._trace_loss(theta, x, y)
        return flatten(self._derivatives(tape, loss))

    def _trace_product(self, theta: Any, phi: Any, x: Any, y: Any) -> Any:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = self._trace_loss(theta, x, y)
            slope = tf.reduce_sum(flatten(self._derivatives(inner, loss)) * phi)
        return flatten(self._derivatives(outer, slope))

    def _derivatives(self, tape: Any, value: Any) -> List[Any]:
        return tape.gradient(value, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def rows(directions: Any, size: int) -> np.ndarray:
    """Directions as the rows of a float32 array [d, D], checked."""
    array = np.asarray(directions, np.float32)
    if array.ndim != 2 or array.shape[1] != size or not len(array):
        raise ValueError(f"directions must be rows [d, {size}], at least one, got shape {list(array.shape)}")
    return array
