"""What a machine and its network can do, as measured; the parameters of the model."""

from typing import NamedTuple


class Machine(NamedTuple):
    """Rates of one worker and of the network between workers.

    Attributes:
      compute: seconds of a step without directions: batch, network, gradient, weights.
      rate: entries of dense directions that are drawn and used in a second.
      transform: seconds of a Walsh-Hadamard transform, for each of its n log2 n operations.
      bandwidth: bytes a second that a worker can send while it receives as many.
      latency: seconds that a message of no length takes, software included.
    """

    compute: float
    rate: float
    transform: float
    bandwidth: float
    latency: float


#: One of two workers with two cores each of a 4-core CPU, CIFAR-10 CNN at batch 32, over the loopback interface:
#: from `rbd-ipu bench --workers` on a machine that was busy with other work, so good to a factor of two at best.
HERE = Machine(compute=7.3e-3, rate=3.2e9, transform=4.3e-10, bandwidth=1.2e9, latency=2e-4)
