"""What all methods share that draw their directions from a seed."""

from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu.compartments import Compartments
from rbd_ipu.methods.base import Method
from rbd_ipu.subspace import Subspace, check_names, subspace


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
