"""RandomBasesDescent and FixedProjectionDescent: the same functions as the methods, behind ``model.compile``."""

import weakref
from typing import Any, Dict, Optional, Sequence, Tuple

from rbd_ipu import _imports, checks
from rbd_ipu._compat import KERAS_3, keras, tf
from rbd_ipu.basis import BasisSpec
from rbd_ipu.checks import Registry
from rbd_ipu.compartments import Compartments
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.projected import Pairs
from rbd_ipu.step.model_state import flatten, unflatten
from rbd_ipu.subspace import Subspace, rbd_update, subspace_of

if KERAS_3:
    from rbd_ipu.optimizers.keras_3 import SubspaceSGD
else:
    from rbd_ipu.optimizers.keras_2 import SubspaceSGD

OPTIMIZERS = Registry("optimizer")

register = _imports.register(keras.utils.register_keras_serializable, keras.utils.get_custom_objects())


@OPTIMIZERS.register("RandomBasesDescent")
@register
class RandomBasesDescent(SubspaceSGD):
    """Random bases descent for ``model.compile``: Algorithm 1 of the paper behind an ordinary Keras optimizer.

    With g the gradient (accumulated, then clipped, if so asked) and P_t the directions of step t::

        c     = P_t^T g                 averaged over replicas: d numbers cross the wire, not D
        theta <- theta - lr * P_t c     with momentum in the full space, as Keras' SGD applies it

    P_t is a pure function of (seed, t), drawn when it is needed and never stored; t is ``iterations``, which is
    saved with the model. A basis belongs to an optimizer step: micro-steps of gradient accumulation share one.

    Args:
      learning_rate: a finite float >= 0, or what else Keras' SGD takes: a schedule, a function without arguments, in
        Keras 2 a tf.Variable.
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`.
      redraw_every: a basis serves this many steps.
      momentum: in [0, 1]; it costs a velocity of the size of the model.
      seed: of the bases, an int of at most 64 bits.
      nesterov, name: as for ``keras.optimizers.SGD``.
      **kwargs: the other arguments of the SGD of this Keras (``clipnorm``, and in Keras 3 ``use_ema``,
        ``gradient_accumulation_steps``, ...).

    Raises:
      TypeError, ValueError: an argument is wrong; the message quotes it and what is accepted. At the first step:
        the scheme and d do not fit the model.

    Variables without a gradient are left as they are, sparse gradients (of embeddings) are made dense, and a
    trainable variable that is not of a real floating type is refused by name.

    No weight changes but by an update that was projected in the same step. What would do so is refused before any
    has: constraints of variables, ``weight_decay`` (an L2 regularizer is projected), ``ema_overwrite_frequency``,
    subclasses with their own ``update_step`` or ``_resource_apply_dense``, and optimizers around this one that hand
    on gradients variable by variable.

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

    def descend(self, pairs: Pairs) -> Pairs:
        gradients, variables = zip(*pairs)
        space, gradient = self.subspace_of(variables), flatten(gradients)
        seed, index = self.basis_spec.seed, self.basis_index()
        if projected.alone():
            update = space.filter(gradient, seed, index)  # both halves in one pass
        else:
            update = rbd_update(
                gradient,
                project=lambda g: space.project(g, seed, index),
                exchange=projected.replica_mean,
                expand=lambda c: space.expand(c, seed, index),
            )
        return projected.mark(self, unflatten(update, variables), variables)

    def basis_index(self) -> Any:
        """How many bases were drawn before the one of this step: int32 scalar."""
        return self.basis_spec.index(self.step_index())

    def subspace_of(self, variables: Sequence[Any]) -> Subspace:
        """The subspace for these variables: its ``directions(seed, basis_index)`` are what a step uses."""
        return subspace_of(self.basis_spec, self.described(variables))

    def get_config(self) -> Dict[str, Any]:
        return {**super().get_config(), **self.basis_spec.as_dict()}


@OPTIMIZERS.register("FixedProjectionDescent")
@register
class FixedProjectionDescent(RandomBasesDescent):
    """Fixed projection descent (Li et al. 2018; Section 2.1 of the paper): the basis of step 0, kept.

    theta = theta_0 + P c, with momentum in the coordinates::

        v <- momentum * v - lr * P^T g          d numbers, where the full space would keep D
        theta <- theta + P v                    Nesterov: + P (momentum * v - lr * P^T g)

    which is momentum in the full space exactly, for P is linear and fixed. It is for the variables of the first step:
    others, of another model or a layer made trainable, are refused.

    Args:
      learning_rate, dim, distribution, compartments, momentum, seed, normalize, source, orthogonalize, nesterov,
        name, **kwargs: as for :class:`RandomBasesDescent`.

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
        # Weak references: to the variables of the first step, and to those that there are slots for.
        self._owners: Optional[Tuple[Any, ...]] = None
        self._known: Optional[Tuple[Any, ...]] = None

    def basis_index(self) -> Any:
        return tf.constant(0)

    def coordinate_slot(self, variables: Sequence[Any]) -> Optional[int]:
        self._known = _references(variables)
        if not self._decay:
            return None
        return Compartments.of(variables, self.basis_spec.compartments, self.basis_spec.dim).dim

    def restored(self) -> None:
        self._owners = self._known  # the steps before were taken with these variables

    def descend(self, pairs: Pairs) -> Pairs:
        gradients, variables = zip(*pairs)
        self._check_owners(self.described(variables))
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

    def _check_owners(self, variables: Sequence[Any]) -> None:
        """Refuses other variables than those of the first step: theirs is another basis."""
        if self._owners is None:
            self._owners = _references(variables)
        if len(variables) != len(self._owners) or any(v is not ref() for v, ref in zip(variables, self._owners)):
            raise ValueError(
                f"the basis of this {type(self).__name__}, and its momentum, is kept in coordinates of the "
                f"{len(self._owners)} variables of its first step, and these {len(variables)} are others (another "
                "model, layers frozen or made trainable, or a part that got no gradient): give each set of variables "
                "an optimizer of its own"
            )

    def get_config(self) -> Dict[str, Any]:
        config = super().get_config()
        del config["redraw_every"]
        return config


def _references(variables: Sequence[Any]) -> Tuple[Any, ...]:
    return tuple(weakref.ref(variable) for variable in variables)


def _assign(variable: Any, value: Any) -> Any:
    """Assigns inside or outside a graph; every replica holds the same value."""
    variable = getattr(variable, "value", variable) if KERAS_3 else variable
    return variable.assign(value)
