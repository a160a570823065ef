"""What an exchange is, and the one of a worker on its own."""

from typing import Any

from rbd_ipu._stack import tf


class Exchange:
    """K workers telling each other what they found; all of it is called inside the traced step.

    Attributes:
      workers: K, an int.
    """

    workers = 1

    def worker(self) -> Any:
        """The index of this worker, 0 to K - 1: int32 scalar."""
        raise NotImplementedError

    def gather(self, message: Any) -> Any:
        """Every worker's message, in the order of the workers, the same everywhere: [m] -> [K, m]."""
        raise NotImplementedError

    def mean(self, vector: Any) -> Any:
        """The mean over the workers of a vector or scalar, the same everywhere."""
        raise NotImplementedError


class Alone(Exchange):
    """The exchange of one worker: the identity.

    Example:
      >>> Alone().gather(tf.constant([1.0, 2.0])).shape.as_list()
      [1, 2]
    """

    def worker(self) -> Any:
        return tf.constant(0)

    def gather(self, message: Any) -> Any:
        return message[tf.newaxis]

    def mean(self, vector: Any) -> Any:
        return vector
