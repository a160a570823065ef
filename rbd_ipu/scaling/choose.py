"""``exchange="auto"``: the cheaper of the two exchanges, as the model has it."""

from typing import Any, NamedTuple

from rbd_ipu.scaling.machine import HERE, Machine
from rbd_ipu.scaling.step import Work, step_time


class Choice(NamedTuple):
    """An exchange, and a sentence that says why."""

    exchange: str
    why: str


def choose(work: Work, machine: Machine = HERE) -> Choice:
    """The exchange with the shorter step; the same on all workers, because nothing is measured at run time.

    Example:
      >>> choose(Work(size=122570, dim=10000, workers=2)).exchange
      'update'
      >>> print(choose(Work(size=122570, dim=250, workers=2, structured=True)).why)
      exchange=coordinates: about ... ms a step are expected; with update ... ms
    """
    times = {name: step_time(work._replace(exchange=name), machine).total for name in ("coordinates", "update")}
    best = min(times, key=lambda name: times[name])
    other = "update" if best == "coordinates" else "coordinates"
    said = f"about {1e3 * times[best]:.2g} ms a step are expected; with {other} {1e3 * times[other]:.2g} ms"
    return Choice(best, f"exchange={best}: {said}")


def work_of(method: Any, workers: int, parallel: str) -> Work:
    """The :class:`Work` of a method that has been built."""
    subspace = getattr(method, "subspace", None)
    if subspace is None:
        return Work(method.size, None, workers, parallel)
    dim = method.dim * (workers if parallel == "split" else 1)
    return Work(method.size, dim, workers, parallel, structured=subspace.distribution == "hadamard")
