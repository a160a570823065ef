"""Two methods, one after the other (Section 4.5, Fig. 3 and Section B.5 of the paper)."""

from typing import Any, Optional, Sequence

from rbd_ipu import checks
from rbd_ipu._compat import keras, tf
from rbd_ipu.methods.base import METHODS, SGD, Method
from rbd_ipu.methods.rbd import RBD
from rbd_ipu.subspace import BasisSpec


class Switched(Method):
    """``before`` for the first ``switch_step`` steps, ``after`` from then on; both have learning rates of their own.

    The learning rate is a Keras schedule of two values, which callbacks show as it is. The momentum must be the same:
    the velocity goes on. Both phases must read as many mini-batches a step. Slots of the phases are called
    ``before/...`` and ``after/...``.

    Args:
      before, after: methods that have not been built, with plain numbers for learning rates.
      switch_step: an integer >= 1.

    Raises:
      TypeError, ValueError: an argument is wrong, or the two do not go together.

    Example:
      >>> from rbd_ipu.methods import FPD, RBD
      >>> method = Switched(FPD(0.25, dim=8), RBD(1.0, dim=8), switch_step=10)
      >>> [float(method.learning_rate(step)) for step in (9, 10)]
      [0.25, 1.0]
    """

    def __init__(self, before: Method, after: Method, switch_step: int):
        self.switch_step = checks.positive_int("switch_step", switch_step)
        rates = [checks.finite_float("learning_rate", method.learning_rate) for method in (before, after)]
        if before.momentum != after.momentum:
            raise ValueError(f"both phases need one momentum, got {before.momentum} and {after.momentum}")
        # Keras' boundaries belong to the value before them.
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([self.switch_step - 1], rates)
        super().__init__(schedule, before.momentum)
        self.before, self.after = before, after

    def build(self, variables: Sequence[Any]) -> None:
        phases = {"before": self.before, "after": self.after}
        for method in phases.values():
            method.build(variables)
        if self.before.batches != self.after.batches:
            raise ValueError(
                f"{self.before.name!r} takes {self.before.batches} mini-batches a step and {self.after.name!r} "
                f"{self.after.batches}: an epoch cannot have steps of both kinds"
            )
        self.batches = self.before.batches
        self.forward_only = self.before.forward_only and self.after.forward_only
        self.size, self.dim = self.before.size, min(method.dim for method in phases.values())
        self.slots = {f"{phase}/{k}": v for phase, method in phases.items() for k, v in method.slots.items()}
        refusing = [method for method in phases.values() if not method.parallel]
        self.parallel = self.before.dim == self.after.dim and not refusing
        self.not_parallel_because = (
            refusing[0].not_parallel_because
            if refusing
            else f"its phases send messages of different lengths, {self.before.dim} and {self.after.dim}; "
            "train one phase after the other, each with a method of its own"
        )

    def _phase(self, step: Any, function: Any) -> Any:
        return tf.cond(step < self.switch_step, lambda: function(self.before), lambda: function(self.after))

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        self._prepare(state, batch)
        return self._phase(step, lambda method: method.message(state, batch, step, worker))

    def update(self, messages: Any, step: Any) -> Any:
        return self._phase(step, lambda method: method.update(messages, step))

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        self._prepare(state, batch)
        return self._phase(step, lambda method: method.step(state, batch, step))

    def _prepare(self, state: Any, batch: Any) -> None:
        """The pass that metrics need too, where they can see it: outside the branches."""
        if self.before.forward_only or self.after.forward_only:
            state.look(batch)
        else:
            state.evaluate(batch)


@METHODS.register("switch")
class Switch(Switched):
    """RBD and then SGD, or SGD and then RBD.

    The paper switches after 1, 2, 5, 10, 25, 50 or 75 of 100 epochs, with the learning rate of each method tuned for
    training by it alone.

    Args:
      learning_rate: of the RBD phase, a number.
      sgd_learning_rate: of the SGD phase, a number.
      switch_step: how many steps the first phase has, at least 1.
      first: "rbd" or "sgd".
      dim, momentum, **basis: as for :class:`rbd_ipu.methods.RBD`. The second phase draws the bases
        that RBD would draw at its steps, as they count from the start of the run.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; here or, where it depends on the model, in ``build``.

    Example:
      >>> method = Switch(learning_rate=1.0, sgd_learning_rate=0.125, switch_step=500, dim=16)
      >>> [float(method.learning_rate(step)) for step in (499, 500)]
      [1.0, 0.125]
    """

    name = "switch"

    of_basis = BasisSpec.names()

    def __init__(
        self,
        learning_rate: float,
        sgd_learning_rate: float,
        switch_step: int,
        first: str = "rbd",
        dim: Optional[int] = None,
        momentum: float = 0.0,
        **basis: Any,
    ):
        if first not in ("rbd", "sgd"):
            raise ValueError(f"first must be 'rbd' or 'sgd', got {first!r}")
        checks.rate("sgd_learning_rate", sgd_learning_rate)
        rbd = RBD(checks.rate("learning_rate", learning_rate), dim, momentum, **basis)
        sgd = SGD(sgd_learning_rate, momentum)
        before, after = (rbd, sgd) if first == "rbd" else (sgd, rbd)
        super().__init__(before, after, switch_step)
        rates = {"learning_rate": learning_rate, "sgd_learning_rate": sgd_learning_rate}
        of_basis = {name: getattr(rbd.basis, name) for name in self.of_basis}
        self.chosen = {**of_basis, **rates, "first": first}
