"""Random bases descent (Algorithm 1) and fixed projection descent (Section 2.1): the paper's methods.

Both draw their directions from a seed; FPD keeps the basis of step 0 (Li et al. 2018).
"""

from typing import Any, Optional, Sequence

from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods import rbd_options
from rbd_ipu.methods.base import METHODS, Method
from rbd_ipu.methods.rbd_options import TRANSFORMS, Layers, top
from rbd_ipu.subspace import BasisSpec, Subspace, rbd_update, redrawn, subspace_of


class Projected(Method):
    """Coordinates are sent, directions are drawn again: ``update`` is (1/K) sum_k P_t^k c^k (Algorithm 1, right).

    The paper sums over workers; the mean keeps the length of a step independent of K. ``update`` is linear in the
    messages: averaging the steps of single workers gives the same.

    Args:
      learning_rate, momentum: as for every method.
      basis: which random bases.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.
    """

    of_basis = BasisSpec.names()

    def __init__(self, learning_rate: Any, momentum: float, basis: BasisSpec):
        super().__init__(learning_rate, momentum)
        self.basis = basis

    @property
    def seed(self) -> int:
        """Of the bases."""
        return self.basis.seed

    def build(self, variables: Sequence[Any]) -> None:
        self.subspace = self.draw_from(variables)
        self.size, self.dim = self.subspace.size, self.subspace.dim

    def draw_from(self, variables: Sequence[Any]) -> Subspace:
        """The bases of these variables."""
        return subspace_of(self.basis, variables)

    def basis_index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return self.basis.index(step)

    def expand(self, message: Any, step: Any, worker: Any) -> Any:
        """P_t^k c: the update that follows from one worker's message, [m] -> [D]."""
        return self.subspace.expand(message, self.seed, self.basis_index(step), worker)

    def join(self, messages: Any, step: Any) -> Any:
        """sum_k P_t^k c^k: :meth:`expand` for the messages of all workers, [K, m] -> [D]."""
        return self.subspace.join(messages, self.seed, self.basis_index(step))

    def update(self, messages: Any, step: Any) -> Any:
        return self.join(messages, step) / messages.shape[0]

    def step(self, state: Any, batch: Any, step: Any, worker: Any = 0) -> Any:
        return self.expand(self.message(state, batch, step, worker), step, worker)


@METHODS.register("rbd")
class RBD(Projected):
    """Descent in a random subspace that is drawn anew at every step.

    With P_t^k the directions that worker k draws at step t, and g^k its gradient (Algorithm 1; one worker on
    the left, K workers on the right)::

        c^k   = (P_t^k)^T g^k                            message: d numbers
        theta <- theta - lr * (1/K) sum_k P_t^k c^k      update: all bases are drawn again

    The paper sums over workers; the mean keeps the length of a step independent of K.

    The options from ``transform`` on are off by default. They are those of the first public implementation, each a
    change to the step above, made in the order of the list.

    Args:
      learning_rate, momentum: as for every method.
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      **basis: the other attributes of :class:`rbd_ipu.subspace.BasisSpec`.
      sgd_layers: names or patterns of layers or variables, separated by commas, that take plain SGD; the others are
        cut into compartments. A message is then d + n numbers long, with n parameters in these layers.
      transform: "rank" or "range" instead of the coordinates themselves, see ``methods/transforms.py``.
      accumulate: coordinates of so many steps are summed up, at unchanged weights, before they are projected back;
        ``redraw_every`` must be a multiple of it.
      top_k: only so many coordinates are used, the largest in magnitude.
      sgd_below: where the correlation (Pearson's) of the update with the gradient is lower, the step is one of SGD.
      redraw_lowest: at each redraw only this share of the directions is drawn anew, in (0, 1): those whose
        coordinates are lowest in magnitude.
      sgd_learning_rate: of ``sgd_layers`` or ``sgd_below``; it changes in proportion to the learning rate.
      inner: the optimizer that is given the update, by its name in Keras in small letters.
      state: "coordinates": ``inner`` is given the d coordinates instead, and its step in them is the message's: its
        state has d numbers where with "full" it has D. Several workers then share one basis (``parallel="shared"``).
      on_redraw: what becomes of that state when directions are drawn anew, "keep" or "reset".

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong, or contradicts another; here or, where it depends on the
        model, in ``build``.

    Example:
      >>> method = RBD(learning_rate=2.0, dim=16)
      >>> method.build([(20, 10), (10,)])
      >>> method.size, method.dim
      (210, 16)
    """

    name = "rbd"
    added = {"inner": "sgd", "state": "full", "on_redraw": "keep"}

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int] = None,
        momentum: float = 0.0,
        sgd_layers: Optional[str] = None,
        transform: str = "none",
        accumulate: int = 1,
        top_k: Optional[int] = None,
        sgd_below: Optional[float] = None,
        redraw_lowest: Optional[float] = None,
        sgd_learning_rate: Optional[float] = None,
        inner: str = "sgd",
        state: str = "full",
        on_redraw: str = "keep",
        **basis: Any,
    ):
        super().__init__(learning_rate, momentum, BasisSpec(dim, **basis))
        self.shape = TRANSFORMS.get(transform)
        self.inner, self.state, self.on_redraw = inner, state, on_redraw
        self.one_basis = state == "coordinates"
        self.options = rbd_options.checked(
            self, sgd_layers, transform, accumulate, top_k, sgd_below, redraw_lowest, sgd_learning_rate
        )
        self.chosen = {**self.options._asdict(), "sgd_learning_rate": sgd_learning_rate}
        self.not_parallel_because = self.options.not_parallel_because()
        self.parallel = not self.not_parallel_because

    @property
    def applied_by(self) -> str:
        return "sgd" if self.one_basis else self.inner

    def build(self, variables: Sequence[Any]) -> None:
        use = self.options
        self.layers = Layers(variables, use.sgd_layers) if use.sgd_layers else None
        super().build(variables if self.layers is None else self.layers.rest)
        use.check_dim(self.dim)
        self.slots = {}
        if use.redraw_lowest is not None:
            self.slots["draws"] = tf.Variable(tf.zeros([self.dim], tf.int32), trainable=False, name="draws")
        if self.layers is not None:
            self.size, self.dim = self.size + self.layers.size, self.dim + self.layers.size
        if use.accumulate > 1:
            self.slots["sum"] = tf.Variable(tf.zeros([self.dim]), trainable=False, name="sum")
        if self.one_basis:
            reset = self.basis.redraw_every if self.on_redraw == "reset" else None
            self.in_coordinates = rbd_options.InCoordinates(self.inner, self.dim, reset)
            self.slots.update(self.in_coordinates.slots)

    def draw_from(self, variables: Sequence[Any]) -> Subspace:
        if self.options.redraw_lowest is None:
            return super().draw_from(variables)
        cut = Compartments.of(variables, self.basis.compartments, self.basis.dim)
        return redrawn(cut, self.basis.distribution, self.basis.normalize)

    def basis_index(self, step: Any) -> Any:
        """What stands for the step in the seed: how many bases were drawn before, or how often each direction."""
        return tf.identity(self.slots["draws"]) if "draws" in self.slots else super().basis_index(step)

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        c = self.project(state.gradient(batch), step, worker)
        return c if self.options.accumulate > 1 else self._top(c)

    def expand(self, message: Any, step: Any, worker: Any) -> Any:
        if self.layers is None:
            return super().expand(message, step, worker)
        c, chosen = self._parts(message)
        return self.layers.join(super().expand(c, step, worker), chosen)

    def join(self, messages: Any, step: Any) -> Any:
        if self.layers is None:
            return super().join(messages, step)
        c, chosen = self._parts(messages)
        return self.layers.join(super().join(c, step), tf.reduce_sum(chosen, axis=0))

    def update(self, messages: Any, step: Any) -> Any:
        if not self.one_basis:
            return super().update(messages, step)
        return self.expand(self.in_coordinates.step(messages[0], step), step, 0)

    def step(self, state: Any, batch: Any, step: Any, worker: Any = 0) -> Any:
        use = self.options
        gradient = state.gradient(batch)
        if self.one_basis:
            return self.update(self.message(state, batch, step, worker)[tf.newaxis], step)
        if use.filters:  # both halves in one pass
            u = self.subspace.filter(gradient, self.seed, self.basis_index(step), worker)
        elif use.accumulate == 1 and use.redraw_lowest is None:
            u = rbd_update(
                gradient,
                project=lambda g: self.project(g, step, worker),
                exchange=self._top,
                expand=lambda c: self.expand(c, step, worker),
            )
        else:
            message = self.project(gradient, step, worker)
            if use.accumulate > 1:
                due = tf.equal((step + 1) % use.accumulate, 0)
                message, kept = rbd_options.gathered(tf.identity(self.slots["sum"]), message, due)
                self.slots["sum"].assign(kept)
                u = tf.cond(due, lambda: self.expand(self._top(message), step, worker), self._nothing)
            else:
                u = self.expand(self._top(message), step, worker)
            if use.redraw_lowest is not None:
                self._redraw(use.redraw_lowest, self._parts(message)[0], step)
        if use.sgd_below is None:
            return u
        return rbd_options.unless_alike(u, gradient, use.sgd_below, use.ratio)

    def project(self, g: Any, step: Any, worker: Any) -> Any:
        """P^T g, and the gradient of the layers that take SGD behind it: [D] -> [m]."""
        if self.layers is None:
            return self.shape(self.subspace.project(g, self.seed, self.basis_index(step), worker))
        rest, chosen = self.layers.split(g)
        c = self.shape(self.subspace.project(rest, self.seed, self.basis_index(step), worker))
        return tf.concat([c, self.options.ratio * chosen], axis=0)

    def _parts(self, message: Any) -> Any:
        """The two parts of a message, or of several: [..., m] -> [..., d], [..., m - d]."""
        return message[..., : self.subspace.dim], message[..., self.subspace.dim :]

    def _top(self, message: Any) -> Any:
        """The message with its largest coordinates only."""
        if self.options.top_k is None:
            return message
        c, chosen = self._parts(message)
        return tf.concat([top(c, self.options.top_k), chosen], axis=0)

    def _nothing(self) -> Any:
        return tf.zeros([self.size])

    def _redraw(self, share: float, c: Any, step: Any) -> None:
        """Counts one more draw of the directions that c found of least use, where the time has come."""
        draws = tf.identity(self.slots["draws"])
        due = tf.equal((step + 1) % self.basis.redraw_every, 0)
        self.slots["draws"].assign(tf.where(due, rbd_options.lowest_again(draws, c, share), draws))


@METHODS.register("fpd")
class FPD(RBD):
    """theta = theta_0 + P c with P drawn once; plain descent on c is random bases descent with a fixed basis.

    Momentum in the full space, as the training loop applies it, is momentum in the coordinates: both are linear.

    Args:
      learning_rate, dim, momentum, **basis: as for :class:`RBD`; there is no ``redraw_every``.

    Example:
      >>> int(FPD(learning_rate=0.5, dim=16).basis_index(1000))
      0
    """

    name = "fpd"
    of_basis = tuple(name for name in BasisSpec.names() if name != "redraw_every")

    def __init__(self, learning_rate: Any, dim: Optional[int] = None, momentum: float = 0.0, **basis: Any):
        if "redraw_every" in basis:
            raise TypeError("method 'fpd' does not take redraw_every: its basis is kept")
        super().__init__(learning_rate, dim, momentum, **basis)

    def basis_index(self, step: Any) -> Any:
        return tf.zeros_like(step)
