"""Compressed descent: the largest coordinates of an orthonormal basis, few bits each, with a memory of the rest."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import checks, compression
from rbd_ipu._compat import tf
from rbd_ipu.compartments import describe
from rbd_ipu.methods.base import METHODS, Method
from rbd_ipu.parallel import wire as wires
from rbd_ipu.parallel.exchange import replica
from rbd_ipu.parallel.workers import groups

FRACTION = 1 / 128  # of the coordinates, where nobody says; has Adam's loss on a small language model


@METHODS.register("compressed")
class Compressed(Method):
    """Each worker sends the largest coordinates of its memory, and remembers what it did not send::

        m_k   <- memory m_k + g_k,   c = P_t^T m_k,   q_k = bits(c_S)          message: indices and codes
        m_k   <- m_k - P_t q_k
        theta <- theta - lr update(P_t (1/K) sum_k q_k)                        update: the mean, or its sign

    P_t is the same on all workers: Walsh-Hadamard blocks with random signs, or without (``redraw_every=0``). It is
    the optimizer :class:`rbd_ipu.SubspaceOptimizer` as a method of the Trainer, with real and simulated workers.

    With groups of G workers, a leader takes their messages, remembers what it does not pass on, and passes on one::

        M     <- memory M + P_t (1/G) sum_k q_k,   c = P_t^T M,   q = bits(c_S)
        M     <- M - P_t q

    It does to the mean of its group what a worker does to its gradient. The update is that of the leaders' messages.

    Args:
      learning_rate, momentum: as for every method; momentum only with the inner optimizer "sgd".
      fraction: of the coordinates of each block that is sent, in (0, 1]; None: 1/128 with ``select="largest"``.
      select: "largest", or "all", which takes no fraction.
      memory: what is kept of the memory, in [0, 1]; None for none. It is D numbers for each worker.
      bits: how coordinates are sent, a row of :data:`rbd_ipu.parallel.wire.VALUES`.
      update: "mean" or "sign".
      inner: the optimizer that is given the update, by its name in Keras in small letters.
      redraw_every: steps that a basis serves; 0 keeps the first, without signs.
      second_moment: b, in [0, 1): each worker divides its gradients by the root of the running mean of their squares
        first, as Adam does; None: not. It is another D numbers for each worker.
      group_size: G; 1 for no groups.
      group_levels: L: of each G leaders one is their leader, and so on. K / G^L messages reach every worker. A
        leader remembers D numbers for each level that it leads.
      **basis: ``seed`` and ``source`` of :class:`rbd_ipu.subspace.BasisSpec`.

    Raises:
      TypeError, ValueError: a hyper-parameter is wrong; quotes it and what is accepted.

    Example:
      >>> method = Compressed(0.01, fraction=1 / 16)
      >>> method.build([(64, 64), (64,)])
      >>> method.size, method.dim
      (4160, 260)
    """

    name = "compressed"
    of_basis = ("seed", "source")
    packed = True
    added = {"second_moment": None, "group_size": 1, "group_levels": 1}

    def __init__(
        self,
        learning_rate: Any,
        momentum: float = 0.0,
        fraction: Optional[float] = None,
        select: str = "largest",
        memory: Any = 1.0,
        bits: str = "sign",
        update: str = "sign",
        inner: str = "sgd",
        redraw_every: int = 1,
        second_moment: Any = None,
        group_size: int = 1,
        group_levels: int = 1,
        **basis: Any,
    ):
        super().__init__(learning_rate, momentum)
        if fraction is None and select == "largest":
            fraction = FRACTION
        self.use = compression.compression(
            redraw_every, None, fraction, select, memory, bits, second_moment, distribution="blocks", **basis
        )
        self.basis, self.memory, self.second_moment = self.use.basis, self.use.memory, self.use.second_moment
        self.fraction, self.select, self.bits, self.redraw_every = self.use.fraction, select, bits, redraw_every
        self.sign = checks.one_of("update", update, compression.UPDATES)
        self.chosen = {"update": update}
        if momentum and inner != "sgd":
            raise ValueError(f"momentum={momentum} is for inner='sgd', got inner={inner!r}")
        self.inner = inner
        self.groups = groups(group_size, group_levels)
        self.group_size, self.group_levels = self.groups
        # The workers whose memory is here: first ... first + count - 1 of all. In a dict: it is not the same on all.
        self._played = {"first": 0, "count": 1, "workers": 1}
        self.slots: Dict[str, Any] = {}

    @property
    def first(self) -> int:
        """The first of the workers that this process plays."""
        return self._played["first"]

    @property
    def count(self) -> int:
        """How many it plays."""
        return self._played["count"]

    @property
    def workers(self) -> int:
        """K, of all processes."""
        return self._played["workers"]

    def play(self, workers: Sequence[int], of: int) -> None:
        """Says which workers this process plays, of how many, before :meth:`build`."""
        self._played = {"first": workers[0], "count": len(workers), "workers": of}

    def build(self, variables: Sequence[Any]) -> None:
        known = [describe(variable, i) for i, variable in enumerate(variables)]
        self.sketch = self.use.sketch([v for v, about in zip(variables, known) if about.size])
        self.size, self.dim = self.sketch.size, self.sketch.dim
        self.message_bytes = wires.message_bytes(self.bits, self.sketch.shapes)
        self._sizes = [about.size for about in known if about.size]
        self.slots = {}
        self._all: Dict[str, _AllRows] = {}
        levels = self.groups.levels if self.groups.size > 1 else 0
        self._levels: List[List[_AllRows]] = [[] for _ in range(levels + 1)]  # of workers, of leaders of each level
        for level in range(levels + 1 if self.memory is not None else 0):
            name = "memory" if level == 0 else f"leaders_{level}_memory"
            self._levels[level] = self._kept(name, self.groups.size**level)
        self._squares = self._kept("second_moment", 1) if self.second_moment is not None else []

    def _kept(self, name: str, stride: int) -> List["_AllRows"]:
        """A slot for each variable, of all workers or of every ``stride``-th."""
        found = []
        for i, n in enumerate(self._sizes):
            rows = _AllRows(f"{name}_{i}", n, self.first, self.count, self.workers, stride)
            found.append(rows)
            self._all[_sortable(f"{name}_{i}")] = rows
            if rows.slot is not None:
                self.slots[_sortable(f"{name}_{i}")] = rows.slot
        return found

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        """The packed message: int32 [words]."""
        kept = self._rows(self._levels[0], worker), self._rows(self._squares, worker)
        return self._sent(self._cut(state.gradient(batch)), *kept, step)

    def pass_on(self, messages: Any, step: Any, level: int, leader: Any) -> Any:
        """What a leader makes of the messages of its group: int32 [G, words] -> int32 [words].

        Args:
          level: 1 for a leader of workers, 2 for one of these leaders, ...
          leader: int32 scalar, the index among the leaders of this level.
        """
        mean = [vector / float(messages.shape[0]) for vector in self._expanded(messages, step)]
        return self._sent(mean, self._rows(self._levels[level], leader), [], step)

    def update(self, messages: Any, step: Any) -> Any:
        """What to subtract: messages int32 [K, words], or of groups [K / G^L, words] -> float32 [D]."""
        return self._finished(self._expanded(messages, step), messages.shape[0])

    def _sent(self, vectors: Sequence[Any], memory: List[Any], squares: List[Any], step: Any) -> Any:
        """The message about these vectors and the memory, which then has the rest."""
        index, packed = self.use.basis_index(step), []

        def gather(message: Any) -> List[Any]:
            packed.append(message)
            return [message]

        sent = compression.send(self.use, self.sketch, vectors, memory, index, gather, squares, step)
        if memory:
            compression.receive(self.sketch, sent, memory, index)
        return packed[0]

    def _expanded(self, messages: Any, step: Any) -> List[Any]:
        coordinates = [
            wires.decode(self.bits, wires.unpack(self.bits, self.sketch.shapes, message))
            for message in tf.unstack(messages)
        ]
        if self.sign == "sign":
            coordinates = [compression.nan_unless_finite(one) for one in coordinates]
        return self.sketch.expand(coordinates, self.use.basis_index(step))

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        index = self.use.basis_index(step)
        memory, squares = (self._rows(kept, tf.constant(self.first)) for kept in (self._levels[0], self._squares))
        vectors = self._cut(state.gradient(batch))
        sent = compression.send(self.use, self.sketch, vectors, memory, index, None, squares, step)
        return self._finished(compression.receive(self.sketch, sent, memory, index), 1)

    def _cut(self, gradient: Any) -> List[Any]:
        return tf.split(gradient, self._sizes)

    def _finished(self, vectors: Sequence[Any], workers: int) -> Any:
        u = tf.concat(list(vectors), axis=0) / float(workers)
        return tf.sign(u) if self.sign == "sign" else u

    @staticmethod
    def _rows(kept: Sequence["_AllRows"], index: Any) -> List[Any]:
        """Of a worker or a leader that this process plays, by its index among those of its level."""
        return [rows.row(tf.cast(index, tf.int32)) for rows in kept]

    # --- memories of workers in other processes -------------------------------------------------------------------

    def saved(self) -> Dict[str, Any]:
        """What a checkpoint holds of the slots: the memories of all K workers, [K, n], and of all leaders."""
        return dict(self._all)

    def saveable(self, step: int) -> bool:
        """Whether the memories of all workers are known as they are at this step."""
        return self.count == self.workers or all(rows.step == step for rows in self._all.values())

    def restored(self, step: int) -> None:
        """The memories of all workers are those of a checkpoint of this step."""
        for rows in self._all.values():
            rows.step = step

    def gather(self, device: Any, step: int) -> None:
        """Takes over the memories of the other processes; all of them must call it, between two calls of the loop."""
        for rows in self._all.values() if self.count < self.workers else ():
            # A process without a leader of this level sends zeros: all send as many numbers.
            own = np.zeros([self.count, rows.shape[1]]) if rows.slot is None else rows.slot.numpy()
            found = device.rows(np.asarray(own, np.float64).ravel()).reshape(self.workers, -1)
            rows.keep(found[:: rows.stride], step)


class _Row:
    """The memory of one worker as a variable, a row of the slot."""

    def __init__(self, slot: Any, row: Any, count: int):
        self._slot, self._row, self._single = slot, row, count == 1

    def value(self) -> Any:
        """m: float32 [n]."""
        return tf.identity(self._slot)[0] if self._single else tf.gather(tf.identity(self._slot), self._row)

    def assign(self, value: Any) -> None:
        """m <- value."""
        if self._single:
            self._slot.assign(value[tf.newaxis])
        else:
            self._slot.scatter_nd_update([[self._row]], value[tf.newaxis])

    def assign_add(self, value: Any) -> None:
        """m <- m + value."""
        if self._single:
            self._slot.assign_add(value[tf.newaxis])
        else:
            self._slot.scatter_nd_add([[self._row]], value[tf.newaxis])

    def assign_sub(self, value: Any) -> None:
        """m <- m - value."""
        if self._single:
            self._slot.assign_sub(value[tf.newaxis])
        else:
            self._slot.scatter_nd_sub([[self._row]], value[tf.newaxis])


def _as_tensor(row: _Row, dtype: Any = None, name: Any = None, as_ref: bool = False) -> Any:
    return row.value()


tf.register_tensor_conversion_function(_Row, _as_tensor)


def _sortable(name: str) -> str:
    """The name with its last number in four digits: sorted, they are in order."""
    text, _, number = name.rpartition("_")
    return f"{text}_{int(number):04}"


class _AllRows:
    """The memories of all K workers or of all leaders of a level, where a checkpoint expects a variable: [rows, n].

    Args:
      name: of the variable of those rows that are here.
      n: entries of a memory.
      first, count, workers: see :class:`Compressed`.
      stride: workers from a row to the next one: 1, or G^level.

    Attributes:
      slot: the variable; None where this process plays none of them.
    """

    def __init__(self, name: str, n: int, first: int, count: int, workers: int, stride: int):
        self.name, self.dtype, self.stride, self.step = name, tf.float32, stride, 0
        self.shape: Tuple[int, int] = (workers // stride, n)
        here = range(-(-first // stride), -(-(first + count) // stride))
        self._first, self._count = here.start, len(here)
        strategy = tf.distribute.get_strategy()
        # A MirroredStrategy has a worker on each device, and there a copy of the slot: that worker's row.
        mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
        self._copies = strategy.experimental_local_results if mirrored else None
        kept = 1 if self._copies else len(here)
        self.slot = tf.Variable(tf.zeros([kept, n]), trainable=False, name=name) if here else None
        self._rows: Any = None

    def row(self, index: Any) -> "_Row":
        """The memory with this index among all, which is here."""
        if self._copies:
            return _Row(self._copies(self.slot)[replica()], 0, 1)
        return _Row(self.slot, index - self._first, self._count)

    def keep(self, rows: Any, step: int) -> None:
        """Notes the memories as they are at this step."""
        self._rows, self.step = np.asarray(rows, np.float32), step

    def numpy(self) -> np.ndarray:
        if self._copies:
            return np.concatenate([copy.numpy() for copy in self._copies(self.slot)])
        if self._count == self.shape[0] and self.slot is not None:
            return self.slot.numpy()
        return np.zeros(self.shape, np.float32) if self._rows is None else self._rows

    def assign(self, value: Any) -> None:
        rows = np.asarray(value)
        if self._copies:
            for copy, row in zip(self._copies(self.slot), rows):
                copy.assign(row[np.newaxis])
        elif self.slot is not None:
            self.slot.assign(rows[self._first : self._first + self._count])
        self.keep(rows, -1)  # see `restored`


__all__ = ["Compressed"]
