"""Methods that learn from losses alone: weights are moved along one direction after the other, and put back."""

import math
from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._stack import tf
from rbd_ipu.methods.projected import Projected
from rbd_ipu.methods.transforms import TRANSFORMS


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
      learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source: as for
        :class:`rbd_ipu.methods.RBD`.
      sigma: a finite number > 0.
      antithetic: whether each direction is tried both ways, on the same mini-batch: 2 d passes for d directions.
      transform: a row of ``TRANSFORMS``.
    """

    forward_only = True

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
        sigma: float,
        antithetic: bool,
        transform: str,
    ):
        super().__init__(
            learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source
        )
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
        return self.sigma if self.normalize == "none" else self.sigma * math.sqrt(size)

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
