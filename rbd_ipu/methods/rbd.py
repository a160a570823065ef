"""Random bases descent: Algorithm 1 of the paper."""

from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._stack import tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods.base import METHODS, Method
from rbd_ipu.subspace import check_names, subspace


@METHODS.register("rbd")
class RBD(Method):
    """Descent in a random subspace that is drawn anew at every step.

    With P_t^k the directions that worker k draws at step t, and g^k its gradient (Algorithm 1; one worker on
    the left, K workers on the right)::

        c^k   = (P_t^k)^T g^k                            message: d numbers
        theta <- theta - lr * (1/K) sum_k P_t^k c^k      update: all bases are drawn again

    The paper sums over workers; the mean keeps the learning rate independent of K.

    Args:
      learning_rate, momentum: as for every method.
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.
      compartments: a scheme of :meth:`rbd_ipu.Compartments.of`.
      redraw_every: a basis serves this many steps.
      seed: of the bases, an int of at most 64 bits.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.

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
        self.subspace = subspace(cut, self.distribution, self.normalize, self.source, self.orthogonalize)
        self.size, self.dim = cut.size, cut.dim

    def basis_index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return step // self.redraw_every

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        return self.subspace.project(state.gradient(batch), self.seed, self.basis_index(step), worker)

    def update(self, messages: Any, step: Any) -> Any:
        index = self.basis_index(step)
        workers = messages.shape[0]
        updates = [self.subspace.expand(messages[k], self.seed, index, k) for k in range(workers)]
        return tf.add_n(updates) / workers

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        return self.subspace.filter(state.gradient(batch), self.seed, self.basis_index(step), 0)
