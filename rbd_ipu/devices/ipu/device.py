"""The IPUs of a description, as a device to build and train models on.

This is the one module that imports Graphcore's TensorFlow, and only when an IPU is opened.
"""

import importlib
import math
import os
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

from rbd_ipu._compat import tf
from rbd_ipu.data.batches import stored_form
from rbd_ipu.devices.ipu import description as rules
from rbd_ipu.devices.ipu import ipu_config, options, popdist
from rbd_ipu.devices.ipu.description import Description, check
from rbd_ipu.devices.ipu.program import Evaluation, Hash, Infeed, Stream, train_program
from rbd_ipu.devices.local import Device
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.parallel.exchange import Alone, Exchange, Replicas
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.workers import running
from rbd_ipu.placement import seed_words, settle
from rbd_ipu.step import MEASURES, Step


def package() -> Any:
    """The package ``tensorflow.python.ipu``.

    Raises:
      RuntimeError: this TensorFlow is not Graphcore's.
    """
    try:
        return importlib.import_module("tensorflow.python.ipu")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("tensorflow.python.ipu"):
            raise
        raise RuntimeError(
            f"an IPU needs the TensorFlow of the Poplar SDK (Python 3.8, TensorFlow 2.6); this is TensorFlow "
            f"{tf.__version__} without tensorflow.python.ipu. `rbd-ipu devices check FILE` needs no SDK"
        ) from error


def make_strategy(ipu: Any, several_processes: bool) -> Any:
    """The strategy for the IPUs that have been configured; after ``configure_ipu_system``."""
    if several_processes:
        module = importlib.import_module("tensorflow.python.ipu.distributed.popdist_strategy")
        return module.PopDistStrategy()
    return ipu.ipu_strategy.IPUStrategy()


def host_collectives() -> Any:
    """The module that moves numbers between the hosts; the package does not import it by itself."""
    return importlib.import_module("tensorflow.python.ipu.distributed.host_collective_ops")


class ReplicaError(RuntimeError):
    """Replicas that should hold the same weights do not: an error of the machine, or of this package."""


class IPUDevice(Device):
    """One or more IPUs, each replica of the program a worker of its own.

    Opening it attaches to the IPUs, as the description's ``connection`` says. Models are built inside it, so that
    their variables live there; all that trains runs there as one program.

    Args:
      description: of an IPU; a Description, or ``"ipu"`` for one IPU with the defaults.
      plan: how replicas share a step; None: each has its own directions and its own data.

    Attributes:
      description, strategy, exchange: as opened.
      instance: this process among those that poprun started.
      check_replicas: whether the weights of all replicas of this process are compared after every step, by a
        fingerprint: TensorFlow reads those of the first one only, so that the others could drift unseen. Costs an
        integer hash of each weight.
      compiles_only: there is no IPU (``connection`` pre_compile or never): one call of the training and one
        validation are compiled, and no number is looked at.
      has_numbers: whether what the device tells means anything; not where it only compiles, nor with synthetic data.

    Raises:
      ConfigError: the description contradicts what poprun was started with.
      RuntimeError: this TensorFlow is not Graphcore's, or there are no such IPUs.
    """

    def __init__(self, description: Union[Description, str] = "ipu", plan: Optional[Plan] = None):
        plan = plan or Plan()
        described = check({"device": "ipu"}) if isinstance(description, str) else description
        if described.precision != "float32":
            raise RuntimeError(f"directions are drawn as float32; precision {described.precision!r} is not ready")
        if described.replicas > 1 and plan.mode.adds:
            raise ValueError(
                f"parallel={plan.parallel!r} is for workers that are processes, not for replicas of an IPU"
            )
        if described.replicas > 1 and plan.wire != "float32":
            raise ValueError(f"wire={plan.wire!r} is not for replicas of an IPU: they send float32")
        self.name = "ipu"
        self.description = described
        self._ipu = ipu = package()
        poprun = running()
        self.instance = here = popdist.instance(described, poprun)
        os.environ.update(ipu_config.environment(described, os.environ.get(options.VARIABLE, "")))
        self.compiles_only = described.connection in rules.WITHOUT_DEVICE
        self.has_numbers = not self.compiles_only and not options.is_set("use_synthetic_data", os.environ)
        config = ipu_config.make_config(described, ipu, poprun is not None)
        if poprun is not None:
            popdist.configure(config, described)
        config.configure_ipu_system()
        self.strategy = make_strategy(ipu, poprun is not None)
        settle(self.strategy, described.block_entries, described.replicas, Hash(ipu))
        self.exchange: Exchange = Alone()
        if described.replicas > 1:
            first = here.index * here.local_replicas
            self.exchange = Replicas(ipu, described.replicas, plan, first, here.local_replicas)
        self.check_replicas = here.local_replicas > 1 and self.has_numbers
        self._entered: List[Any] = []
        self._warned: Set[int] = set()  # numbers of steps
        self._compiled = False  # a call of the training, where that is all there is to do

    def __enter__(self) -> "IPUDevice":
        scope = self.strategy.scope()
        scope.__enter__()
        self._entered.append(scope)
        return self

    def shared_seed(self, seed: int) -> int:
        """That of instance 0: one that was given another would draw other directions."""
        return popdist.broadcast_seed(seed, self._collectives(), self.instance)

    def agree(self, n: int) -> int:
        """The least of what the instances propose; 0 once a device that only compiles has compiled."""
        if self.compiles_only and self._compiled:
            n = 0
        return popdist.agree(n, self._collectives(), self.instance)

    def leave(self, error: BaseException) -> None:
        popdist.leave(error, self._collectives(), self.instance)

    def _collectives(self) -> Any:
        return host_collectives() if self.instance.count > 1 else None

    def is_home(self, model: Any) -> bool:
        return model.distribute_strategy is self.strategy

    def iterate(self, dataset: Any) -> Any:
        """The dataset, to be made an infeed."""
        stored, finish = stored_form(dataset)  # bytes go over the wire, where images are bytes
        copies = 1 if self.exchange.plan.mode.own_data else self.instance.local_replicas
        return Stream(stored, copies, finish)

    def steps_a_call(self, wanted: int, steps_per_epoch: int, every: int = 0) -> int:
        """Whatever is wanted, :func:`whole_calls`: another number of steps would be another program.

        A program for all calls, also where they must end at each multiple of ``every``.
        """
        most = self.description.steps_per_execution
        longest = whole_calls(steps_per_epoch, most)
        if 2 * longest <= min(most, steps_per_epoch) and steps_per_epoch not in self._warned:
            self._warned.add(steps_per_epoch)
            warnings.warn(
                f"an epoch of {steps_per_epoch} steps is a whole number of calls of at most {most} steps only if a "
                f"call takes {longest}, and each call costs a round trip to the host. An epoch of "
                f"{better_epoch(steps_per_epoch, most)} steps would do with fewer: choose another batch_size, "
                "steps_per_epoch or steps_per_execution",
                stacklevel=2,
            )
        return whole_calls(math.gcd(steps_per_epoch, every), most)

    def loop(self, step: Step) -> Callable[[Any, int, int, Sequence[float]], List[float]]:
        infeed = Infeed()
        compared = step.model.trainable_variables if self.check_replicas else ()
        own_data = self.exchange.plan.mode.own_data
        per_step = step.method.batches * (self.instance.local_replicas if own_data else 1)
        # A program is bound to the infeed and the outfeed that it was compiled with.
        programs: Dict[Tuple[Any, int], Callable[..., Any]] = {}
        with self:  # here and not while a program is traced: variables that it takes seeds from
            for method in (step.method, *(getattr(step.method, phase, None) for phase in ("before", "after"))):
                if hasattr(method, "seed"):
                    seed_words(method.seed)

        def run(stream: Any, n: int, done: int, sums: Sequence[float]) -> List[float]:
            place = tf.constant(done)
            with self:
                iterator = infeed.iterator(stream, n * per_step)
                key = iterator, n
                if key not in programs:
                    for old in [old for old in programs if old[0] is not iterator]:
                        del programs[old]
                    programs[key] = self._queued(
                        lambda enqueue: train_program(step, n, enqueue, compared, stream.finish)
                    )
                sent = programs[key](iterator, place)
            self._compiled = True
            if not self.has_numbers:
                return [done + float(n), *[float("nan")] * (len(MEASURES) - 1), 1.0]
            if compared:
                _check_alike(sent["fingerprint"], done)
            return _added(sent["measures"], sums)

        return run

    #: A program tells the host of loss and accuracy; variables are read from the first replica only.
    keeps_metrics = False

    def evaluation(self, objective: Objective) -> Callable[[Any], Any]:
        def make(program: Callable[[Any], Any]) -> Callable[[Any], Optional[np.ndarray]]:
            run = self._queued(program)
            return lambda iterator: _rows(run(iterator))

        return Evaluation(objective, self.instance.local_replicas, make)

    def _queued(self, make: Callable[[Callable], Any]) -> Callable[..., Any]:
        """A program with an outfeed of its own: runs it, and gives what it enqueued, [steps, replicas, ...]."""
        queue = self._ipu.ipu_outfeed_queue.IPUOutfeedQueue()
        program = make(queue.enqueue)

        def run(*arguments: Any) -> Any:
            self.strategy.run(program, args=arguments)
            if not self.has_numbers:  # a queue that nothing comes out of is not waited for
                return None
            return tf.nest.map_structure(self._by_replica, queue.dequeue())

        return run

    def _by_replica(self, sent: Any) -> np.ndarray:
        values = np.asarray(sent)
        return values[:, np.newaxis] if self.instance.local_replicas == 1 else values  # then there is no such axis


def whole_calls(steps_per_epoch: int, most: int) -> int:
    """The longest call of at most so many steps that an epoch is a whole number of.

    One program then serves all calls; a shorter one at the end of each epoch would be compiled for itself, and read
    an infeed that another program has been reading ahead from.

    Example:
      >>> whole_calls(1406, 100), whole_calls(37, 100), whole_calls(1500, 100)
      (74, 37, 100)
    """
    return next(n for n in range(min(most, steps_per_epoch), 0, -1) if steps_per_epoch % n == 0)


def better_epoch(steps_per_epoch: int, most: int) -> int:
    """The longest epoch of at most so many steps that is a whole number of calls of ``most``, or one call.

    Example:
      >>> better_epoch(1409, 100), better_epoch(97, 64)
      (1400, 64)
    """
    return steps_per_epoch - steps_per_epoch % most


def _rows(sent: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """What a validation sent, [batches, REPORTED]; None where it sent nothing."""
    return None if sent is None else sent.reshape(-1, len(REPORTED))


def _added(measures: np.ndarray, sums: Sequence[float]) -> List[float]:
    """The sums, with the steps of a call added to them up to the first that was not finite, and whether all were.

    ``measures`` are [steps, replicas, TOLD]; of the replicas the mean counts.
    """
    totals = np.array(sums, np.float64)
    for row in measures.astype(np.float64):
        if row[:, -1].min() <= 0.0:
            return [*totals.tolist(), 0.0]
        totals += row[:, : len(MEASURES)].mean(axis=0)
    return [*totals.tolist(), 1.0]


def _check_alike(fingerprints: np.ndarray, done: int) -> None:
    """Refuses to go on with replicas that differ: fingerprints int32 [steps, replicas]."""
    steps, replicas = np.nonzero(fingerprints != fingerprints[:, :1])
    if steps.size:
        others: Tuple[int, ...] = tuple(int(r) for r in replicas[steps == steps[0]])
        raise ReplicaError(
            f"after step {done + int(steps[0])} of the epoch the weights of replicas {others} differ from those of "
            "replica 0; what was recorded before is kept"
        )
