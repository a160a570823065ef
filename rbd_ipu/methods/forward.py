"""Methods that learn from losses alone: NES, and random bases descent from forward passes.

Methods that learn from losses alone: weights are moved along one direction after the other, and put back.

Natural evolution strategies: the paper's black-box baseline (Sections 2.2 and A, Table 1, Fig. 1 and B.6).

Random bases descent from forward passes: between RBD and NES (Section A of the paper's supplement).
"""

import math
from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._compat import tf
from rbd_ipu.methods.base import METHODS
from rbd_ipu.methods.rbd import Projected
from rbd_ipu.methods.rbd_options import TRANSFORMS
from rbd_ipu.subspace import BasisSpec


class Forward(Projected):
    """Evaluates L(theta + s_i phi_i), and L(theta - s_i phi_i) where ``antithetic``, for all d directions in turn.

    s_i = sigma sqrt(n), with n the number of parameters of the compartment: phi_i has norm 1, so that each of them
    moves by sigma in the root mean square, as under theta + sigma epsilon with standard normal epsilon (Section A of
    the paper's supplement; Salimans et al. 2017). With ``normalize="none"`` directions are taken as drawn, and
    s_i = sigma.

    Weights are saved and put back bit for bit. Passes are in training mode: batch normalisation takes the statistics
    of the mini-batch, and its moving statistics see only one pass a step, at the weights themselves, which gives the
    loss of the metrics. Layers that draw (dropout) draw anew in each pass, which adds noise to the losses.

    Args:
      learning_rate, momentum: as for every method.
      basis: which random bases; they are not made orthonormal.
      sigma: a finite number > 0.
      antithetic: whether each direction is tried both ways, on the same mini-batch: 2 d passes for d directions.
      transform: a row of ``TRANSFORMS``.
    """

    forward_only = True

    of_basis = tuple(name for name in BasisSpec.names() if name != "orthogonalize")

    def __init__(
        self,
        learning_rate: Any,
        momentum: float,
        basis: BasisSpec,
        sigma: float,
        antithetic: bool,
        transform: str,
    ):
        super().__init__(learning_rate, momentum, basis)
        if basis.orthogonalize:
            raise TypeError(f"method {self.name!r} does not take orthogonalize")
        self.sigma = checks.finite_float("sigma", sigma)
        if not self.sigma > 0.0:
            raise ValueError(f"sigma must be a finite number > 0, got {sigma!r}")
        self.antithetic = checks.flag("antithetic", antithetic)
        self.transform = transform
        self.shape = TRANSFORMS.get(transform)

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        if self.dim == 1 and self.transform != "none" and not self.antithetic:
            raise ValueError(
                f"transform={self.transform!r} compares losses, so one direction needs antithetic=True: "
                f"got dim=1 and antithetic={self.antithetic!r}"
            )

    def length(self, size: int) -> float:
        """s_i: how far weights move along a direction of a compartment of ``size`` parameters."""
        return self.sigma if self.basis.normalize == "none" else self.sigma * math.sqrt(size)

    def losses(self, state: Any, batch: Any, step: Any, worker: Any, own_batches: bool) -> Any:
        """(L(theta + s_i phi_i) and, where antithetic, L(theta - s_i phi_i)) for each direction: [d, 1 or 2].

        All on ``batch``; with ``own_batches`` on a mini-batch for each direction, of which ``batch`` is the first.
        """
        theta = state.weights()
        signs = (1.0, -1.0) if self.antithetic else (1.0,)

        def along(phi: Any, size: int, place: Any) -> Any:
            seen = tf.cond(tf.equal(place, 0), lambda: batch, state.next_batch) if own_batches else batch
            move = self.length(size) * phi
            return tf.stack([state.loss_at(theta + sign * move, seen) for sign in signs])

        with state.untouched():
            return self.subspace.visit(along, len(signs), self.seed, self.basis_index(step), worker)


@METHODS.register("nes")
class NES(Forward):
    """Losses along random directions, each on a mini-batch of its own, shaped by rank.

    With phi_i of norm 1 and s_i = sigma sqrt(n)::

        l_i   = L_i(theta + s_i phi_i)            i = 1 ... d, on mini-batch i
        r     = ranks of l, from -1/2 to 1/2      the highest loss has 1/2
        theta <- theta - lr / (sigma d) * sum_i r_i phi_i

    ``antithetic``: l_i+ and l_i- on mini-batch i, ranked together, and r_i = (r_i+ - r_i-) / 2. The first public
    implementation drops the sign for normal directions, so that there the pairs are twice the same.

    A step takes d mini-batches: with 50,000 images, batches of 32 and d = 250, an epoch has 6 steps. Ranks are those
    among a worker's own losses.

    Args:
      learning_rate, dim, momentum, **basis: as for :class:`rbd_ipu.methods.RBD`; there is no ``orthogonalize``.
      sigma: how far weights move, in the root mean square; 0.01 in the first public implementation.
      antithetic: try each direction both ways, on one mini-batch.
      transform: "rank"; or "range": (l - min) / (max - min) - 1/2; or "none": the estimator of Section A as it is.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.

    Example:
      >>> method = NES(learning_rate=0.25, dim=16)
      >>> method.build([(20, 10), (10,)])
      >>> method.dim, method.batches
      (16, 16)
    """

    name = "nes"

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int] = None,
        momentum: float = 0.0,
        sigma: float = 0.01,
        antithetic: bool = False,
        transform: str = "rank",
        **basis: Any,
    ):
        super().__init__(learning_rate, momentum, BasisSpec(dim, **basis), sigma, antithetic, transform)

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self.batches = self.dim

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        losses = self.losses(state, batch, step, worker, own_batches=True)
        shaped = tf.reshape(self.shape(tf.reshape(losses, [-1])), losses.shape)
        r = (shaped[:, 0] - shaped[:, 1]) / 2.0 if self.antithetic else shaped[:, 0]
        return r / (self.sigma * self.dim)


@METHODS.register("hybrid")
class Hybrid(Forward):
    """The coordinates of RBD without a gradient: differences of losses along all directions, on one mini-batch.

    With phi_i of norm 1 and s_i = sigma sqrt(n)::

        c_i   = (L(theta + s_i phi_i) - L(theta)) / s_i                    ~ <g, phi_i>, off by s_i phi_i' H phi_i / 2
        c_i   = (L(theta + s_i phi_i) - L(theta - s_i phi_i)) / (2 s_i)    antithetic: off by O(s_i^2)
        theta <- theta - lr * sum_i c_i phi_i

    so that a learning rate of RBD serves, where losses resolve the differences: float32 keeps about 1e-7 of a loss of
    1. The paper says that the coefficients come from one mini-batch, not how losses become coefficients. The first
    public implementation ("RBD from forward passes") takes the ranks of the losses, from -1/2 to 1/2, as coordinates,
    at a learning rate of 1e-5: that is ``transform="rank"`` with one compartment, where L(theta) and s do not change
    the order of the losses.

    Args:
      learning_rate, dim, momentum, **basis: as for :class:`rbd_ipu.methods.RBD`; there is no ``orthogonalize``.
      sigma: how far weights move, in the root mean square; 0.002 in the first public implementation.
      antithetic: central differences.
      transform: of the coordinates: "none", "rank" or "range".

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.

    Example:
      >>> Hybrid(learning_rate=0.25, dim=16).sigma
      0.002
    """

    name = "hybrid"

    def __init__(
        self,
        learning_rate: Any,
        dim: Optional[int] = None,
        momentum: float = 0.0,
        sigma: float = 0.002,
        antithetic: bool = False,
        transform: str = "none",
        **basis: Any,
    ):
        super().__init__(learning_rate, momentum, BasisSpec(dim, **basis), sigma, antithetic, transform)

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        here = tf.cast(state.look(batch).loss, tf.float32)
        losses = self.losses(state, batch, step, worker, own_batches=False)
        rises = (losses[:, 0] - losses[:, 1]) / 2.0 if self.antithetic else losses[:, 0] - here
        lengths = [self.length(piece.size) for piece in self.subspace.compartments for _ in range(piece.dim)]
        return self.shape(rises / tf.constant(lengths))
