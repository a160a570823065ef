"""K simulated workers around one copy of the weights: what the language model trains with.

A step hands over the gradients of all workers, of each variable float32 [K, *shape]. :class:`Simulated` is the
interface; :class:`Mean` gives the mean to a Keras optimizer, :class:`Subspace` simulates the workers of
:class:`rbd_ipu.SubspaceOptimizer`, each with a memory of its own; the rivals are in rivals.py.
"""

from typing import Any, List, Sequence

from rbd_ipu import compression
from rbd_ipu._compat import tf
from rbd_ipu.compartments import describe
from rbd_ipu.parallel.workers import Groups

ALONE = Groups()  # no groups


class Simulated:
    """An optimizer of K workers.

    Attributes:
      variables, workers: what it was built for.
      step: optimizer steps so far, int32.
    """

    def build(self, variables: Sequence[Any], workers: int) -> None:
        """Makes the state."""
        self.variables, self.workers = list(variables), workers
        self.step = tf.Variable(0, trainable=False, dtype=tf.int32)

    def apply(self, gradients: Sequence[Any]) -> None:
        """One step: of each variable the gradients of all workers, float32 [K, *shape]."""
        raise NotImplementedError


class Mean(Simulated):
    """A Keras optimizer of the mean gradient.

    Of one worker it takes gradients [*shape] as they are, dense or sparse. The mean of several workers is dense.
    """

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def build(self, variables: Sequence[Any], workers: int) -> None:
        super().build(variables, workers)
        self.optimizer.build(self.variables)

    def apply(self, gradients: Sequence[Any]) -> None:
        mean = gradients if self.workers == 1 else [tf.reduce_mean(g, axis=0) for g in gradients]
        self.optimizer.apply_gradients(zip(mean, self.variables))
        self.step.assign_add(1)


class Subspace(Simulated):
    """The workers of a :class:`rbd_ipu.SubspaceOptimizer` with all variables inside and its state in the full space.

    The step is that of the optimizer, with the messages of K workers instead of the gathered ones of K replicas. With
    groups, leaders pass on messages as those of the method ``compressed`` do.
    """

    def __init__(self, optimizer: Any, groups: Groups = ALONE):
        if optimizer.state != "full" or optimizer.include is not None or optimizer.exclude is not None:
            raise ValueError("workers are simulated for state='full', without include and exclude")
        self.optimizer, self._use, self.groups = optimizer, optimizer._use, groups

    def build(self, variables: Sequence[Any], workers: int) -> None:
        super().build(variables, workers)
        self.groups.check(workers)
        self.sketch = self.optimizer.sketch_of(self.variables)
        self.optimizer.build(self.variables)  # its message_bytes and its inner optimizer
        levels = range(1, self.groups.levels + 1) if self.groups.size > 1 else ()
        self.memories, self.squares = self._kept("memory", workers), self._kept("second_moment", workers)
        self.leaders = [self._kept("memory", workers // self.groups.size**level) for level in levels]

    def _kept(self, name: str, count: int) -> List[List[Any]]:
        sizes = [describe(v, i).size for i, v in enumerate(self.variables)]
        own = sizes if name in self._use.kept else []
        return [[tf.Variable(tf.zeros([n]), trainable=False) for n in own] for _ in range(count)]

    def _sent(self, vectors: Sequence[Any], memory: Sequence[Any], index: Any, squares: Sequence[Any] = ()) -> Any:
        """The coordinates that all receive; the memory has the rest."""
        sent = compression.send(self._use, self.sketch, vectors, memory, index, None, squares, self.step)
        if memory:
            compression.receive(self.sketch, sent, memory, index)
        return sent.own

    def apply(self, gradients: Sequence[Any]) -> None:
        index = self._use.basis_index(tf.identity(self.step))
        coordinates = []
        for k, (memory, squares) in enumerate(zip(self.memories, self.squares)):
            flat = [tf.reshape(g[k], [-1]) for g in gradients]
            coordinates.append(self._sent(flat, memory, index, squares))
        for leaders in self.leaders:
            size = self.groups.size
            groups = [coordinates[i : i + size] for i in range(0, len(coordinates), size)]
            means = [[u / float(size) for u in self.sketch.expand(group, index)] for group in groups]
            coordinates = [self._sent(mean, memory, index) for mean, memory in zip(means, leaders)]
        updates = [u / float(len(coordinates)) for u in self.sketch.expand(coordinates, index)]
        if self.optimizer.update == "sign":
            updates = [tf.sign(u) for u in updates]
        updates = [tf.reshape(u, v.shape) for u, v in zip(updates, self.variables)]
        self.optimizer.inner_optimizer.apply(updates, self.variables)
        self.step.assign_add(1)


def simulated(optimizer: Any, workers: int, groups: Groups = ALONE) -> Simulated:
    """The K workers of an optimizer; of one worker alone SubspaceOptimizer runs as it is.

    Raises:
      ValueError: groups of workers of another optimizer.
    """
    nonlinear = getattr(optimizer, "state", None) == "full"  # of a SubspaceOptimizer
    if groups.size > 1 and not nonlinear:
        raise ValueError(f"groups are for a SubspaceOptimizer with state='full', got {type(optimizer).__name__}")
    if isinstance(optimizer, Simulated):
        return optimizer
    return Subspace(optimizer, groups) if workers > 1 and nonlinear else Mean(optimizer)
