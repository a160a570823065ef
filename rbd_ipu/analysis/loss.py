"""The loss around a point: along directions (Fig. 2), and its second derivatives."""

import contextlib
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import checks
from rbd_ipu._compat import program, tensors, tf
from rbd_ipu.basis import RandomBasis
from rbd_ipu.objective import default_loss, per_batch
from rbd_ipu.step import flatten, unflatten


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

    Raises:
      TypeError: the loss is neither a Keras loss nor a function.
      ValueError: the loss has no reduction.

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
        self._loss_at = program(self._trace_loss)
        self._gradient_at = program(self._trace_gradient)
        self._product_at = program(self._trace_product)

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


class Landscape(NamedTuple):
    """The loss at m displacements along d directions.

    Attributes:
      displacements: a, float64 [m].
      losses: L(theta + a phi_i), float64 [d, m].
      slopes: <grad L, phi_i>, float64 [d].
    """

    displacements: np.ndarray
    losses: np.ndarray
    slopes: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the directions: [m]."""
        return self.losses.mean(axis=0)

    @property
    def deviation(self) -> np.ndarray:
        """Over the directions: [m], the sample deviation; 0 for a single one."""
        return self.losses.std(axis=0, ddof=min(1, len(self.losses) - 1))

    def downhill(self) -> "Landscape":
        """The same with every direction turned so that the loss falls along it.

        phi and -phi are equally likely for directions of zero mean, so that a plain average has no slope; descent
        does turn them, by the sign of their coordinate.

        Raises:
          ValueError: the displacements are not symmetric about 0.
        """
        if not np.allclose(self.displacements, -self.displacements[::-1], rtol=1e-6, atol=0):
            raise ValueError(f"displacements must be symmetric about 0, got {self.displacements.tolist()}")
        up = self.slopes > 0
        return self._replace(
            losses=np.where(up[:, None], self.losses[:, ::-1], self.losses), slopes=-np.abs(self.slopes)
        )


def landscape(surface: Surface, directions: Any, displacements: Sequence[float]) -> Landscape:
    """The loss along each direction.

    Args:
      surface: the loss to look at.
      directions: rows [d, D].
      displacements: a, [m], in units of the directions' length.

    Raises:
      ValueError: the directions are no rows of length D; the displacements are none or not finite.

    Example:
      >>> from rbd_ipu import models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> landscape(surface, surface.gradient()[None], [-0.1, 0.0, 0.1]).losses.shape
      (1, 3)
    """
    phi = rows(directions, surface.size)
    a = np.asarray(displacements, np.float64)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all():
        raise ValueError(f"displacements must be finite numbers, at least one, got {displacements!r}")
    losses = np.array([surface.along(each, a) for each in phi])
    slopes = phi.astype(np.float64) @ surface.gradient().astype(np.float64)
    return Landscape(displacements=a, losses=losses, slopes=slopes)


def random_landscape(
    model: Any,
    batch: Any,
    displacements: Sequence[float],
    distribution: str = "normal",
    count: int = 25,
    loss: Any = None,
    normalize: str = "unit",
    seed: int = 0,
    source: str = "auto",
) -> Landscape:
    """:func:`landscape` along directions of one distribution, in the full space.

    The paper (Section 4.5) finds the slope pronounced along normal directions and hardly any along uniform and
    Bernoulli ones. For directions of zero mean and one norm the slopes are alike: E |<g, phi>| = |g| times
    :func:`rbd_ipu.analysis.expected_abs_cosine`. (In the published script of the figure uniform entries come from
    [0, 1) and Bernoulli ones from {0, 1}, which are not of zero mean.)

    Args:
      model, batch, loss: as for :class:`rbd_ipu.analysis.Surface`.
      displacements: as for :func:`landscape`.
      distribution, normalize, source: of the directions, as for :class:`rbd_ipu.RandomBasis`.
      count: how many; the paper takes 25.
      seed: of the directions.

    Raises:
      TypeError, ValueError: an argument is not as above.

    Example:
      >>> from rbd_ipu import models
      >>> model, batch = models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4))
      >>> random_landscape(model, batch, [-0.1, 0.0, 0.1], count=5).downhill().losses.shape
      (5, 3)
    """
    surface = Surface(model, batch, loss)
    basis = RandomBasis(surface.size, checks.positive_int("count", count), distribution, normalize, source)
    return landscape(surface, basis.directions(seed), displacements)


class Curvature(NamedTuple):
    """One entry for each direction.

    Attributes:
      slopes: <grad L, phi>, float64 [d].
      curvatures: phi^T H phi, float64 [d]; for directions of norm 1 their mean is close to trace(H) / D.
      norms: |H phi|, float64 [d].
    """

    slopes: np.ndarray
    curvatures: np.ndarray
    norms: np.ndarray


def curvature(surface: Surface, directions: Any) -> Curvature:
    """Slopes and second derivatives along each direction, by one Hessian-vector product each.

    These are derivatives in the strict sense. The gradient of a network with ReLUs or max pools jumps where a unit
    switches, and no derivative sees that; :func:`curvature_by_differences` does. The two are different questions, and
    their answers can be an order of magnitude apart.

    Args:
      surface: the loss.
      directions: rows [d, D].

    Raises:
      ValueError: see :meth:`rbd_ipu.analysis.Surface.hessian_product`.

    Example:
      >>> from rbd_ipu import RandomBasis, models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> curvature(surface, RandomBasis(9610, 3).directions(0)).curvatures.shape
      (3,)
    """
    phi = rows(directions, surface.size).astype(np.float64)
    return _along(phi, _products(surface, phi), surface.gradient())


def curvature_by_differences(surface: Surface, directions: Any, step: float = 2.0**-6) -> Curvature:
    """The same from gradients at two points: H phi = (grad L(theta + a phi) - grad L(theta - a phi)) / 2a + O(a^2).

    A check on :func:`curvature` where the loss is smooth. Elsewhere it adds the jumps of the gradient within a of
    theta, which a step of that length does meet.

    Args:
      surface, directions: as for :func:`curvature`.
      step: a, in units of the directions' length; too small a step drowns in the rounding of float32.

    Raises:
      TypeError, ValueError: the step is not a finite number above 0.

    Example:
      >>> from rbd_ipu import models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> curvature_by_differences(surface, surface.gradient()[None]).curvatures.shape
      (1,)
    """
    a = checks.finite_float("step", step)
    if a == 0:
        raise ValueError(f"step must be above 0, got {step!r}")
    phi = rows(directions, surface.size).astype(np.float64)
    ends = [[surface.gradient(sign * a * each).astype(np.float64) for sign in (1, -1)] for each in phi]
    products = np.array([(ahead - behind) / (2 * a) for ahead, behind in ends])
    return _along(phi, products, surface.gradient())


def subspace_hessian(surface: Surface, directions: Any) -> np.ndarray:
    """P^T H P, the Hessian with respect to the coordinates of the directions: float64 [d, d], symmetric.

    Args:
      surface: the loss.
      directions: the columns of P as rows, [d, D].

    Raises:
      ValueError: the directions are no rows of length D.

    Example:
      >>> from rbd_ipu import models
      >>> surface = Surface(models.build("fc", (8, 8, 1)), (np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> subspace_hessian(surface, np.eye(2, surface.size)).shape
      (2, 2)
    """
    phi = rows(directions, surface.size).astype(np.float64)
    inside = phi @ _products(surface, phi).T
    return (inside + inside.T) / 2  # rounding apart it is symmetric


def _products(surface: Surface, phi: np.ndarray) -> np.ndarray:
    """H phi_i as rows: float64 [d, D]."""
    return np.array([surface.hessian_product(each) for each in phi], np.float64)


def _along(phi: np.ndarray, products: np.ndarray, gradient: np.ndarray) -> Curvature:
    return Curvature(
        slopes=phi @ gradient.astype(np.float64),
        curvatures=np.einsum("ij,ij->i", phi, products),
        norms=np.linalg.norm(products, axis=1),
    )
