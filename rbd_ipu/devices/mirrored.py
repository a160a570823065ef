"""Several devices of this machine by ``MirroredStrategy``: a worker on each, all in one process.

Weights are mirrored: a copy on each device, changed by all replicas together. All else that a model keeps, such as
the moving statistics of batch normalisation, is each replica's own; whoever reads it from outside gets replica 0's.
"""

import contextlib
import functools
from typing import Any, Callable, Dict, List, Sequence, Tuple

from rbd_ipu._compat import KERAS_3, apply_update, tensors, tf
from rbd_ipu.devices.local import Device
from rbd_ipu.errors import WorkersError
from rbd_ipu.objective import Objective
from rbd_ipu.parallel.exchange import Exchange, Mirrored, replica
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.step import Step, evaluate_all, train_steps

_FIRST = tf.VariableAggregation.ONLY_FIRST_REPLICA
_SHARED = (None, tf.VariableAggregation.NONE, tf.VariableAggregation.MEAN)


def beside_the_weights(create: Callable[..., Any], **options: Any) -> Any:
    """A variable creator for ``tf.variable_creator_scope``: what is not trained becomes each replica's own.

    Left to themselves, no replica may change the moving statistics of Keras 3, and reading those of Keras 2 takes the
    mean of the replicas'.
    """
    if options.get("trainable") is False and options.get("aggregation") in _SHARED:
        options.update(synchronization=tf.VariableSynchronization.ON_READ, aggregation=_FIRST)
    return create(**options)


def is_at_home(strategy: Any, model: Any) -> bool:
    """Whether a model was built in the scopes of a strategy and of :func:`beside_the_weights`."""
    return all(
        strategy.extended.variable_created_in_scope(variable)
        and (variable.trainable or variable.aggregation not in _SHARED)
        for variable in tensors(model.variables)
    )


def own(variables: Sequence[Any]) -> List[Any]:
    """The copies that the replica which is being traced has: it may assign to them wherever it wants to."""
    copies = tf.distribute.get_strategy().experimental_local_results
    return [copies(variable)[replica()] for variable in tensors(variables)]


class Part:
    """A model as the replica that is being traced has it: the same function, of its own copies of the variables."""

    def __init__(self, model: Any):
        self._model = model
        self.variables = own(model.variables)
        self.non_trainable_variables = own(model.non_trainable_variables)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._model(*arguments, **options)

    @property
    def losses(self) -> List[Any]:
        """Regularisers of the last call."""
        return self._model.losses


def subtract(optimizer: Any, pairs: Sequence[Tuple[Any, Any]]) -> None:
    """Applies (update, variable) pairs that all replicas hold alike, on each replica its own; nothing is sent.

    To be called by all replicas, outside of ``tf.cond`` and ``tf.while_loop``. Keras 2 can do it; Keras 3 would add
    the replicas' updates up, so that here its optimizer is asked for the step of each variable.
    """
    if not KERAS_3:
        apply_update(optimizer, pairs)
        return
    variables = [variable for _, variable in pairs]

    def on_all(strategy: Any, updates: Any) -> None:
        rate = optimizer.learning_rate
        for variable, update in zip(variables, updates):
            change = functools.partial(_change, optimizer, rate, variable.constraint)
            strategy.extended.update(variable.value, change, args=(update,), group=False)
        optimizer.iterations.assign_add(1)

    tf.distribute.get_replica_context().merge_call(on_all, args=([update for update, _ in pairs],))


def _change(optimizer: Any, rate: Any, constraint: Any, variable: Any, update: Any) -> None:
    optimizer.update_step(update, variable, rate)
    if constraint is not None:
        variable.assign(constraint(variable))


class MirroredDevices(Device):
    """The first few CPUs or GPUs that TensorFlow has here, each with a replica of the model: worker 0, 1, ...

    A :class:`tf.distribute.MirroredStrategy`. Models are built inside it. Weights are the same on all devices, which
    is checked after every epoch. What a model keeps beside them (moving statistics of batch normalisation) follows
    worker 0's batches: after each call of the loop all replicas take worker 0's. Validation runs on the first device.

    Args:
      kind: "cpu" or "gpu".
      count: K, how many; the CPU is cut into as many logical devices, where TensorFlow has not started yet.
      plan: how the workers share a step.

    Raises:
      RuntimeError: there are fewer; the message says how many.
    """

    def __init__(self, kind: str, count: int, plan: Plan):
        self.name = f"{kind}:{count}"
        # The sum is made on one device and copied: the same bits everywhere. (TensorFlow's collectives, its default,
        # would confuse two strategies of one process.)
        self.strategy = tf.distribute.MirroredStrategy(
            find(kind, count), cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
        self.exchange: Exchange = Mirrored(count, plan)
        self._entered: List[Any] = []
        self._model: Any = None

    def __enter__(self) -> "MirroredDevices":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.strategy.scope())
            stack.enter_context(tf.variable_creator_scope(beside_the_weights))
            self._entered.append(stack.pop_all())
        return self

    def is_home(self, model: Any) -> bool:
        return is_at_home(self.strategy, model)

    def part(self, model: Any, variables: Sequence[Any]) -> Tuple[Any, Sequence[Any]]:
        return Part(model), own(variables)

    def subtract(self, optimizer: Any, pairs: Sequence[Tuple[Any, Any]]) -> None:
        subtract(optimizer, pairs)

    def loop(self, step: Step) -> Callable[[Any, int, int, Sequence[float]], List[float]]:
        compiled = train_steps(lambda next_batch, place: on_all(self.strategy, step, next_batch, place))
        self._model = step.model

        def run(iterators: Any, n: int, done: int, sums: Sequence[float]) -> List[float]:
            with self:
                found = compiled(iterators, tf.constant(n), tf.constant(done), tf.constant(sums, tf.float64))
            for variable in tensors(step.model.non_trainable_variables):
                first, *others = self.strategy.experimental_local_results(variable)
                for other in others:
                    other.assign(first)
            return [float(value) for value in found]

        return run

    def evaluation(self, objective: Objective) -> Callable[[Any], Any]:
        each = self.strategy.experimental_local_results
        # What is alike on all of them is looked at once.
        return evaluate_all(objective, lambda function: each(self.strategy.run(function))[0])

    def copies(self, variable: Any) -> Sequence[Any]:
        return self.strategy.experimental_local_results(variable)

    def measured(self) -> Dict[str, float]:
        """No columns; refuses to go on with replicas that differ: an error of the machine, or of this package."""
        copies = self.strategy.experimental_local_results
        rows = [[copy.numpy().tobytes() for copy in copies(v)] for v in tensors(self._model.variables)]
        others = [k for k in range(self.exchange.workers) if any(row[k] != row[0] for row in rows)]
        if others:
            step = int(self._model.optimizer.iterations.numpy())
            raise WorkersError(f"after step {step} the weights of replicas {others} differ from those of replica 0")
        return {}


def on_all(strategy: Any, step: Step, next_batch: Callable[[int], Any], place: Any) -> Dict[str, Any]:
    """One step on all replicas, from the outside: TensorFlow refuses collectives and updates in branches of theirs.

    Each proposes (on its own batch, ``next_batch(k)``, and with an exchange in the middle), and all apply if all have
    found it finite.

    Returns:
      The measures of replica 0; ``finite`` is that of all.
    """

    def propose() -> Any:
        k = replica()
        return step.propose(lambda: next_batch(k), place)

    proposal = strategy.run(propose)
    each = strategy.experimental_local_results
    finite = tf.reduce_all(tf.stack(each(proposal.finite)))
    tf.cond(
        finite,
        lambda: each(strategy.run(step.apply, args=(proposal.update,)))[0],
        lambda: each(strategy.run(step.undo, args=(proposal.before,)))[0],
    )
    measures = {name: each(values)[0] for name, values in proposal.measures.items()}
    return {**measures, "finite": tf.cast(finite, tf.float32)}


def find(kind: str, count: int) -> List[str]:
    """The names of the first ``count`` devices of a kind.

    Raises:
      RuntimeError: there are fewer.
    """
    if kind == "cpu":
        cpu = tf.config.list_physical_devices("CPU")[0]
        if tf.config.get_logical_device_configuration(cpu) is None:
            with contextlib.suppress(RuntimeError):  # too late: TensorFlow has started
                tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    found = [device.name for device in tf.config.list_logical_devices(kind.upper())]
    if len(found) < count:
        late = "; it cuts a CPU up before it starts only: open the device first" if kind == "cpu" else ""
        there = f"TensorFlow sees {len(found)} on this machine"
        raise RuntimeError(f"{kind}:{count} needs {count} {kind.upper()} devices; {there}{late}")
    return found[:count]
