"""Infeeds and outfeeds: what the host gives to a program, and what it gets from it."""

import contextlib
import itertools
import os

import numpy as np
from tensorflow.python.data.ops import dataset_ops, iterator_ops

from rbd_ipu._compat import tf
from rbd_ipu.devices.ipu import options
from standin import machine

_numbers = itertools.count()
TYPES = (tf.int32, tf.int64, tf.float32, tf.float16, tf.bool, tf.int8, tf.uint8)


class IPUOwnedIterator(iterator_ops.OwnedIterator):
    """``iter(dataset)`` in the scope of a strategy: element i R + r is the i-th of replica r."""

    def __init__(self, dataset=None, infeed_spec=None, element_spec=None, **kwargs):
        for spec in tf.nest.flatten(dataset.element_spec):
            if not spec.shape.is_fully_defined():
                raise ValueError(f"an infeed needs static shapes, got {spec.shape}: batch with drop_remainder=True")
            if spec.dtype not in TYPES:
                raise TypeError(f"an infeed cannot be of type {spec.dtype.name}")
        replicas = machine.present().replicas
        super().__init__(dataset if replicas == 1 else dataset.shard(replicas, 0))
        self._others = [iterator_ops.OwnedIterator(dataset.shard(replicas, r)) for r in range(1, replicas)]

    def __next__(self):
        program = machine.present().tracing
        if program is None:
            raise RuntimeError("the next element of an infeed is known on the device only")
        program.differs(self._iterator_resource, lambda r: self._others[r - 1]._iterator_resource)
        return super()._next_internal()

    get_next = next = __next__


IPUOwnedIterator.__module__ = "tensorflow.python.ipu.ipu_infeed_queue"


@contextlib.contextmanager
def patched_datasets():
    """``iter(dataset)`` as the fork has it."""
    original = dataset_ops.DatasetV2.__iter__

    def patched(self):
        if type(tf.distribute.get_strategy()).__module__.startswith("tensorflow.python.ipu"):
            return IPUOwnedIterator(self)
        return original(self)

    dataset_ops.DatasetV2.__iter__ = patched
    try:
        yield
    finally:
        dataset_ops.DatasetV2.__iter__ = original


class IPUOutfeedQueue:
    """What a program tells the host: one enqueue in a program, as often as it runs."""

    def __init__(self, outfeed_mode=None, device_ordinal=None, buffer_depth=3, optimise_latency=False):
        assert outfeed_mode is None, "only IPUOutfeedMode.ALL is played"
        self._queues = self._program = self._structure = None
        self.name = f"outfeed_{next(_numbers)}"

    def enqueue(self, tensors):
        program = machine.present().tracing
        if program is None:
            raise RuntimeError("an outfeed is enqueued on the device only")
        if self._program not in (None, program):
            raise ValueError(f"an outfeed can only be enqueued once, {self.name} is that of another program")
        self._program = program
        flat = [tf.convert_to_tensor(x) for x in tf.nest.flatten(tensors)]
        for x in flat:
            if x.dtype not in TYPES:
                raise TypeError(f"an outfeed cannot be of type {x.dtype.name}")
            if not x.shape.is_fully_defined():
                raise ValueError(f"an outfeed needs static shapes, got {x.shape}")
        kinds, shapes = [x.dtype for x in flat], [x.shape for x in flat]
        if self._queues is None:  # TensorFlow may trace a loop twice, and keep one of the traces
            with tf.init_scope():
                self._queues = [tf.queue.FIFOQueue(-1, kinds, shapes) for _ in range(machine.present().replicas)]
            self._structure = tf.nest.map_structure(lambda _: 0, tensors)
            program.differs(self._queues[0].queue_ref, lambda r: self._queues[r].queue_ref)
        return self._queues[0].enqueue(flat, name=self.name)

    def dequeue(self, wait_for_completion=False):
        if self._queues is None:
            raise ValueError("an outfeed must be enqueued before it is dequeued")
        replicas = []
        if machine.present().compiles_only:
            lead = [1] if len(self._queues) == 1 else [1, len(self._queues)]
            kinds = zip(self._queues[0].dtypes, self._queues[0].shapes)
            zeros = [tf.zeros([*lead, *shape], kind) for kind, shape in kinds]
            return tf.nest.pack_sequence_as(self._structure, zeros)
        if options.is_set("use_synthetic_data", os.environ):  # nothing is transferred
            return tf.nest.map_structure(lambda _: tf.zeros([0]), self._structure)
        for queue in self._queues:
            rows = [queue.dequeue() for _ in range(int(queue.size()))]
            rows = [row if isinstance(row, list) else [row] for row in rows]
            replicas.append([np.stack(column) for column in zip(*(map(np.asarray, row) for row in rows))])
        columns = [np.stack(parts, axis=1) if len(parts) > 1 else parts[0] for parts in zip(*replicas)]
        return tf.nest.pack_sequence_as(self._structure, [tf.constant(column) for column in columns])


IPUOutfeedQueue.__module__ = "tensorflow.python.ipu.ipu_outfeed_queue"
