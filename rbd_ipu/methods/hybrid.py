"""Random bases descent from forward passes: between RBD and NES (Section A of the paper's supplement)."""

from typing import Any, Optional

from rbd_ipu._stack import tf
from rbd_ipu.methods.base import METHODS
from rbd_ipu.methods.forward import Forward


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
      learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source: as for
        :class:`rbd_ipu.methods.RBD`.
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
        distribution: str = "normal",
        compartments: str = "global",
        normalize: str = "unit",
        redraw_every: int = 1,
        momentum: float = 0.0,
        seed: int = 0,
        source: str = "auto",
        sigma: float = 0.002,
        antithetic: bool = False,
        transform: str = "none",
    ):
        super().__init__(
            learning_rate, dim, distribution, compartments, normalize, redraw_every, momentum, seed, source,
            sigma, antithetic, transform,
        )  # fmt: skip

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        here = tf.cast(state.look(batch).loss, tf.float32)
        losses = self.losses(state, batch, step, worker, own_batches=False)
        rises = (losses[:, 0] - losses[:, 1]) / 2.0 if self.antithetic else losses[:, 0] - here
        lengths = [self.length(piece.size) for piece in self.subspace.compartments for _ in range(piece.dim)]
        return self.shape(rises / tf.constant(lengths))
