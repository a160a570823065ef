"""The ceiling: how many random numbers a second this machine can draw and use when nothing else is to be done.

A step with dense directions draws d D numbers, takes their dot products with the gradient and adds them up into the
update. The ceiling of a distribution is the speed of exactly that, :meth:`rbd_ipu.RandomBasis.sketch`, without a
network around it, for the fastest source there is, in its fastest round.
"""

import time
from typing import Dict, Iterable, List, NamedTuple

import numpy as np

from rbd_ipu.bench.cases import Case
from rbd_ipu.bench.runners import Runner

# Random numbers of one sketch: enough to make all overheads small.
SAMPLES = 2.5e8


class Kernel(NamedTuple):
    """A sketch to time alone: who draws what, and D."""

    distribution: str
    source: str
    size: int

    def __str__(self) -> str:
        return f"the ceiling of {self.distribution}, {self.source}, D={self.size:,}"


class Sketch(Runner):
    """Sketches of random vectors, with new directions each time."""

    def __init__(self, kernel: Kernel, samples: float = SAMPLES):
        from rbd_ipu._stack import tf
        from rbd_ipu.basis import RandomBasis

        self.parameters = kernel.size
        self.dim = max(1, round(samples / kernel.size))
        self.samples = self.dim * kernel.size
        self._basis = RandomBasis(kernel.size, self.dim, kernel.distribution, source=kernel.source)
        self._vector = tf.constant(np.random.default_rng(0).normal(size=kernel.size).astype(np.float32))
        self._next = 0

    def run(self, steps: int) -> float:
        from rbd_ipu._stack import tf

        seeds = [tf.constant([self._next + i, 0]) for i in range(steps)]
        self._next += steps
        started = time.perf_counter()
        for seed in seeds:
            self._basis.sketch(self._vector, seed)[1].numpy()  # waits until it is there
        return time.perf_counter() - started


def kernels(cases: Iterable[Case], runners: Dict[Case, Runner]) -> List[Kernel]:
    """What has to be timed for these cases: their own kernels, and ``native`` wherever it can run."""
    from rbd_ipu.directions import native

    wanted = []
    for case in cases:
        if runners[case].samples:
            sources = [str(case.source), *(["native"] if native.available() else [])]
            wanted += [Kernel(str(case.distribution), source, runners[case].parameters) for source in sources]
    return list(dict.fromkeys(wanted))


def threads() -> int:
    """How many threads the sources may use."""
    from rbd_ipu._stack import tf
    from rbd_ipu.directions import native
    from rbd_ipu.records.provenance import machine

    if native.available():
        from rbd_ipu.directions.native.threads import thread_count

        return thread_count()
    return tf.config.threading.get_intra_op_parallelism_threads() or machine()["usable_cores"]
