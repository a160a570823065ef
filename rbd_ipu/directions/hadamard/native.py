"""The Hadamard basis by machine code: source ``native``."""

from typing import Any, Dict, Tuple

import numpy as np

from rbd_ipu._stack import inside_xla
from rbd_ipu.directions.distributions import PLANE
from rbd_ipu.directions.hadamard import kernels
from rbd_ipu.directions.hadamard.permutation import grid
from rbd_ipu.directions.hadamard.places import place_tables
from rbd_ipu.directions.hadamard.source import Hadamard, in_ranks
from rbd_ipu.directions.hadamard.transform import tile
from rbd_ipu.directions.native.launch import BUFFERS, empty, plain
from rbd_ipu.directions.native.source import call_from_graph
from rbd_ipu.directions.native.threads import run_tasks, thread_count
from rbd_ipu.directions.sources import Source


class NativeHadamard(Source):
    """Each basis on one thread, bases of a group side by side; inside XLA, the operations of :class:`Hadamard`.

    At 10^5 parameters a basis takes 0.1 to 0.3 ms, so little that to share one among threads would not pay.
    """

    jit = False
    one_draw = True

    def __init__(self, groups: int, size: int, dim: int, normalize: str):
        thread_count()  # a wrong setting is refused now, not in the middle of a step
        self._ops = Hadamard(groups, size, dim, normalize)
        self.groups, self.size, self.dim = groups, size, dim
        a, b = self._ops.a, self._ops.b
        parts, base, rows = tile(a, b)
        self._shape = (a, b, parts, base, rows, *grid(a, b))
        self._where = place_tables(a, b, base, rows)
        self._scale = np.float32(self._ops.scale)
        self._words = -(-size // (32 * PLANE)) * PLANE
        self._shapes: Dict[str, Any] = {"coordinates": [groups, dim], "vectors": [groups, size]}

    def worker_keys(self, seeds: Any, worker: Any) -> Any:
        return self._ops.worker_keys(seeds, worker)

    def join(self, messages: Any, seeds: Any) -> Any:
        return self.expand(in_ranks(messages, self._ops.padded), seeds)

    def directions(self, seeds: Any, start: int, count: int) -> Any:
        return self._ops.directions(seeds, start, count)

    def project(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.project(vectors, seeds)
        return call_from_graph(self._gather, [vectors, seeds], [self._shapes["coordinates"]])[0]

    def expand(self, coordinates: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.expand(coordinates, seeds)
        return call_from_graph(self._scatter, [coordinates, seeds], [self._shapes["vectors"]])[0]

    def sketch(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.sketch(vectors, seeds)
        return tuple(call_from_graph(self._both, [vectors, seeds], list(self._shapes.values())))

    def filter(self, vectors: Any, seeds: Any) -> Any:
        if inside_xla():
            return self._ops.filter(vectors, seeds)
        return call_from_graph(self._through, [vectors, seeds], [self._shapes["vectors"]])[0]

    def _through(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = empty(self.groups, self.size)
        self._run(seeds, plain(vectors), empty(self.groups, 0), out, True, True)
        return out

    def _gather(self, vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        coordinates = empty(self.groups, self.dim)
        self._run(seeds, plain(vectors), coordinates, empty(self.groups, 0), True, False)
        return coordinates

    def _scatter(self, coordinates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        out = empty(self.groups, self.size)
        self._run(seeds, out, plain(coordinates), out, False, True)
        return out

    def _both(self, vectors: np.ndarray, seeds: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        coordinates, out = empty(self.groups, self.dim), empty(self.groups, self.size)
        self._run(seeds, plain(vectors), coordinates, out, True, True)
        return coordinates, out

    def _run(self, seeds: np.ndarray, *arguments: Any) -> None:
        keys = np.zeros((self.groups, 3), np.int32)
        keys[:, : seeds.shape[1]] = seeds
        if self.groups == 1:  # the usual case, in which a millisecond counts: no tasks, no threads to ask for
            self._work(keys, 0, 1, *arguments)
            return
        threads = thread_count()
        tasks = min(threads, self.groups)
        ends = [t * self.groups // tasks for t in range(tasks + 1)]
        run_tasks(tasks, threads, lambda t: self._work(keys, ends[t], ends[t + 1], *arguments))

    def _work(
        self,
        keys: np.ndarray,
        first: int,
        last: int,
        vectors: Any,
        coordinates: Any,
        out: Any,
        gather: bool,
        scatter: bool,
    ) -> None:
        """The bases first ... last - 1, on this thread."""
        both = gather and scatter and coordinates.shape[1] > 0
        work = BUFFERS.take(kernels.work_length(self._ops.padded, both))
        words = np.empty(self._words, np.uint32)
        kernels.sketch(
            keys,
            first,
            last,
            self._shape,
            self.dim,
            self._scale,
            self._where,
            vectors,
            coordinates,
            out,
            work,
            words,
            gather,
            scatter,
        )
        BUFFERS.give(work)
