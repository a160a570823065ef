"""Natural evolution strategies: the paper's black-box baseline (Sections 2.2 and A, Table 1, Fig. 1 and B.6)."""

from typing import Any, Optional, Sequence

from rbd_ipu._stack import tf
from rbd_ipu.methods.base import METHODS
from rbd_ipu.methods.forward import Forward


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
      learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source: as for
        :class:`rbd_ipu.methods.RBD`.
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
        distribution: str = "normal",
        compartments: str = "global",
        normalize: str = "unit",
        redraw_every: int = 1,
        momentum: float = 0.0,
        seed: int = 0,
        source: str = "auto",
        sigma: float = 0.01,
        antithetic: bool = False,
        transform: str = "rank",
    ):
        super().__init__(
            learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source,
            sigma, antithetic, transform,
        )  # fmt: skip

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self.batches = self.dim

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        losses = self.losses(state, batch, step, worker, own_batches=True)
        shaped = tf.reshape(self.shape(tf.reshape(losses, [-1])), losses.shape)
        r = (shaped[:, 0] - shaped[:, 1]) / 2.0 if self.antithetic else shaped[:, 0]
        return r / (self.sigma * self.dim)
