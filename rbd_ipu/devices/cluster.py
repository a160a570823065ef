"""One worker of several: a process with the others a collective away."""

import contextlib
import hashlib
import os
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence

import numpy as np

from rbd_ipu._compat import tensors, tf
from rbd_ipu.devices.local import Device
from rbd_ipu.errors import STATUS, Dismissed, WorkersError
from rbd_ipu.parallel.cost_model import reduced
from rbd_ipu.parallel.exchange import MPI, Collective
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.ranks import Ranks, connect
from rbd_ipu.parallel.workers import Task
from rbd_ipu.step import Step


class Cluster(Device):
    """The CPU or GPU of this process, which is worker ``task.index``: a rank of MPI, or one of ``TF_CONFIG``.

    All workers begin with worker 0's weights, and go on with the same ones: every update is the same everywhere. What
    a model keeps beside its weights (the moving statistics of batch normalisation) follows worker 0's batches: after
    each call of the loop all workers take worker 0's.

    Raises:
      ConfigError: MPI cannot be used, or the workers differ; see :func:`rbd_ipu.parallel.ranks.connect`.
      RuntimeError: there is no such device, or fewer GPUs than ranks of this machine.
      WorkersError: a rank does not answer within ``worker_timeout`` seconds.
    """

    def __init__(self, name: str, task: Task, plan: Plan, worker_timeout: float):
        kind = name.upper()
        self.task = task
        self.process = (task.index, task.workers)
        self.worker_timeout = worker_timeout
        self.exchange: Any = None
        ranks = connect(worker_timeout) if task.mpi else None  # before TensorFlow looks for cores
        if not tf.config.list_physical_devices(kind):
            raise RuntimeError(f"worker {task.index}: TensorFlow sees no {kind} on this machine")
        if ranks is not None and kind == "GPU":
            _take_gpu(ranks)
        super().__init__(name, f"/device:{kind}:0")
        with self._listening():
            self.exchange = MPI(ranks, plan) if ranks else _collective(task, plan, worker_timeout)
        self._step: Any = None
        self._joined = self._within = False

    def loop(self, step: Step) -> Callable[[Any, int, int, Sequence[float]], List[float]]:
        run_here = super().loop(step)
        self._step, self._joined = step, False

        def run(*arguments: Any) -> List[float]:
            self._within = True  # until the call has come to its end
            with self._listening():
                found = run_here(*arguments)
                self._take_from_first(tensors(step.model.non_trainable_variables))
            self._within = False
            return found

        return run

    def compare(self, facts: Mapping[str, Any]) -> None:
        if self.task.mpi:
            self.exchange.ranks.compare(facts)

    def agree(self, n: int) -> int:
        with self._listening():
            if not self._joined:  # a first call, or the first one after a restart from a checkpoint
                self.compare(_about(self._step, self.exchange.plan))
                self._check_place(self._step.model)
                self._take_from_first(_everything(self._step))
                self.exchange.meter.start()
                self._joined = True
            return self._meet(n)

    def _meet(self, n: int) -> int:
        """The least of what the workers propose: what begins whatever they do together between two calls.

        Raises:
          Dismissed: a worker came to :meth:`leave` instead.
        """
        proposed = self.exchange.rows([n])[:, 0]
        if proposed.min() < 0:
            first = int(np.argmin(proposed))
            raise Dismissed(f"{self._self}: worker {first} has stopped, and this one with it", int(-proposed[first]))
        return int(proposed.min())

    def leave(self, error: BaseException) -> None:
        """Lets the others know: all end after the same step, with the same status."""
        if getattr(error, "agreed", False):
            return
        if not self._within:  # the others come to _meet() next
            try:
                if isinstance(error, KeyboardInterrupt) and self.task.mpi:
                    self.exchange.ranks.look_around()  # a launcher sends SIGINT, too, when a rank is lost
                self.exchange.rows([-_status(error)])
            except WorkersError:
                if isinstance(error, KeyboardInterrupt):
                    raise
        elif self.task.mpi:  # they are in the middle of a step
            self.exchange.ranks.leave(f"{type(error).__name__}: {error}", _status(error))

    def rows(self, values: np.ndarray) -> np.ndarray:
        with self._listening():
            found = self.exchange.rows(values.astype(np.float64).view(np.int32))
        return np.ascontiguousarray(found).view(np.float64)

    def measured(self) -> Dict[str, float]:
        model, method = self._step.model, self._step.method
        with self._listening():
            self._meet(0)
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
            lost = getattr(self.exchange, "lost", None)
            if lost is not None:
                raise lost from error
            reason = (error.message or type(error).__name__).splitlines()[0]
            if isinstance(error, tf.errors.DeadlineExceededError):
                what = f"no answer from the other workers within {self.worker_timeout:g} s"
            elif isinstance(error, _LOST) or "ollective" in reason:
                what = "another worker ended or cannot be reached"
            else:
                raise
            raise WorkersError(f"{self._self}: {what} ({reason}); what was recorded before is kept") from error

    def _take_from_first(self, variables: Sequence[Any]) -> None:
        if variables:
            values = [variable.numpy() for variable in variables]
            data = self.exchange.from_first(b"".join(value.tobytes() for value in values))
            for variable, value in zip(variables, values):
                variable.assign(np.frombuffer(data[: value.nbytes], value.dtype).reshape(value.shape))
                data = data[value.nbytes :]

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


def _status(error: BaseException) -> int:
    """The exit status of a process that ends by an error, as the command line has it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.args[0] if error.args else 2)
    return 4 if isinstance(error, OSError) else STATUS


def _take_gpu(ranks: Ranks) -> None:
    """Rank r of a machine takes GPU r of it, unless the launcher has given every rank GPUs of its own.

    Raises:
      RuntimeError: the machine has fewer GPUs than ranks.
    """
    given = ranks.facts(os.environ.get("CUDA_VISIBLE_DEVICES"))
    mine = [given[k] for k in sorted({ranks.rank, *ranks.neighbours})]
    dealt = len(set(mine)) == len(mine) > 1
    gpus = tf.config.list_physical_devices("GPU")
    place = 0 if dealt else ranks.local
    if place >= len(gpus):
        raise RuntimeError(
            f"{ranks}: {ranks.locals} ranks are on this machine, and TensorFlow sees {len(gpus)} GPUs: a rank has "
            "one. Start fewer on it, or use device=cpu"
        )
    tf.config.set_visible_devices(gpus[place], "GPU")


def _collective(task: Task, plan: Plan, patience: float) -> Collective:
    """The exchange of a process of ``TF_CONFIG``, connected with the others by TensorFlow's server."""
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=patience)
    cluster = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    here = cluster.num_replicas_in_sync // task.workers
    if here != 1:
        raise RuntimeError(
            f"worker {task.index}: TensorFlow sees {here} devices; a worker has one: set CUDA_VISIBLE_DEVICES"
        )
    return Collective(task.index, task.workers, plan, patience)


_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def _about(step: Step, plan: Plan) -> Dict[str, Any]:
    """What all workers must have alike to take the same steps."""
    method = step.method
    options = {name: value for name, value in vars(method).items() if isinstance(value, (int, float, str, tuple))}
    options.update(method.basis.as_dict() if hasattr(method, "basis") else {})
    shapes = [tuple(variable.shape) for variable in step.model.trainable_variables]
    of_method = {f"{name} of method {method.name}": str(value) for name, value in options.items()}
    return {"method": method.name, **of_method, "shapes of the weights": str(shapes), **plan._asdict()}


def _everything(step: Step) -> List[Any]:
    """All that a run depends on: the model's variables, its optimizer's and its method's."""
    of_optimizer = step.model.optimizer.variables
    of_optimizer = of_optimizer() if callable(of_optimizer) else of_optimizer
    return tensors([*step.model.variables, *of_optimizer, *_shared_slots(step.method)])


def _shared_slots(method: Any) -> List[Any]:
    """The slots that are the same on all workers; those of a worker alone are restored from the same checkpoint."""
    return [] if method.packed else list(getattr(method, "slots", {}).values())
