"""RandomBasesDescent and FixedProjectionDescent: random bases and a fixed projection as Keras optimizers."""

import weakref
from typing import Any, Dict, Optional, Sequence

from rbd_ipu import _imports, checks
from rbd_ipu._compat import KERAS_3, as_it_is, keras, tensors, tf
from rbd_ipu.checks import Registry
from rbd_ipu.compartments import Compartments
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.projected import Pairs
from rbd_ipu.step import flat_piece, flatten, shaped, unflatten
from rbd_ipu.subspace import BasisSpec, Subspace, rbd_update, subspace_of

if KERAS_3:
    from rbd_ipu.optimizers.keras_3 import SubspaceSGD
else:
    from rbd_ipu.optimizers.keras_2 import SubspaceSGD

OPTIMIZERS = Registry("optimizer")

register = _imports.register(keras.utils.register_keras_serializable, keras.utils.get_custom_objects())


@OPTIMIZERS.register("RandomBasesDescent")
@register
class RandomBasesDescent(SubspaceSGD):
    """Random bases descent (RBD) as a Keras optimizer: new random directions at every step.

    It is Algorithm 1 of "Improving Neural Network Training in Low Dimensional Random Bases"
    (https://arxiv.org/abs/2011.04720), for ``model.compile``. With g the gradient (accumulated and clipped, if you
    ask for it) and the columns of P_t the d directions of step t::

        c     = P_t^T g                 d coordinates
        theta <- theta - lr * P_t c     with momentum in the full space, as Keras' SGD applies it

    P_t depends on (seed, t) only. It is drawn when it is needed and never stored; t is ``iterations``, which is saved
    with the model. All micro-steps of gradient accumulation share one basis. Under a strategy with several replicas,
    all replicas use the same P_t. They exchange the mean of their coordinates, d numbers instead of D, and the step
    is that of one replica with the whole batch. (In the paper, each worker has directions of its own;
    :class:`rbd_ipu.Trainer` does that.)

    **The learning rate.** On average over directions of norm 1, P_t P_t^T g is (d / D) g for D parameters. So a step
    moves like a step of SGD at the rate lr * d / D, plus noise that is sqrt(D / d - 1) times as long. A good rate is
    therefore much larger than one of SGD, and the default 0.01 of Keras is too small for most models.

    To pick a rate, search over powers of two, at the length that you will train for: the best rate falls with the
    number of steps, like 1 / sqrt(steps). The noise limits it. It adds up to a random walk of length
    lr * norm(g) * sqrt(steps * d / D), which should not be much longer than the norm of the first weights. If you
    change d, change the rate like 1 / sqrt(d). These rates are on record, for batches of 32 and no momentum:

    - MNIST, fully connected (D = 101,770), d = 250: 1.
    - MNIST, CNN, d = 250: 1/8.
    - CIFAR-10, fully connected, d = 250: 1/2.
    - CIFAR-10, CNN (D = 122,570), d = 250: 1/4. The paper uses 1/2, 1/4, 1/8 and 1/32 for d = 10, 100, 1,000 and
      10,000.

    Args:
      learning_rate: a finite float >= 0; or what else Keras' SGD accepts: a schedule, a function without arguments,
        or a tf.Variable in Keras 2. Default 0.01, as in Keras; see above.
      dim: d, the number of directions of all compartments together. Required, except for "factor:f", which fixes it.
      distribution: of the directions, as for :class:`rbd_ipu.RandomBasis`. Default "normal".
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`. Default "global", one basis for all parameters.
      redraw_every: how many steps use the same basis. Default 1.
      momentum: in [0, 1]. Default 0; any other value keeps a velocity of D numbers.
      seed: of the bases, an int of at most 64 bits. Default 0.
      normalize: how directions are scaled, as for :class:`rbd_ipu.RandomBasis`. Default "unit", norm 1.
      source: what draws the directions, as for :class:`rbd_ipu.RandomBasis`. Default "auto".
      orthogonalize: whether to make dense directions orthonormal. Default False.
      nesterov: whether to use Nesterov momentum, as in ``keras.optimizers.SGD``. Default False.
      name: of the optimizer. Default: the name of the class.
      **kwargs: the other arguments of the SGD of this Keras (``clipnorm``; in Keras 3 also ``use_ema``,
        ``gradient_accumulation_steps`` and others).

    Raises:
      TypeError, ValueError: an argument is wrong; the message quotes it and what is accepted. At the first step:
        the scheme and d do not fit the model.

    Variables without a gradient do not change. Sparse gradients (of embeddings) are made dense. A trainable variable
    that is not of a real floating type is refused by name.

    Weights change by projected updates only. Whatever would change them in another way is refused before it does:
    constraints of variables, ``weight_decay`` (use an L2 regularizer, whose gradient is projected),
    ``ema_overwrite_frequency``, subclasses with their own ``update_step`` or ``_resource_apply_dense``, and wrappers
    that pass on the gradients one variable at a time.

    Example:
      >>> import numpy as np, rbd_ipu
      >>> from rbd_ipu._compat import keras
      >>> model = keras.Sequential([keras.layers.Dense(1)])
      >>> model.compile(optimizer=rbd_ipu.RandomBasesDescent(0.5, dim=4), loss="mse")
      >>> history = model.fit(np.ones((8, 3)), np.ones((8, 1)), epochs=2, verbose=0)
      >>> len(history.history["loss"])
      2
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        dim: Optional[int] = None,
        distribution: str = "normal",
        compartments: str = "global",
        redraw_every: int = 1,
        momentum: float = 0.0,
        seed: int = 0,
        normalize: str = "unit",
        source: str = "auto",
        orthogonalize: bool = False,
        nesterov: bool = False,
        name: Optional[str] = None,
        **kwargs: Any,
    ):
        # All of our own arguments are checked before Keras sees any.
        basis = BasisSpec(dim, distribution, compartments, normalize, source, orthogonalize, redraw_every, seed)
        if dim is None and not compartments.startswith("factor:"):
            raise TypeError(f"compartments {compartments!r} need dim, the total number of directions; got None")
        super().__init__(
            learning_rate=checks.learning_rate(learning_rate),
            momentum=checks.finite_float("momentum", momentum, 0.0, 1.0),
            nesterov=nesterov,
            name=name or type(self).__name__,
            **kwargs,
        )
        self.basis_spec = basis
        self.check_settings()

    @as_it_is
    def descend(self, pairs: Pairs) -> Pairs:
        gradients, variables = zip(*pairs)
        space, sizes = self.subspace_of(variables), [int(v.shape.num_elements()) for v in tensors(variables)]
        pieces = [flat_piece(gradient, n) for gradient, n in zip(gradients, sizes)]
        seed, index = self.basis_spec.seed, self.basis_index()
        projected.warn_of_xla(self.basis_spec.source)
        if projected.alone():
            updates = space.filter_pieces(pieces, seed, index)  # both halves in one pass
        else:
            updates = rbd_update(
                pieces,
                project=lambda g: space.project_pieces(g, seed, index),
                exchange=projected.replica_mean,
                expand=lambda c: space.expand_pieces(c, sizes, seed, index),
            )
        parts = [shaped(update, variable) for update, variable in zip(updates, tensors(variables))]
        return projected.mark(self, parts, variables)

    def basis_index(self) -> Any:
        """The number of bases before the one of this step, an int32 scalar."""
        return self.basis_spec.index(self.step_index())

    def subspace_of(self, variables: Sequence[Any]) -> Subspace:
        """The subspace of these variables; a step uses its ``directions(seed, basis_index)``."""
        return subspace_of(self.basis_spec, self.described(variables))

    def get_config(self) -> Dict[str, Any]:
        return {**super().get_config(), **self.basis_spec.as_dict()}


@OPTIMIZERS.register("FixedProjectionDescent")
@register
class FixedProjectionDescent(RandomBasesDescent):
    """Fixed projection descent (FPD) as a Keras optimizer: the directions of step 0, at every step.

    The method is that of Li et al. (2018, https://arxiv.org/abs/1804.08838) and of Section 2.1 of the paper of RBD
    (https://arxiv.org/abs/2011.04720). The weights are theta = theta_0 + P c, with momentum in the coordinates::

        v     <- momentum * v - lr * P^T g      d numbers; in the full space there would be D
        theta <- theta + P v                    Nesterov: theta + P (momentum * v - lr * P^T g)

    P is linear and fixed, so this is exactly momentum in the full space. The basis belongs to the variables of the
    first step. Later steps with other variables (of another model, or of a layer made trainable) are refused.

    **The learning rate** multiplies P P^T g, as for :class:`RandomBasesDescent`: the part of a step along g has the
    rate lr * d / D. But the directions stay the same, so the rest of the step does not average out. Search over
    powers of two. These rates are on record for d = 250, batches of 32 and no momentum: MNIST, fully connected, 2
    and CNN, 1/8 (the paper's); CIFAR-10, fully connected, 1/32 and CNN, 1/2 (both the paper's).

    Args:
      learning_rate: as for :class:`RandomBasesDescent`. Default 0.01.
      dim: d, as for :class:`RandomBasesDescent`.
      distribution: of the directions. Default "normal".
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`. Default "global".
      momentum: in [0, 1]. Default 0; any other value keeps a velocity of d numbers.
      seed: of the basis. Default 0.
      normalize: how directions are scaled. Default "unit", norm 1.
      source: what draws the directions. Default "auto".
      orthogonalize: whether to make dense directions orthonormal. Default False.
      nesterov: whether to use Nesterov momentum. Default False.
      name: of the optimizer. Default: the name of the class.
      **kwargs: as for :class:`RandomBasesDescent`.

    Raises:
      TypeError, ValueError: as for :class:`RandomBasesDescent`; and a step is for other variables than the first.

    Example:
      >>> FixedProjectionDescent(0.1, dim=4, momentum=0.9).get_config()["momentum"]
      0.9
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        dim: Optional[int] = None,
        distribution: str = "normal",
        compartments: str = "global",
        momentum: float = 0.0,
        seed: int = 0,
        normalize: str = "unit",
        source: str = "auto",
        orthogonalize: bool = False,
        nesterov: bool = False,
        name: Optional[str] = None,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate,
            dim,
            distribution=distribution,
            compartments=compartments,
            momentum=momentum,
            seed=seed,
            normalize=normalize,
            source=source,
            orthogonalize=orthogonalize,
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        self._decay = float(momentum)
        self.owners = projected.Owners()
        self._track_trackable(self.owners, "owners", overwrite=True)
        self._known: Sequence[Any] = ()  # weak references to the variables that there are slots for

    def basis_index(self) -> Any:
        return tf.constant(0)

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        self._known = [weakref.ref(variable) for variable in variables]
        if not self._decay:
            return None
        return Compartments.of(variables, self.basis_spec.compartments, self.basis_spec.dim).dim

    def restored(self) -> None:
        if self._known:  # the steps before were taken with these variables
            self.owners.expect([known() for known in self._known])

    @as_it_is
    def descend(self, pairs: Pairs) -> Pairs:
        gradients, variables = zip(*pairs)
        self.owners.check(self, self.described(variables))
        if not self._decay:
            return super().descend(pairs)
        space = self.subspace_of(variables)
        if space.dim != self.velocity.shape[0]:
            raise ValueError(
                f"some variables have no gradient, which leaves {space.dim} of {self.velocity.shape[0]} directions; "
                "momentum in coordinates needs all of them: make the other variables non-trainable"
            )
        seed = self.basis_spec.seed
        impulse = self.rate() * projected.replica_mean(space.project(flatten(gradients), seed))
        before = tf.convert_to_tensor(self.velocity)
        velocity = self._decay * before - impulse
        # A step that is not finite may be skipped after this (float16 with a loss scale): it leaves no trace here.
        kept = tf.where(tf.math.is_finite(tf.reduce_sum(impulse)), velocity, before)
        with tf.control_dependencies([_assign(self.velocity, kept)]):
            move = self._decay * velocity - impulse if self.nesterov else tf.identity(velocity)
        update = space.expand(-move, seed)
        return projected.mark(self, unflatten(update, variables), variables)

    def get_config(self) -> Dict[str, Any]:
        config = super().get_config()
        del config["redraw_every"]
        return config


def _assign(variable: Any, value: Any) -> Any:
    """Assigns inside or outside a graph; every replica holds the same value."""
    variable = getattr(variable, "value", variable) if KERAS_3 else variable
    return variable.assign(value)
