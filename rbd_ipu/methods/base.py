"""What every method is: two pure functions and their hyper-parameters; SGD, the baseline; how alike updates are."""

import inspect
from typing import Any, Dict, Sequence, Tuple

from rbd_ipu import checks
from rbd_ipu._compat import keras, tf
from rbd_ipu.checks import Registry
from rbd_ipu.compartments import Compartments
from rbd_ipu.parallel.workers import Groups

METHODS = Registry("method")

#: Optimizers of this Keras that can be given what a method makes, by their names in small letters.
INNER = {
    name.lower(): kind
    for name, kind in ((n, getattr(keras.optimizers, n, None)) for n in ("SGD", "Adam", "AdamW", "Lion", "RMSprop"))
    if kind is not None
}


def inner_optimizer(name: str) -> Any:
    """The class of an optimizer of :data:`INNER`.

    Raises:
      ValueError: this Keras has no such optimizer.
    """
    if name not in INNER:
        accepted = ", ".join(map(repr, INNER))
        raise ValueError(f"unknown inner {name!r}; accepted with Keras {keras.__version__}: {accepted}")
    return INNER[name]


class Method:
    """A training method. Subclasses add a row to ``METHODS``.

    Args:
      learning_rate: a finite float >= 0, or a Keras schedule.
      momentum: of the update in the full space, in [0, 1], as Keras' SGD applies it.

    Attributes:
      size: D, the number of trainable parameters; known after :meth:`build`.
      dim: d, the number of coordinates, which is also the length m of a message.
      follows_gradient: whether the update *is* the gradient, so that comparing the two is idle.
      forward_only: whether it never asks for a gradient.
      batches: how many mini-batches a step takes; those after the first come from ``state.next_batch()``.
      slots: small variables that a method keeps from step to step, by name; ``build`` makes them, checkpoints keep
        them.
      packed: whether its messages are int32 words already, of a format of its own; ``message_bytes`` is then how many
        bytes of them say something.
      inner: the optimizer that is given what it makes, by its name in Keras in small letters; ``applied_by`` is the
        one that applies its updates.
      one_basis: whether several workers can share it with one basis only, and one exchange of all of their messages.
      of_basis: the attributes of :class:`rbd_ipu.subspace.BasisSpec` that it takes as further options.
      groups: of workers, whose leaders pass on one message each.
      added: options that came after the first checkpoints, and what stands for none; files leave that out.
      chosen: the options that are no attributes of their own names, as they were given: part of its description.
      parallel: whether several workers can share it; where not, ``not_parallel_because`` says why.

    Raises:
      TypeError, ValueError: a hyper-parameter is not as above.
    """

    name = ""
    follows_gradient = False
    forward_only = False
    batches = 1
    parallel = True
    not_parallel_because = ""
    of_basis: Tuple[str, ...] = ()
    packed = False
    message_bytes = 0
    inner = "sgd"
    one_basis = False
    groups = Groups()
    added: Dict[str, Any] = {}

    def __init__(self, learning_rate: Any, momentum: float = 0.0):
        self.learning_rate = checks.learning_rate(learning_rate)
        self.momentum = checks.finite_float("momentum", momentum, 0.0, 1.0)
        self.chosen: Dict[str, Any] = {}
        self.size = 0
        self.dim = 0
        self.slots: Dict[str, Any] = {}

    @property
    def applied_by(self) -> str:
        """The name of the optimizer that applies its updates."""
        return self.inner

    def build(self, variables: Sequence[Any]) -> None:
        """Fits the method to the trainable variables of a model; sets ``size`` and ``dim``."""
        raise NotImplementedError

    def play(self, workers: Sequence[int], of: int) -> None:
        """Says which workers this process plays, of how many, before :meth:`build`."""

    def saved(self) -> Dict[str, Any]:
        """The slots as a checkpoint holds them."""
        return self.slots

    def saveable(self, step: int) -> bool:
        """Whether :meth:`saved` holds all that the next step depends on."""
        return True

    def restored(self, step: int) -> None:
        """The slots have been given the values of a checkpoint of this step."""

    def gather(self, device: Any, step: int) -> None:
        """Takes over what other processes have in their slots; all call it, between two calls of the loop."""

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        """What this worker sends after its mini-batch: float32 [m].

        Args:
          state: the model at its present weights, a :class:`rbd_ipu.step.State`.
          batch: (x, y), this worker's mini-batch.
          step: int32 scalar, the number of updates so far.
          worker: int32 scalar, the index of this worker.
        """
        raise NotImplementedError

    def update(self, messages: Any, step: Any) -> Any:
        """What to subtract, in units of the learning rate: messages [K, m] -> float32 [D].

        A mean over workers, so that the length of a step does not depend on their number.
        """
        raise NotImplementedError

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        """The update of a worker on its own: ``update([message], step)``, perhaps by a shorter way.

        A method whose update is the mean of its workers' own ones says so by a further argument, ``worker=0``: the
        basis to use. Workers can then exchange updates instead of messages.
        """
        return self.update(self.message(state, batch, step, 0)[None], step)


def create(name: str, **options: Any) -> Method:
    """The method called ``name`` with these hyper-parameters.

    Raises:
      ValueError: an unknown name.
      TypeError: an option that the method does not take, or one it needs and did not get.

    Example:
      >>> create("rbd", learning_rate=2.0**-1, dim=250).dim
      0
      >>> create("sgd", learning_rate=0.1, dim=250)
      Traceback (most recent call last):
      ...
      TypeError: method 'sgd' does not take dim; it takes learning_rate, momentum
    """
    make = METHODS.get(name)
    accepted, required = options_of(make)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise TypeError(f"method {name!r} does not take {', '.join(unknown)}; it takes {', '.join(accepted)}")
    missing = [option for option in required if option not in options]
    if missing:
        raise TypeError(f"method {name!r} needs {', '.join(missing)}; it takes {', '.join(accepted)}")
    return make(**options)


def options_of(make: Any) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Names of the options that a method accepts, and of those it requires."""
    parameters = list(inspect.signature(make.__init__).parameters.values())[1:]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    accepted = tuple(dict.fromkeys([p.name for p in named] + list(make.of_basis)))
    return accepted, tuple(p.name for p in named if p.default is p.empty)


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


def likeness(u: Any, g: Any) -> Tuple[Any, Any]:
    """Cosine and Pearson sample correlation of two vectors [D]; 0 where one of them does not vary.

        cosine  = <u, g> / (|u| |g|)
        pearson = <u - mean(u), g - mean(g)> / (|u - mean(u)| |g - mean(g)|)

    The paper reports the correlation of the update with the full gradient (Section 4.5, Table 3, Fig. B.7);
    over the flat vector here, where the first public implementation averages cosines over variables.

    Example:
      >>> cosine, pearson = likeness(tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0, 4.0, 6.0]))
      >>> float(tf.round(1e4 * cosine)), float(tf.round(1e4 * pearson))
      (10000.0, 10000.0)
    """
    n = tf.cast(tf.size(u), tf.float32)
    mean_u, mean_g = tf.reduce_mean(u), tf.reduce_mean(g)
    # Three times as fast as tensordot, on vectors of this length.
    uu, gg, ug = 2 * tf.nn.l2_loss(u), 2 * tf.nn.l2_loss(g), tf.reduce_sum(u * g)
    # Centred sums by the shift formula: the means of gradients are small beside their norms.
    cuu, cgg, cug = uu - n * mean_u**2, gg - n * mean_g**2, ug - n * mean_u * mean_g
    cosine = tf.math.divide_no_nan(ug, tf.sqrt(uu) * tf.sqrt(gg))
    pearson = tf.math.divide_no_nan(cug, tf.sqrt(tf.maximum(cuu, 0.0)) * tf.sqrt(tf.maximum(cgg, 0.0)))
    return cosine, pearson
