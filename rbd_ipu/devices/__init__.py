"""Devices: contexts that hold a tf.distribute strategy. A registry row each."""

from rbd_ipu.devices.local import Device, open_device

__all__ = ["Device", "open_device"]
