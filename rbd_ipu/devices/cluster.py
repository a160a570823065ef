"""One worker of several: a process with the others a collective away."""

import contextlib
import hashlib
import socket
import warnings
from typing import Any, Callable, Dict, Iterator, List, Sequence

import numpy as np

from rbd_ipu._stack import tensors, tf
from rbd_ipu.devices.local import Device
from rbd_ipu.exchange import Collective, Neighbours, Plan
from rbd_ipu.exchange.ring import Ring
from rbd_ipu.scaling.volume import reduced
from rbd_ipu.steps import Step
from rbd_ipu.workers.errors import Dismissed, WorkersError
from rbd_ipu.workers.meeting import meet
from rbd_ipu.workers.muster import muster
from rbd_ipu.workers.task import Task


class Cluster(Device):
    """The CPU or GPU of this process, which is worker ``task.index``.

    All workers begin with worker 0's weights, and go on with the same ones: every update is the same everywhere. What
    a model keeps beside its weights (the moving statistics of batch normalisation) follows worker 0's batches: after
    each call of the loop all workers take worker 0's.

    Raises:
      RuntimeError: there is no such device, or TensorFlow has been used before, which must not be.
      WorkersError: not all workers have come within ``worker_timeout`` seconds.
    """

    def __init__(self, name: str, task: Task, plan: Plan, worker_timeout: float):
        kind = name.upper()
        if not tf.config.list_physical_devices(kind):
            raise RuntimeError(f"worker {task.index}: TensorFlow sees no {kind} on this machine")
        super().__init__(name, f"/device:{kind}:0")
        self.task = task
        self.process = (task.index, task.workers)
        self.worker_timeout = worker_timeout
        self.exchange: Any = None
        with self._listening():
            self.exchange = _exchange(kind, task, plan, worker_timeout)
        self._step: Any = None
        self._joined = False

    def loop(self, step: Step) -> Callable[[Any, int, int, Sequence[float]], List[float]]:
        run_here = super().loop(step)
        self._step, self._joined = step, False

        def run(*arguments: Any) -> List[float]:
            with self._listening():
                found = run_here(*arguments)
                self._take_from_first(tensors(step.model.non_trainable_variables))
            return found

        return run

    def agree(self, n: int) -> int:
        with self._listening():
            if not self._joined:  # a first call, or the first one after a restart from a checkpoint
                self._check_place(self._step.model)
                self._take_from_first(_everything(self._step))
                self.exchange.meter.start()
                self._joined = True
            least = int(self.exchange.rows([n]).min())
        if least < 0:
            raise Dismissed(f"{self._self}: another worker has stopped, and this one with it")
        return least

    def leave(self, error: BaseException) -> None:
        if not getattr(error, "agreed", False) and not isinstance(error, tf.errors.OpError):
            self.exchange.rows([-1])

    def rows(self, values: np.ndarray) -> np.ndarray:
        with self._listening():
            found = self.exchange.rows(values.astype(np.float64).view(np.int32))
        return np.ascontiguousarray(found).view(np.float64)

    def measured(self) -> Dict[str, float]:
        model, method = self._step.model, self._step.method
        with self._listening():
            self._check_alike(model)
        values = self.exchange.meter.read()
        if "exchange_bytes" in values:
            values["exchange_bytes_sgd"] = reduced(4 * method.size, self.task.workers)
        return values

    @property
    def _self(self) -> str:
        return f"worker {self.task.index} of {self.task.workers}"

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Says in words that a collective failed."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.exchange is not None and self.exchange.lost is not None:
                raise self.exchange.lost from error
            reason = (error.message or type(error).__name__).splitlines()[0]
            if isinstance(error, tf.errors.DeadlineExceededError):
                lost = f"no answer from the other workers within {self.worker_timeout:g} s"
            elif isinstance(error, _LOST) or "ollective" in reason:
                lost = "another worker ended or cannot be reached"
            else:
                raise
            raise WorkersError(f"{self._self}: {lost} ({reason}); what was recorded before is kept") from error

    def _take_from_first(self, variables: Sequence[Any]) -> None:
        if variables:
            values = [variable.numpy() for variable in variables]
            data = self._from_first(b"".join(value.tobytes() for value in values))
            for variable, value in zip(variables, values):
                variable.assign(np.frombuffer(data[: value.nbytes], value.dtype).reshape(value.shape))
                data = data[value.nbytes :]

    def _from_first(self, data: bytes) -> bytes:
        """Worker 0's bytes, of a length known to all."""
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.int32)
        # The sum with zeros is exact, and costs two times the bytes whatever K is; a gather would cost K times.
        words = words if self.task.index == 0 else np.zeros_like(words)
        return self.exchange.total(words).tobytes()[: len(data)]

    def _check_place(self, model: Any) -> None:
        """Refuses to begin with workers at different steps: not all have found the same checkpoint."""
        steps = self.exchange.rows([int(model.optimizer.iterations)])[:, 0].tolist()
        if len(set(steps)) > 1:
            raise WorkersError(f"{self._self}: workers 0, 1, ... would begin at steps {steps}; they must be equal")

    def _check_alike(self, model: Any) -> None:
        """Refuses to go on with weights that differ between workers: an error of the machine, or of this package."""
        data = b"".join(variable.numpy().tobytes() for variable in tensors(model.variables))
        digests = self.exchange.rows(np.frombuffer(hashlib.sha256(data).digest()[:8], np.int32))
        others = [k for k, digest in enumerate(digests) if (digest != digests[0]).any()]
        if others:
            step = int(model.optimizer.iterations)
            raise WorkersError(f"after step {step} the weights of workers {others} differ from those of worker 0")


def _exchange(kind: str, task: Task, plan: Plan, patience: float) -> Any:
    """The exchange of this process, connected with the others.

    The processes of a ``TF_CONFIG`` find each other by TensorFlow's server. Those that compute on a CPU then exchange
    over connections of their own, without the 400 bytes and the threads that a call of the server costs; GPUs have
    NCCL, which TensorFlow's operations use.
    """
    if task.ring is not None:
        left, right = (socket.socket(fileno=number) for number in task.ring)
        return Neighbours(Ring(task.index, task.workers, left, right, patience), plan)
    muster(task.index, task.addresses, patience)
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=patience)
    cluster = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    here = cluster.num_replicas_in_sync // task.workers
    if here != 1:
        raise RuntimeError(
            f"worker {task.index}: TensorFlow sees {here} devices; a worker has one: set CUDA_VISIBLE_DEVICES"
        )
    by_server = Collective(task.index, task.workers, plan, patience)
    if kind != "CPU":
        return by_server
    ends = meet(task.index, task.addresses, by_server.rows)
    if ends is not None:
        return Neighbours(Ring(task.index, task.workers, *ends, patience), plan)
    if task.index == 0:
        warnings.warn(
            "the workers cannot all be reached on other ports than those of TF_CONFIG: TensorFlow's server carries "
            "the messages",
            stacklevel=2,
        )
    return by_server


_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def _everything(step: Step) -> List[Any]:
    """All that a run depends on: the model's variables, its optimizer's and its method's."""
    of_optimizer = step.model.optimizer.variables
    of_optimizer = of_optimizer() if callable(of_optimizer) else of_optimizer
    return tensors([*step.model.variables, *of_optimizer, *getattr(step.method, "slots", {}).values()])
