"""A model of the time that a step of K workers takes, behind ``exchange="auto"``.

A step takes compute + drawing of bases + exchange. Pure functions of what a machine and its network can do, as
measured; bytes are those of the collectives that move the least.

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

``exchange="auto"`` is the cheaper of the two exchanges, as the model has it; it also says from how many workers on
random bases are faster than data-parallel SGD.
"""

import math
from typing import Any, Dict, NamedTuple, Optional

from rbd_ipu.parallel.workers import Groups, tree


class Machine(NamedTuple):
    """Rates of one worker and of the network between workers.

    Attributes:
      compute: seconds of a step without directions: batch, network, gradient, weights.
      rate: entries of dense directions that are drawn and used in a second, in a pass that projects and expands.
      transform: seconds of a Walsh-Hadamard transform, for each of its n log2 n operations.
      bandwidth: bytes a second that a worker can send while it receives as many, copies included.
      latency: seconds that a message of no length takes, software included.
      project, expand: what a pass that does only one of them takes, beside one that does both, as most of it is to
        draw: as `benchmarks/passes.py` measures it.
    """

    compute: float
    rate: float
    transform: float
    bandwidth: float
    latency: float
    project: float = 0.76
    expand: float = 0.93


#: One of two ranks with a core each of a 2-core CPU, CIFAR-10 CNN at batch 32, MPI through shared memory: from
#: results/workers, measured by `rbd-ipu bench --workers`. The latency has the wait for the slower rank in it.
HERE = Machine(compute=5.9e-3, rate=3.4e9, transform=3.7e-10, bandwidth=9.0e8, latency=2.8e-4)


def gathered(size: float, workers: int) -> float:
    """Ring all-gather of ``size`` bytes from each: K - 1 of the K messages pass through every worker.

    Example:
      >>> gathered(1000, 4)
      3000.0
    """
    return float(size * (workers - 1))


def reduced(size: float, workers: int) -> float:
    """Ring all-reduce of a vector of ``size`` bytes: 2 (K - 1) / K of it.

    Example:
      >>> reduced(1000, 4)
      1500.0
    """
    return 2.0 * size * (workers - 1) / workers


class Traffic(NamedTuple):
    """Bytes of a step that a worker sends, and that it receives."""

    sent: float
    received: float


def traffic(size: float, workers: int, groups: Groups, worker: int) -> Traffic:
    """What a worker sends and receives where leaders of groups pass on messages of ``size`` bytes.

    A worker sends its message to its leader. A leader receives G - 1 at each of its levels, and passes on one; the
    R = K / G^L last ones tell each other theirs. These R come back through a binomial tree over G^L workers.

    Example:
      >>> traffic(10, 64, Groups(4, 3), 0), traffic(10, 64, Groups(4, 3), 63)
      (Traffic(sent=60.0, received=90.0), Traffic(sent=10.0, received=10.0))
      >>> traffic(10, 64, Groups(), 5)
      Traffic(sent=630.0, received=630.0)
    """
    leads, last = groups.leads(worker), groups.messages(workers)
    parent, children = tree(worker % groups.together, groups.together)
    sent, received = len(children) * last, leads * (groups.size - 1)
    sent += last - 1 if parent is None else 1
    received += last - 1 if parent is None else last
    return Traffic(float(size * sent), float(size * received))


def groups_time(size: float, workers: int, groups: Groups, bandwidth: float, latency: float) -> float:
    """Seconds until all workers have what the last leaders pass on, without the arithmetic of leaders::

        L (G - 1) S / b  +  (R - 1) S / b  +  R S / b log2 G^L  +  latency (L + log2 R + log2 G^L)

    up, among the last leaders, and down the tree; S is ``size``, the bytes of a message, and b the bandwidth.

    Example:
      >>> groups_time(10, 64, Groups(), 10.0, 0.0), groups_time(10, 64, Groups(4, 3), 10.0, 0.0)
      (63.0, 15.0)
    """
    last, depth = groups.messages(workers), math.ceil(math.log2(groups.together))
    climbed = groups.levels if groups.size > 1 else 0
    messages = climbed * (groups.size - 1) + (last - 1) + last * depth
    hops = climbed + math.ceil(math.log2(last)) + depth
    return messages * size / bandwidth + hops * latency


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


def throughput(work: Work, machine: Machine, batch_size: int, tree: bool = False) -> float:
    """Images a second of all workers."""
    return work.workers * batch_size / step_time(work, machine, tree).total


def least_bandwidth(work: Work, machine: Machine, tree: bool = False) -> float:
    """The bandwidth, bytes a second, from which on plain SGD has the shorter step; below it the method has.

    Infinite where the method is the faster one at every bandwidth, 0 where it never is.

    With S the bytes, t the seconds without them::

        t_rbd + S_rbd / b = t_sgd + S_sgd / b   <=>   b = (S_sgd - S_rbd) / (t_rbd - t_sgd)
    """
    endless = machine._replace(bandwidth=math.inf)
    sgd = work._replace(dim=None)
    more_time = step_time(work, endless, tree).total - step_time(sgd, endless, tree).total
    fewer_bytes = sent(sgd) - sent(work)
    if more_time <= 0:
        return math.inf if fewer_bytes >= 0 else 0.0
    return max(0.0, fewer_bytes / more_time)


def contenders(size: int, dim: int, workers: int) -> Dict[str, Work]:
    """The ways to train that are compared, by name."""
    return {
        "SGD": Work(size, None, workers),
        "RBD own": Work(size, dim, workers),
        "RBD shared": Work(size, dim, workers, "shared"),
        "RBD split": Work(size, dim, workers, "split"),
        "RBD update": Work(size, dim, workers, exchange="update"),
        "RBD hadamard": Work(size, dim, workers, structured=True),
        "RBD hadamard shared": Work(size, dim, workers, "shared", structured=True),
    }


def fastest(size: int, dim: int, workers: int, machine: Machine, tree: bool = False) -> str:
    """The name of the contender with the shortest step."""
    times = {name: step_time(work, machine, tree).total for name, work in contenders(size, dim, workers).items()}
    return min(times, key=lambda name: times[name])
