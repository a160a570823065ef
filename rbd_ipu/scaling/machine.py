"""What a machine and its network can do, as measured; the parameters of the model."""

from typing import NamedTuple


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


#: One of two workers with two cores each of a 4-core CPU, CIFAR-10 CNN at batch 32, over the loopback interface:
#: from results/workers, measured by `rbd-ipu bench --workers` on a machine without other work.
HERE = Machine(compute=4.0e-3, rate=6.6e9, transform=5.0e-10, bandwidth=4.5e8, latency=2e-4)
