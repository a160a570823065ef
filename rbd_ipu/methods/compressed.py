"""Compressed descent: the largest coordinates of an orthonormal basis, few bits each, with a memory of the rest."""

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from rbd_ipu import checks, compression
from rbd_ipu._compat import tf
from rbd_ipu.compartments import describe
from rbd_ipu.methods.base import METHODS, Method
from rbd_ipu.parallel import wire as wires


@METHODS.register("compressed")
class Compressed(Method):
    """Each worker sends the largest coordinates of its memory, and remembers what it did not send::

        m_k   <- memory m_k + g_k,   c = P_t^T m_k,   q_k = bits(c_S)          message: indices and codes
        m_k   <- m_k - P_t q_k
        theta <- theta - lr update(P_t (1/K) sum_k q_k)                        update: the mean, or its sign

    P_t is the same on all workers: Walsh-Hadamard blocks with random signs, or without (``redraw_every=0``). It is
    the optimizer :class:`rbd_ipu.SubspaceOptimizer` as a method of the Trainer, with real and simulated workers.

    Args:
      learning_rate, momentum: as for every method; momentum only with the inner optimizer "sgd".
      fraction: of the coordinates of each block that is sent, in (0, 1].
      select: "largest", or "all".
      memory: what is kept of the memory, in [0, 1]; None for none. It is D numbers for each worker.
      bits: how coordinates are sent, a row of :data:`rbd_ipu.parallel.wire.VALUES`.
      update: "mean" or "sign".
      inner: the optimizer that is given the update, by its name in Keras in small letters.
      redraw_every: steps that a basis serves; 0 keeps the first, without signs.
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

    def __init__(
        self,
        learning_rate: Any,
        momentum: float = 0.0,
        fraction: float = 1 / 128,
        select: str = "largest",
        memory: Any = 1.0,
        bits: str = "sign",
        update: str = "sign",
        inner: str = "sgd",
        redraw_every: int = 1,
        **basis: Any,
    ):
        super().__init__(learning_rate, momentum)
        self.fraction = checks.finite_float("fraction", fraction, 0.0, 1.0)
        whole = None if select == "all" else self.fraction
        self.use = compression.compression(
            redraw_every, None, whole, select, memory, bits, distribution="blocks", **basis
        )
        self.basis, self.memory = self.use.basis, self.use.memory
        self.select, self.bits, self.redraw_every = select, bits, redraw_every
        self.sign = checks.one_of("update", update, compression.UPDATES)
        if momentum and inner != "sgd":
            raise ValueError(f"momentum={momentum} is for inner='sgd', got inner={inner!r}")
        self.inner = inner
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
        if self.memory is not None:
            for i, n in enumerate(self._sizes):
                zeros = tf.zeros([self.count, n])
                self.slots[f"memory_{i:04}"] = tf.Variable(zeros, trainable=False, name=f"memory_{i}")
        self._all = {name: _AllRows(self, slot) for name, slot in self.slots.items()}

    def message(self, state: Any, batch: Any, step: Any, worker: Any) -> Any:
        """The packed message: int32 [words]."""
        index, packed = self.use.basis_index(step), []

        def gather(message: Any) -> List[Any]:
            packed.append(message)
            return [message]

        memory = self._memory(worker)
        sent = compression.send(self.use, self.sketch, self._cut(state.gradient(batch)), memory, index, gather)
        if memory:
            compression.receive(self.sketch, sent, memory, index)
        return packed[0]

    def update(self, messages: Any, step: Any) -> Any:
        """What to subtract: messages int32 [K, words] -> float32 [D]."""
        coordinates = [
            wires.decode(self.bits, wires.unpack(self.bits, self.sketch.shapes, message))
            for message in tf.unstack(messages)
        ]
        return self._finished(self.sketch.expand(coordinates, self.use.basis_index(step)), messages.shape[0])

    def step(self, state: Any, batch: Any, step: Any) -> Any:
        index, memory = self.use.basis_index(step), self._memory(tf.constant(self.first))
        sent = compression.send(self.use, self.sketch, self._cut(state.gradient(batch)), memory, index, None)
        return self._finished(compression.receive(self.sketch, sent, memory, index), 1)

    def _cut(self, gradient: Any) -> List[Any]:
        return tf.split(gradient, self._sizes)

    def _finished(self, vectors: Sequence[Any], workers: int) -> Any:
        u = tf.concat(list(vectors), axis=0) / float(workers)
        return tf.sign(u) if self.sign == "sign" else u

    def _memory(self, worker: Any) -> List[Any]:
        row = tf.cast(worker, tf.int32) - self.first
        return [_Row(slot, row, self.count) for _, slot in sorted(self.slots.items())]

    # --- memories of workers in other processes -------------------------------------------------------------------

    def saved(self) -> Dict[str, Any]:
        """What a checkpoint holds of the slots: the memories of all K workers, [K, n]."""
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
            own = np.asarray(rows.slot.numpy(), np.float64)
            rows.keep(device.rows(own.ravel()).reshape(self.workers, -1), step)


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


class _AllRows:
    """The memories of all K workers, where a checkpoint expects a variable: [K, n]."""

    def __init__(self, method: Compressed, slot: Any):
        self._method, self.slot = method, slot
        self.name, self.dtype = slot.name, slot.dtype
        self.shape: Tuple[int, int] = (method.workers, int(slot.shape[1]))
        self.step = 0
        self._rows: Any = None

    def keep(self, rows: Any, step: int) -> None:
        """Notes the memories as they are at this step."""
        self._rows, self.step = np.asarray(rows, np.float32), step

    def numpy(self) -> np.ndarray:
        if self._method.count == self._method.workers:
            return self.slot.numpy()
        return np.zeros(self.shape, np.float32) if self._rows is None else self._rows

    def assign(self, value: Any) -> None:
        first, count = self._method.first, self._method.count
        rows = np.asarray(value)
        self.slot.assign(rows[first : first + count])
        self.keep(rows, -1)  # see `restored`


__all__ = ["Compressed"]
