"""The devices of this machine: its CPU, and a GPU."""

from typing import Any, Callable, List

from rbd_ipu._stack import tf
from rbd_ipu.exchange import Alone, Exchange
from rbd_ipu.loop import train_steps
from rbd_ipu.registry import Registry
from rbd_ipu.steps import Step

DEVICES = Registry("device")
DEVICES.register("cpu")("CPU")
DEVICES.register("gpu")("GPU")


class Device:
    """A device to build and train models on, and the strategy that runs things there.

    A context manager: what is built inside it has its variables on the device. The strategy is TensorFlow's
    default one, which takes models built elsewhere too (OneDeviceStrategy refuses those).

    Attributes:
      name: "cpu" or "gpu".
      strategy: a ``tf.distribute`` strategy.
      exchange: what the workers of this device tell each other.
    """

    exchange: Exchange = Alone()

    def __init__(self, name: str, place: str):
        self.name = name
        self.strategy = tf.distribute.get_strategy()
        self._place = place
        self._entered: List[Any] = []

    def __enter__(self) -> "Device":
        scope = tf.device(self._place)
        scope.__enter__()
        self._entered.append(scope)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.pop().__exit__(*exception)

    def iterate(self, dataset: Any) -> Any:
        """The iterator that the loop reads from."""
        return iter(dataset)

    def loop(self, step: Step) -> Callable[[Any, int, int], List[float]]:
        """``(iterator, n, done) -> sums``: runs n steps on the device; see :func:`rbd_ipu.loop.train_steps`."""
        compiled = train_steps(step)

        def run(iterator: Any, n: int, done: int) -> List[float]:
            # strategy.run wants a plain function around the compiled one.
            with self:
                sums = self.strategy.run(
                    lambda *arguments: compiled(*arguments), args=(iterator, tf.constant(n), tf.constant(done))
                )
            return [float(value) for value in sums]

        return run


def open_device(name: str = "cpu") -> Device:
    """The device called ``name``.

    Raises:
      ValueError: an unknown name.
      RuntimeError: TensorFlow sees no such device here; the message lists those it sees.

    Example:
      >>> import rbd_ipu
      >>> with rbd_ipu.open_device("cpu") as device:
      ...     print(device.strategy.num_replicas_in_sync)
      1
    """
    kind = DEVICES.get(name)
    if not tf.config.list_logical_devices(kind):
        present = ", ".join(sorted({d.device_type for d in tf.config.list_logical_devices()}))
        raise RuntimeError(f"TensorFlow sees no {kind} on this machine; it sees: {present}")
    return Device(name, f"/device:{kind}:0")
