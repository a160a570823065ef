"""The exchange between K workers: alone, simulated, replicas of a strategy, TensorFlow's collectives, MPI.

A meter says how long the exchanges of a worker took, and how many bytes it sent for them. The exchange of K workers
that one process plays in turn is the reference for real ones.
"""

import functools
import itertools
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import checks
from rbd_ipu._compat import program, tf
from rbd_ipu.errors import WorkersError
from rbd_ipu.parallel.cost_model import gathered, reduced, traffic
from rbd_ipu.parallel.plan import Plan, shard_of
from rbd_ipu.parallel.ranks import Ranks
from rbd_ipu.parallel.workers import Groups

Volume = Callable[
    [float, int], float
]  # of rbd_ipu.parallel.cost_model: (bytes of a message, K) -> bytes that a worker sends
#: (messages of a group [G, m], level, index of the leader among those of its level) -> its message [m]
PassOn = Callable[[Any, int, Any], Any]


class Meter:
    """Adds up the exchanges of this process; :meth:`read` gives means a step and begins anew.

    Seconds are those from the moment when a worker has its message to the moment when it has all: waiting for slower
    workers is part of them. Bytes are counted, not measured: what a worker has to send so that all have all messages
    (K - 1 of them pass through each) or their sum (2 (K - 1) / K of one). Headers come on top.

    Args:
      workers: K.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._seconds, self._bytes, self._count = 0.0, 0.0, 0

    def timed(self, exchange: Callable[[Any], Any], message: Any, volume: Optional[Volume]) -> Any:
        """``exchange(message)``, on the host, with its time and its bytes added up.

        Without a volume it is a part of an exchange, of which another part counts the bytes.
        """
        began = time.perf_counter()
        result = exchange(message)
        self._seconds += time.perf_counter() - began
        if volume is not None:
            self._bytes += volume(message.nbytes, self.workers)
            self._count += 1
        return result

    def start(self) -> None:
        """Leaves out what has been sent and waited for until now."""
        self._seconds, self._bytes, self._count = 0.0, 0.0, 0

    def read(self) -> Dict[str, float]:
        """``exchange_seconds`` and ``exchange_bytes``, those sent by this worker, both a step."""
        seconds, sent, count = self._totals()
        if count == 0:
            return {}
        self.start()
        return {"exchange_seconds": seconds / count, "exchange_bytes": sent / count}

    def _totals(self) -> Tuple[float, float, int]:
        return self._seconds, self._bytes, self._count


class GraphMeter(Meter):
    """The same for exchanges that are operations of a graph."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        with tf.device("/CPU:0"):
            self._time, self._sent = (tf.Variable(0.0, dtype=tf.float64, trainable=False) for _ in range(2))
            self._times = tf.Variable(0, dtype=tf.int64, trainable=False)

    def timed(self, exchange: Callable[[Any], Any], message: Any, volume: Optional[Volume]) -> Any:
        """``exchange(message)``, in a traced function, with its time and its bytes added up."""
        assert volume is not None, "exchanges of a graph have one part"
        with tf.control_dependencies([message]):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            result = exchange(tf.identity(message))
        with tf.control_dependencies([result]):
            took = tf.timestamp() - began
        self._time.assign_add(took)
        self._sent.assign_add(volume(message.shape.num_elements() * message.dtype.size, self.workers))
        self._times.assign_add(1)
        return result

    def start(self) -> None:
        for variable in (self._time, self._sent, self._times):
            variable.assign(tf.zeros_like(variable))

    def _totals(self) -> Tuple[float, float, int]:
        return float(self._time), float(self._sent), int(self._times)


class Exchange:
    """K workers telling each other what they found; all of it is called inside the traced step.

    A process plays one worker; that of :class:`rbd_ipu.parallel.exchange.Simulated` plays all of them in turn.

    Attributes:
      workers: K, an int.
      plan: how they share the work.
      fed: the workers whose data this process reads.
      note: what ``exchange="auto"`` has been settled to, and why.
      grouped: whether it can gather by groups.
    """

    workers = 1
    grouped = False
    note = ""
    fed: Sequence[int] = (0,)
    plan = Plan(exchange="coordinates")

    def worker(self) -> Any:
        """The index of this worker, 0 to K - 1: int32 scalar."""
        raise NotImplementedError

    def gather(self, message: Any) -> Any:
        """Every worker's message, in the order of the workers, the same everywhere: [m] -> [K, m]."""
        raise NotImplementedError

    def mean(self, vector: Any) -> Any:
        """The mean over the workers of a vector or scalar, the same everywhere."""
        raise NotImplementedError

    def ordered_mean(self, vector: Any) -> Any:
        """:meth:`mean`, added up in the order of the workers where that can be said: for small vectors."""
        return self.mean(vector)

    @property
    def shards(self) -> List[Tuple[int, ...]]:
        """The parts (i, n) of the data that this process reads, one for each worker that it feeds; or (i, n, count),
        one for all of them (:data:`rbd_ipu.data.inputs.Shards`).
        """
        return [shard_of(self.plan.mode, worker, self.workers) for worker in self.fed]

    def played(self) -> List[Any]:
        """The workers that this process plays: int32 scalars."""
        return [self.worker()]

    def gather_all(self, messages: Sequence[Any]) -> Any:
        """:meth:`gather` for the messages of all workers that this process plays."""
        return self.gather(messages[0])

    def gather_groups(self, messages: Sequence[Any], groups: Groups, pass_on: PassOn) -> Any:
        """:meth:`gather_all` by groups: what the last leaders pass on, in their order: of [m] each -> [R, m]."""
        raise NotImplementedError

    def mean_all(self, vectors: Sequence[Any], ordered: bool = False) -> Any:
        """:meth:`mean`, or :meth:`ordered_mean`, for the vectors of all workers that this process plays."""
        return self.ordered_mean(vectors[0]) if ordered else self.mean(vectors[0])


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


class Simulated(Exchange):
    """K workers in one process, each with its mini-batch; nothing is sent.

    Example:
      >>> exchange = Simulated(2)
      >>> exchange.gather_all([tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])]).numpy().tolist()
      [[1.0, 2.0], [3.0, 4.0]]
    """

    grouped = True

    def __init__(self, workers: int, plan: Optional[Plan] = None):
        self.workers = checks.positive_int("workers", workers)
        self.plan = plan or Plan()
        self.fed = range(self.workers)

    def worker(self) -> Any:
        raise TypeError("a process that simulates all workers is none of them; use played()")

    def played(self) -> List[Any]:
        return [tf.constant(k) for k in self.fed]

    def gather_all(self, messages: Sequence[Any]) -> Any:
        return tf.stack(messages)

    def gather_groups(self, messages: Sequence[Any], groups: Groups, pass_on: PassOn) -> Any:
        rows = list(messages)
        for level in range(1, groups.levels + 1):
            parts = [tf.stack(rows[i : i + groups.size]) for i in range(0, len(rows), groups.size)]
            rows = [pass_on(part, level, tf.constant(i)) for i, part in enumerate(parts)]
        return tf.stack(rows)

    def mean_all(self, vectors: Sequence[Any], ordered: bool = False) -> Any:
        return tf.add_n(list(vectors)) / self.workers


class Mirrored(Exchange):
    """The replica that is being traced; the strategy traces one after the other, and exchanges between devices.

    TensorFlow refuses an exchange of replicas within ``tf.cond`` and ``tf.while_loop``: those of the step go around
    ``strategy.run``, see :mod:`rbd_ipu.devices.mirrored`.

    Args:
      workers: K.
      plan: how they share the work.
    """

    def __init__(self, workers: int, plan: Plan):
        self.workers = workers
        self.fed = range(workers)
        self.plan = plan

    def worker(self) -> Any:
        return tf.constant(replica())

    def gather(self, message: Any) -> Any:
        rows = tf.distribute.get_replica_context().all_gather(message[tf.newaxis], axis=0)
        return tf.ensure_shape(rows, [self.workers, *message.shape])  # which the strategy has forgotten

    def mean(self, vector: Any) -> Any:
        # The identity, because all_reduce takes no argument of the function that is being traced.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.identity(vector))


def replica() -> int:
    """The index of the replica that is being traced, 0 to K - 1.

    Example:
      >>> replica()
      0
    """
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


class Replicas(Exchange):
    """The replica that a program is, when it runs; which one, only the device knows.

    TensorFlow sees one replica (``replica_id_in_sync_group`` is always 0 on an IPU), so that the index comes from
    the device, and collectives are operations of the program. This process feeds its own replicas.

    Args:
      ipu: the package ``tensorflow.python.ipu``.
      workers: R, the replicas of all processes.
      plan: how they share the work; "auto" is "coordinates".
      first, local: the replicas that this process feeds are first ... first + local - 1.
    """

    def __init__(self, ipu: Any, workers: int, plan: Plan, first: int = 0, local: int = 1):
        self.workers = workers
        self.plan = plan._replace(exchange="coordinates") if plan.exchange == "auto" else plan
        self._ipu = ipu
        self.fed = range(first, first + local)

    @property
    def shards(self) -> List[Tuple[int, ...]]:
        # One stream: the infeed gives its elements to the replicas in turns.
        return [(self.fed[0], self.workers, len(self.fed))] if self.plan.mode.own_data else [(0, 1)]

    def worker(self) -> Any:
        return self._ipu.replication_ops.replication_index()

    def gather(self, message: Any) -> Any:
        rows = self._ipu.all_to_all_op.all_gather(message, self.workers)
        return tf.reshape(rows, [self.workers, *message.shape])

    def mean(self, vector: Any) -> Any:
        return self._ipu.cross_replica_ops.cross_replica_mean(vector)


GROUP = 1_000_003  # the name of our group of workers; those of tf.distribute count from 1
# Operations find each other by number: all workers trace the same ones in the same order.
_NUMBERS = itertools.count(1)


class Collective(Exchange):
    """The worker that this process is, among those of a ``tf.distribute.MultiWorkerMirroredStrategy``.

    The strategy has connected the processes; variables and steps are plain ones, and a collective is one operation in
    the middle of the loop of steps. (It stays outside XLA, which has no kernel for it on a CPU. ``strategy.gather``
    would send the lengths of the messages first, which doubles waiting and bytes of a small message.)

    Args:
      worker: the index of this process.
      workers: K.
      plan: how they share the work.
      patience: seconds to wait for the others.
    """

    def __init__(self, worker: int, workers: int, plan: Plan, patience: float):
        self.workers = workers
        self.index = worker
        self.fed = (worker,)
        self.plan = plan
        self.meter = GraphMeter(workers)
        self.lost = None  # TensorFlow raises errors of its own
        self._patience = patience
        self._gather_on_host = program(self._gather)
        self._total_on_host = program(self._total)

    def worker(self) -> Any:
        return tf.constant(self.index)

    def gather(self, message: Any) -> Any:
        return self.meter.timed(self._gather, message, gathered)

    def mean(self, vector: Any) -> Any:
        return self.meter.timed(self._total, vector, reduced) / self.workers

    def _gather(self, message: Any) -> Any:
        rows = tf.raw_ops.CollectiveGatherV2(input=message[tf.newaxis], **self._group())
        return tf.ensure_shape(rows, [self.workers, *message.shape])

    def _total(self, vector: Any) -> Any:
        return tf.raw_ops.CollectiveReduceV2(input=vector, merge_op="Add", final_op="Id", **self._group())

    def _group(self) -> Dict[str, Any]:
        return {
            "group_size": self.workers,
            "group_key": GROUP,
            "instance_key": next(_NUMBERS),
            "ordering_token": [],
            "timeout_seconds": self._patience,
        }

    # --- on the host, between two calls of the loop --------------------------------------------------

    def rows(self, words: Any) -> np.ndarray:
        """Every worker's int32 [n]: [K, n]. All workers must ask."""
        return self._gather_on_host(tf.constant(words, tf.int32)).numpy()

    def from_first(self, data: bytes) -> bytes:
        """Worker 0's bytes, of a length that all know. All workers must ask."""
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.int32)
        # The sum with zeros is exact, and costs two times the bytes whatever K is; a gather would cost K times.
        words = words if self.index == 0 else np.zeros_like(words)
        return self._total_on_host(tf.constant(words)).numpy().tobytes()[: len(data)]


class MPI(Exchange):
    """The worker that this process is: rank k of K. An exchange is one call of the host in the loop of steps.

    Coordinates are gathered and added up in the order of the ranks, by the operation that adds up simulated workers:
    K real ones and K simulated ones have the same bits. Updates, which are as long as the model, take MPI's own
    reduction; its order is MPI's.

    Args:
      ranks: from :func:`rbd_ipu.parallel.ranks.connect`.
      plan: how the workers share a step.

    Attributes:
      lost: the WorkersError that ended an exchange inside a traced function, where TensorFlow hides it.
    """

    grouped = True

    def __init__(self, ranks: Ranks, plan: Plan):
        self.workers = ranks.size
        self.index = ranks.rank
        self.fed = (ranks.rank,)
        self.plan = plan
        self.meter = Meter(ranks.size)
        self.ranks = ranks

    @property
    def lost(self) -> Optional[WorkersError]:
        return self.ranks.lost

    def worker(self) -> Any:
        return tf.constant(self.index)

    def gather(self, message: Any) -> Any:
        rows = tf.numpy_function(self._timed(self.ranks.gather, gathered), [message], message.dtype)
        return tf.ensure_shape(rows, [self.workers, *message.shape])

    def mean(self, vector: Any) -> Any:
        total = tf.numpy_function(self._timed(self.ranks.total, reduced), [vector], vector.dtype)
        return tf.ensure_shape(total, vector.shape) / self.workers

    def ordered_mean(self, vector: Any) -> Any:
        return tf.add_n(tf.unstack(self.gather(vector))) / self.workers

    def gather_groups(self, messages: Sequence[Any], groups: Groups, pass_on: PassOn) -> Any:
        (message,) = messages
        for level in range(1, groups.leads(self.index) + 1):
            collect = functools.partial(self.ranks.collect, ranks=groups.members(self.index, level))
            rows = tf.numpy_function(self._timed(collect, None), [message], message.dtype)
            rows = tf.ensure_shape(rows, [groups.size, *message.shape])
            message = pass_on(rows, level, tf.constant(self.index // groups.size**level))

        def sent(size: float, workers: int) -> float:
            return traffic(size, workers, groups, self.index).sent

        finish = functools.partial(self.ranks.through_leaders, groups=groups)
        rows = tf.numpy_function(self._timed(finish, sent), [message], message.dtype)
        return tf.ensure_shape(rows, [groups.messages(self.workers), *message.shape])

    def _timed(
        self, collective: Callable[[np.ndarray], np.ndarray], volume: Optional[Volume]
    ) -> Callable[[np.ndarray], Any]:
        return lambda array: self.meter.timed(collective, array, volume)

    # --- on the host, between two calls of the loop --------------------------------------------------

    def rows(self, words: Any) -> np.ndarray:
        """Every worker's int32 [n]: [K, n]. All workers must ask."""
        return self.ranks.gather(np.asarray(words, np.int32))

    def from_first(self, data: bytes) -> bytes:
        """Worker 0's bytes, of a length that all know. All workers must ask."""
        return self.ranks.from_first(data)
