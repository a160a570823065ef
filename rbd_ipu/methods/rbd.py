"""Random bases descent (Algorithm 1) and fixed projection descent (Section 2.1): the paper's methods.

Both draw their directions from a seed; FPD keeps the basis of step 0 (Li et al. 2018).
"""

from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods import rbd_options
from rbd_ipu.methods.base import METHODS, Method
from rbd_ipu.methods.rbd_options import TRANSFORMS, Layers, top
from rbd_ipu.subspace import Subspace, check_names, redrawn, subspace


class Projected(Method):
    """Coordinates are told, directions are drawn again: ``update`` is (1/K) sum_k P_t^k c^k (Algorithm 1, right).

    The paper sums over workers; the mean keeps the length of a step independent of K. ``update`` is linear in the
    messages: averaging the steps of single workers gives the same.

    Args:
      learning_rate, momentum: as for every method.
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`.
      redraw_every: a basis serves this many steps.
      seed: of the bases, an int of at most 64 bits.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.
    """

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int],
        distribution: str,
        compartments: str,
        normalize: str,
        redraw_every: int,
        momentum: float,
        seed: int,
        source: str,
        orthogonalize: bool = False,
    ):
        super().__init__(learning_rate, momentum)
        self.wanted_dim = None if dim is None else checks.positive_int("dim", dim)
        self.distribution = distribution
        self.compartments = compartments
        self.normalize = normalize
        self.redraw_every = checks.positive_int("redraw_every", redraw_every)
        self.seed = checks.seed(seed)
        self.source = source
        self.orthogonalize = checks.flag("orthogonalize", orthogonalize)
        # Wrong names are refused now, whatever the model; what depends on it waits for build.
        check_names(distribution, compartments, normalize, source)

    def build(self, variables: Sequence[Any]) -> None:
        cut = Compartments.of(variables, self.compartments, self.wanted_dim)
        self.subspace = self.draw_from(cut)
        self.size, self.dim = cut.size, cut.dim

    def draw_from(self, cut: Compartments) -> Subspace:
        """The bases of these compartments."""
        return subspace(cut, self.distribution, self.normalize, self.source, self.orthogonalize)

    def basis_index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return step // self.redraw_every

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
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`.
      redraw_every: a basis serves this many steps.
      seed: of the bases, an int of at most 64 bits.
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

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int] = None,
        distribution: str = "normal",
        compartments: str = "global",
        normalize: str = "unit",
        redraw_every: int = 1,
        momentum: float = 0.0,
        seed: int = 0,
        source: str = "auto",
        orthogonalize: bool = False,
        sgd_layers: Optional[str] = None,
        transform: str = "none",
        accumulate: int = 1,
        top_k: Optional[int] = None,
        sgd_below: Optional[float] = None,
        redraw_lowest: Optional[float] = None,
        sgd_learning_rate: Optional[float] = None,
    ):
        super().__init__(
            learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source,
            orthogonalize,
        )  # fmt: skip
        self.shape = TRANSFORMS.get(transform)
        self.options = rbd_options.checked(
            self, sgd_layers, transform, accumulate, top_k, sgd_below, redraw_lowest, sgd_learning_rate
        )
        self.not_parallel_because = self.options.not_parallel_because()
        self.parallel = not self.not_parallel_because

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

    def draw_from(self, cut: Any) -> Any:
        if self.options.redraw_lowest is None:
            return super().draw_from(cut)
        return redrawn(cut, self.distribution, self.normalize)

    def basis_index(self, step: Any) -> Any:
        """What stands for the step in the seed: how many bases were drawn before, or how often each direction."""
        return tf.identity(self.slots["draws"]) if "draws" in self.slots else super().basis_index(step)

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        message = self._message(state, batch, step, worker)
        return message if self.options.accumulate > 1 else self._top(message)

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

    def step(self, state: Any, batch: Any, step: Any, worker: Any = 0) -> Any:
        use = self.options
        if use.filters:
            u = self.subspace.filter(state.gradient(batch), self.seed, self.basis_index(step), worker)
        else:
            message = self._message(state, batch, step, worker)
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
        return rbd_options.unless_alike(u, state.gradient(batch), use.sgd_below, use.ratio)

    def _message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        """Coordinates, and the gradient of the layers that take SGD behind them: [m]."""
        g = state.gradient(batch)
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
        due = tf.equal((step + 1) % self.redraw_every, 0)
        self.slots["draws"].assign(tf.where(due, rbd_options.lowest_again(draws, c, share), draws))


@METHODS.register("fpd")
class FPD(RBD):
    """theta = theta_0 + P c with P drawn once; plain descent on c is random bases descent with a fixed basis.

    Momentum in the full space, as the training loop applies it, is momentum in the coordinates: both are linear.

    Args:
      learning_rate, dim, distribution, compartments, normalize, momentum, seed, source, orthogonalize: as for
        :class:`RBD`.

    Example:
      >>> int(FPD(learning_rate=0.5, dim=16).basis_index(1000))
      0
    """

    name = "fpd"

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int] = None,
        distribution: str = "normal",
        compartments: str = "global",
        normalize: str = "unit",
        momentum: float = 0.0,
        seed: int = 0,
        source: str = "auto",
        orthogonalize: bool = False,
    ):
        super().__init__(
            learning_rate,
            dim,
            distribution=distribution,
            compartments=compartments,
            normalize=normalize,
            momentum=momentum,
            seed=seed,
            source=source,
            orthogonalize=orthogonalize,
        )

    def basis_index(self, step: Any) -> Any:
        return tf.zeros_like(step)
