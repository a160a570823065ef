"""What a program meets at its edges, where there is no SDK: batches for its infeed, a sink for its outfeed, replicas.

Each is made of operations that any TensorFlow has, and stands for one of Graphcore's, whose name and types are noted
to be held against the table of kernels like all others.
"""

import types
from typing import Any, List, Sequence

from rbd_ipu.devices.lint.ops import Operation, type_name


class Batches:
    """An iterator whose batches are tensors of the program, for ``next(iterator)``; it never ends.

    A batch comes in its types where it is asked for, as from a dequeue: in a branch of the program it is not an
    argument of the branch.

    Args:
      batch: tensors.
      types: what each is cast to.
    """

    def __init__(self, batch: Any, types: Sequence[Any], noted: List[Operation]):
        self._batch = batch
        self._types = types
        self._noted = noted

    def __next__(self) -> Any:
        from rbd_ipu._stack import tf

        kinds = tuple(type_name(kind) for kind in self._types)
        self._noted.append(Operation("PopDatastreamInfeedDequeue", {"output_types": kinds}, kinds))
        return tuple(tf.identity(tf.cast(tensor, kind)) for tensor, kind in zip(self._batch, self._types))


class Sink:
    """Takes what a program enqueues, and adds it up in a variable, so that all that leads to it is needed.

    To be made before the program is traced.
    """

    def __init__(self, noted: List[Operation]):
        from rbd_ipu._stack import tf

        self._noted = noted
        self._sums = {dtype: tf.Variable(tf.zeros([], dtype), trainable=False) for dtype in (tf.float32, tf.int32)}

    def enqueue(self, told: Any) -> None:
        """Stands for ``IPUOutfeedQueue.enqueue``."""
        from rbd_ipu._stack import tf

        tensors = tf.nest.flatten(told)
        kinds = tuple(type_name(tensor.dtype) for tensor in tensors)
        self._noted.append(Operation("PopDatastreamOutfeedEnqueue", {"output_types": kinds}, ()))
        for tensor in tensors:
            self._sums[tensor.dtype].assign_add(tf.reduce_sum(tensor))


def collectives(noted: List[Operation]) -> Any:
    """As much of ``tensorflow.python.ipu`` as :class:`rbd_ipu.exchange.replicas.Replicas` calls: R equal replicas."""
    from rbd_ipu._stack import tf

    def replication_index() -> Any:
        noted.append(Operation("ReplicationIndex", {}, ("int32",)))
        return tf.identity(tf.constant(1))

    def all_gather(x: Any, replication_factor: int) -> Any:
        noted.append(Operation("IpuAllGather", {"dtype": (type_name(x.dtype),)}, (type_name(x.dtype),)))
        return tf.stack([x] * replication_factor)

    def cross_replica_mean(x: Any) -> Any:
        noted.append(Operation("IpuCrossReplicaMean", {"dtype": (type_name(x.dtype),)}, (type_name(x.dtype),)))
        return tf.identity(x)

    return types.SimpleNamespace(
        replication_ops=types.SimpleNamespace(replication_index=replication_index),
        all_to_all_op=types.SimpleNamespace(all_gather=all_gather),
        cross_replica_ops=types.SimpleNamespace(cross_replica_mean=cross_replica_mean),
    )


class Hashing:
    """Stands for :class:`rbd_ipu.devices.ipu.codelet.Hash`: the same words, by TensorFlow's operations."""

    def __init__(self, noted: List[Operation]):
        self._noted = noted

    def words(self, pairs: Any, places: Any) -> Any:
        """Stands for the operation ``Words``."""
        from rbd_ipu.directions.hashing import word_at

        self._note()
        return word_at(pairs, places)

    def keys(self, seeds: Any, parts: Any) -> Any:
        """Stands for the operation ``Keys``."""
        from rbd_ipu._stack import tf
        from rbd_ipu.directions.hashing import schedule
        from rbd_ipu.seeds import fold_in

        self._note()
        return schedule(fold_in(seeds[..., tf.newaxis, :], parts))

    def _note(self) -> None:
        types = {"input_types": ("int32", "int32"), "output_types": ("int32",)}
        self._noted.append(Operation("IpuUserOp", types, ("int32",)))
