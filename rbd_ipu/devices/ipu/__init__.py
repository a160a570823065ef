"""IPUs as devices: the training loop as one compiled program, fed and read by queues.

===============  ==================================================================================
sdk.py           Graphcore's TensorFlow, imported when an IPU is opened and not before
device.py        what ``rbd_ipu.open_device("ipu_configs/pod16.yaml")`` gives
loop.py          the programs: n steps of training; batches of a validation
infeed.py        the stream of batches that a program reads, dealt out to its replicas
codelet.py       the integer hash as an operation of the device; its C++ is in codelets/
evaluation.py    a validation on the device, whatever the number of images
fingerprint.py   a few bits of all weights, by which replicas are compared
===============  ==================================================================================

The programs in ``loop.py`` need nothing of the SDK to be traced: on stock TensorFlow 2.6 they are what
``rbd-ipu devices lint`` holds against the recorded operations.
"""

from rbd_ipu.devices.ipu.device import IPUDevice, ReplicaError

__all__ = ["IPUDevice", "ReplicaError"]
