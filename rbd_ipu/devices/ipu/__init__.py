"""IPUs as devices: the training loop as one compiled program, fed and read by queues.

================  ==============================================================================================
options.py        options of ``IPUConfig`` and flags of ``TF_POPLAR_FLAGS``, held against the record of the SDK
description.py    a YAML file -> a checked Description
ipu_config.py     a Description -> an ``IPUConfig``, and as ``rbd-ipu devices check`` prints it
popdist.py        processes that poprun has started
device.py         what ``rbd_ipu.open_device("ipu_configs/pod16.yaml")`` gives; it imports Graphcore's TensorFlow
program.py        the programs: n steps of training, fed by a stream of batches; a validation; the integer hash as an
                  operation of the device, whose C++ is in codelets/
lint/             the operations of the programs, held against the record
sdk_record/       what is known about Graphcore's TensorFlow without having it
================  ==============================================================================================

The programs need nothing of the SDK to be traced: on stock TensorFlow 2.6 they are what ``rbd-ipu devices lint``
holds against the recorded operations. Importing this package imports none of its modules, and no TensorFlow.
"""
