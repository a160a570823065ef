"""The time of a step of K workers: compute + drawing of bases + exchange.

With b(d) the time of one pass over a basis of d directions in R^D that projects and expands, p b(d) that of one that
only projects (message), and e b(d) of one that only expands (a basis of another worker, or drawn again):

    ============  ===========  ======================================  ==================
    parallel      exchange     drawing of bases                        bytes that are sent
    ============  ===========  ======================================  ==================
    own           coordinates  (p + K e) b(d)                          gather of 4 d
    own           update       b(d)                                    reduce of 4 D
    same-data     as own
    shared        coordinates  (p + e) b(d)                            gather of 4 d
    shared        update       b(d)                                    reduce of 4 D
    split         coordinates  (p + K e) b(d/K)                        gather of 4 d / K
    split         update       b(d/K)                                  reduce of 4 D
    SGD           update       none                                    reduce of 4 D
    ============  ===========  ======================================  ==================

b(d) = d D / rate where directions are drawn entry by entry. Hadamard directions take n log2 n operations with n the
power of two from D on, whatever d is; as all workers' are rows of one matrix, a second pass applies those of all, so
that every mode takes (p + e) of them.
"""

import math
from typing import NamedTuple, Optional

from rbd_ipu.scaling.machine import Machine
from rbd_ipu.scaling.volume import gathered, reduced


class Work(NamedTuple):
    """What is trained, and how.

    Attributes:
      size: D.
      dim: d, of all workers together where they split one basis; None: plain SGD.
      workers: K.
      parallel, exchange: of a Plan, the exchange settled.
      structured: whether directions are made by a transform (hadamard) and not entry by entry.
      wire_bits: of a coordinate on the wire.
    """

    size: int
    dim: Optional[int]
    workers: int
    parallel: str = "own"
    exchange: str = "coordinates"
    structured: bool = False
    wire_bits: int = 32


class Time(NamedTuple):
    """Seconds of a step, in parts."""

    compute: float
    bases: float
    exchange: float

    @property
    def total(self) -> float:
        return self.compute + self.bases + self.exchange


def pass_time(work: Work, machine: Machine, dim: float) -> float:
    """b(d): seconds for one basis of ``dim`` directions, drawn once to project and to expand.

    Example:
      >>> m = Machine(compute=0.0, rate=1e9, transform=1e-9, bandwidth=1e9, latency=0.0)
      >>> pass_time(Work(size=1000, dim=10, workers=1), m, 10)
      1e-05
    """
    if work.structured:
        n = 2.0 ** math.ceil(math.log2(work.size))
        return n * math.log2(n) * machine.transform
    return dim * work.size / machine.rate


def bases_time(work: Work, machine: Machine) -> float:
    """Seconds that a worker spends on bases in a step."""
    if work.dim is None:
        return 0.0
    dim = work.dim / work.workers if work.parallel == "split" else work.dim
    one = pass_time(work, machine, dim)
    if work.workers == 1 or work.exchange == "update":
        return one
    expanded = 1 if work.parallel == "shared" or work.structured else work.workers
    return one * (machine.project + machine.expand * expanded)


def sent(work: Work) -> float:
    """Bytes that a worker sends in a step."""
    if work.workers == 1:
        return 0.0
    if work.dim is None or work.exchange == "update":
        return reduced(4 * work.size, work.workers)
    dim = work.dim / work.workers if work.parallel == "split" else work.dim
    return gathered(dim * work.wire_bits / 8, work.workers)


def exchange_time(work: Work, machine: Machine, tree: bool = False) -> float:
    """Seconds of the exchange: bytes / bandwidth + latency * hops.

    A ring has K - 1 hops for a gather and 2 (K - 1) for a reduction; a tree log2 K and 2 log2 K, for the same bytes.
    """
    if work.workers == 1:
        return 0.0
    hops = math.ceil(math.log2(work.workers)) if tree else work.workers - 1
    if work.dim is None or work.exchange == "update":
        hops *= 2
    return hops * machine.latency + sent(work) / machine.bandwidth


def step_time(work: Work, machine: Machine, tree: bool = False) -> Time:
    """The model.

    Example:
      >>> m = Machine(compute=0.5, rate=1e6, transform=1e-9, bandwidth=1e6, latency=0.0, project=0.5, expand=1.0)
      >>> step_time(Work(size=1000, dim=250, workers=3), m)
      Time(compute=0.5, bases=0.875, exchange=0.002)
    """
    return Time(machine.compute, bases_time(work, machine), exchange_time(work, machine, tree))
