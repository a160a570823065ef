"""Updates that went through the projection, and the rule that nothing else changes a weight.

From a gradient to a weight Keras knows many ways, and wrappers and subclasses add others. So an update is marked
where it comes out of the projection, with its optimizer and its variable; where a weight is about to change, the mark
is looked for. An update without it, with that of another variable, or one that was used before is refused: what was
computed from it is no longer known to lie in the subspace.
"""

import threading
import weakref
from typing import Any, Iterable, List, Sequence, Tuple

from rbd_ipu._stack import tensors, tf
from rbd_ipu.place import on_ipu

Pairs = List[Tuple[Any, Any]]

_MARK = "_rbd_ipu_projected"
_here = threading.local()  # each replica has its thread


class _Mark:
    """Of whose and of which variable an update is, and whether it was used."""

    def __init__(self, owner: Any, variable: Any):
        self.owner, self.variable, self.used = weakref.ref(owner), _key(variable), False

    def fits(self, owner: Any, variable: Any) -> bool:
        return self.owner() is owner and self.variable == _key(variable) and not self.used


def mark(owner: Any, updates: Iterable[Any], variables: Iterable[Any]) -> Pairs:
    """(update, variable) pairs, marked as projected by this optimizer."""
    pairs = list(zip(updates, variables))
    for update, variable in pairs:
        setattr(update, _MARK, _Mark(owner, variable))
    _here.count = count() + 1
    return pairs


def count() -> int:
    """How many projections there were in this thread."""
    return getattr(_here, "count", 0)


def are_marked(owner: Any, pairs: Sequence[Tuple[Any, Any]]) -> bool:
    """Whether all of these updates are as they came out of the projection, and not used yet."""
    return all(_fits(owner, update, variable) for update, variable in pairs)


def check(owner: Any, pairs: Iterable[Tuple[Any, Any]], distribution: Any = None) -> None:
    """Refuses pairs of which one is not as it came out of the projection; no weight has changed then.

    Args:
      owner: the optimizer.
      pairs: of tensors, or of the values of all replicas.
      distribution: the strategy, where values of replicas may be among them.

    Raises:
      ValueError: it names the variable.
    """
    for update, variable in pairs:
        parts = [update] if distribution is None else distribution.experimental_local_results(update)
        if not all(_fits(owner, part, variable) for part in parts):
            raise ValueError(refusal(owner, f"what came for {variable.name!r} is not what it projected"))


def use(owner: Any, update: Any, variable: Any) -> None:
    """Takes the mark off an update that is about to change its variable.

    Raises:
      ValueError: there is none.
    """
    check(owner, [(update, variable)])
    getattr(update, _MARK).used = True


def refusal(owner: Any, why: str) -> str:
    """The words of an error for what would leave the subspace."""
    accumulates = (
        "; gradients accumulate on an IPU with set_gradient_accumulation_options(..., "
        "use_v2_gradient_accumulation_optimizer=False), which applies their sum at once"
    )
    return (
        f"{type(owner).__name__} moves weights within its subspace only, and {why}: this would train without a "
        "subspace. It takes the gradients of all variables at once (apply_gradients, or fit) and projects them "
        "itself; a wrapper or subclass may change gradients before that, but not what comes after"
        f"{accumulates if on_ipu() else ''}"
    )


def refuse_overrides(owner: Any, base: type, names: Sequence[str]) -> None:
    """Refuses an optimizer that has its own version of a method that changes weights.

    Raises:
      TypeError: it names the method.
    """
    for name in names:
        if getattr(getattr(owner, name), "__func__", None) is not getattr(base, name):
            raise TypeError(refusal(owner, f"its {name} has been replaced"))


def _fits(owner: Any, update: Any, variable: Any) -> bool:
    known = getattr(update, _MARK, None)
    return known is not None and known.fits(owner, variable)


def _key(variable: Any) -> Any:
    """One key for a variable and for its copies on replicas, as the optimizers of both Keras have it."""
    variable = tensors([variable])[0]
    if not isinstance(variable, tf.distribute.DistributedValues):
        holder: Any = variable if hasattr(variable, "_distributed_container") else getattr(variable, "handle", None)
        if hasattr(holder, "_distributed_container"):
            variable = holder._distributed_container() or variable
    return variable._shared_name if getattr(variable, "_in_graph_mode", False) else variable._unique_id
