"""What a machine and its network can do, as measured; the parameters of the model."""

from typing import NamedTuple


class Machine(NamedTuple):
    """Rates of one worker and of the network between workers.

    Attributes:
      compute: seconds of a step without directions: batch, network, gradient, weights.
      rate: entries of dense directions that are drawn and used in a second.
      transform: seconds of a Walsh-Hadamard transform, for each of its n log2 n operations.
      bandwidth: bytes a second that a worker can send while it receives as many, copies included.
      latency: seconds that a message of no length takes, software included.
    """

    compute: float
    rate: float
    transform: float
    bandwidth: float
    latency: float


#: One of two workers with two cores each of a 4-core CPU, CIFAR-10 CNN at batch 32, over the loopback interface:
#: from results/workers, measured by `rbd-ipu bench --workers` on a machine without other work.
HERE = Machine(compute=3.6e-3, rate=6.6e9, transform=4.4e-10, bandwidth=5e8, latency=2e-4)
