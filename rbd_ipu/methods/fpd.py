"""Fixed projection descent: the basis of step 0, kept (Li et al. 2018, Section 2.1 of the paper)."""

from typing import Any, Optional

from rbd_ipu._stack import tf
from rbd_ipu.methods.base import METHODS
from rbd_ipu.methods.rbd import RBD


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
