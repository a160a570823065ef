"""Collectives: replicas send to each other through queues, which wait without holding a thread of TensorFlow's."""

import ctypes
import os

from rbd_ipu._compat import tf
from standin import machine

TYPES = (tf.int32, tf.float32, tf.float16)


def replication_index(name=None):
    return tf.identity(_tracing().index)


def all_gather(x, replication_factor, name=None):
    replicas = machine.present().replicas
    if replication_factor != replicas:
        raise ValueError(f"all_gather over {replication_factor} replicas, but there are {replicas}")
    return _exchange(x)


def cross_replica_sum(x, replica_group_size=None, name=None):
    assert replica_group_size is None, "groups are not played"
    return tf.reduce_sum(_exchange(x), axis=0)


def cross_replica_mean(x, replica_group_size=None, name=None):
    assert replica_group_size is None, "groups are not played"
    return tf.reduce_sum(_exchange(x), axis=0) / machine.present().replicas


def _tracing():
    program = machine.present().tracing
    if program is None:
        raise RuntimeError("an operation of the IPU outside a program")
    return program


def _exchange(x):
    """Every replica's x, in the order of the replicas: [...] -> [R, ...]."""
    x = tf.convert_to_tensor(x)
    program, replicas = _tracing(), machine.present().replicas
    if x.dtype not in TYPES:
        raise TypeError(f"IPU collectives take int32, float and half, got {x.dtype.name}")
    if not x.shape.is_fully_defined():
        raise ValueError(f"IPU collectives need static shapes, got {x.shape}")
    if replicas == 1:
        return x[tf.newaxis]
    # queues[a][b]: from replica a to replica b. Replica r meets r + o for o = 1 ... R - 1; the trace is replica 0's.
    with tf.init_scope():
        queues = [[tf.queue.FIFOQueue(4, [x.dtype], [x.shape]) for _ in range(replicas)] for _ in range(replicas)]
    program.collectives += [queue for row in queues for queue in row]
    for o in range(1, replicas):
        program.differs(queues[0][o].queue_ref, lambda r, o=o: queues[r][(r + o) % replicas].queue_ref)
        program.differs(queues[o][0].queue_ref, lambda r, o=o: queues[(r + o) % replicas][r].queue_ref)
    sent = [queues[0][o].enqueue(x) for o in range(1, replicas)]
    with tf.control_dependencies(sent):
        by_distance = [tf.identity(x)] + [queues[o][0].dequeue() for o in range(1, replicas)]
    # What came from distance o is that of replica r + o.
    return tf.roll(tf.stack(by_distance), program.index, axis=0)


def precompiled_user_op(
    inputs,
    library_path,
    gp_path="",
    outs=None,
    name="UserOp",
    op_name="Build",
    separate_gradients=False,
    inputs_with_gradients=None,
    attributes=None,
    gradient_attributes=None,
):
    """The operations of the package's own codelet, by TensorFlow's; what it is compiled to must be there."""
    from rbd_ipu.directions.stream import schedule, word_at
    from rbd_ipu.seeds import fold_in

    _tracing()
    symbol = ctypes.CDLL(library_path)
    assert getattr(symbol, op_name) and getattr(symbol, f"{op_name}_metadata")
    assert ctypes.c_int32.in_dll(symbol, "custom_op_api_level").value == 5
    assert os.path.isfile(gp_path)
    heads, tail = inputs
    assert heads.dtype == tail.dtype == tf.int32 and heads.shape.rank == 2 and tail.shape.rank == 1
    words = op_name == "Words"
    found = word_at(heads, tail) if words else schedule(fold_in(heads[:, tf.newaxis, :], tail))
    assert outs == {"output_types": [found.dtype], "output_shapes": [found.shape]}, (op_name, outs)
    return [found]
