"""The devices of this machine: its CPU, and a GPU."""

from typing import Any, List

from rbd_ipu._stack import tf
from rbd_ipu.registry import Registry

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
    """

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
