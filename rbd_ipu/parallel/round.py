"""One step of K workers: what each one sends, the exchange, the update that follows (Algorithm 1).

Workers that one process plays take turns with one model, and none finds what another has left in it.
"""

import contextlib
import inspect
from typing import Any, Iterator, List, NamedTuple, Sequence

from rbd_ipu._compat import tf
from rbd_ipu.parallel.cost_model import Choice, choose, work_of
from rbd_ipu.parallel.exchange import Exchange
from rbd_ipu.parallel.plan import AS_IT_IS, WIRES, Plan, basis_of, weight_of


class OutsideWeights:
    """What a model keeps beside its weights, such as the moving statistics of batch normalisation.

    Every worker finds what the first one found, and in the end what the first one left is there: so it is with real
    workers, who all take over worker 0's.

    Args:
      variables: all of it, at the beginning of the step.
    """

    def __init__(self, variables: Sequence[Any]):
        self._variables = list(variables)
        self._found = [tf.identity(variable) for variable in self._variables]
        self._left: List[Any] = []

    @contextlib.contextmanager
    def worker(self, i: int) -> Iterator[None]:
        """The time in which the i-th worker has the model, in a traced function."""
        if i:
            self._assign(self._found)
        yield
        if i:
            self._assign(self._left)
        else:
            self._left = [tf.identity(variable) for variable in self._variables]

    def _assign(self, values: Sequence[Any]) -> None:
        for variable, value in zip(self._variables, values):
            variable.assign(value)


class Received(NamedTuple):
    """What all workers know after the exchange, the same everywhere.

    Attributes:
      update: what to subtract, in units of the learning rate: [D].
      report: the mean of the workers' reports: [r].
      finite: whether all that anybody sent is finite: bool scalar.
    """

    update: Any
    report: Any
    finite: Any


def send(method: Any, plan: Plan, state: Any, batch: Any, step: Any, worker: Any) -> Any:
    """What a worker has to send about its mini-batch: its message [m], or with ``exchange="update"`` its step [D]."""
    if method.packed:  # one basis for all; the worker is who remembers
        return method.message(state, batch, step, worker)
    basis = basis_of(plan.mode, worker)
    if plan.exchange == "update":
        return method.step(state, batch, step, basis)
    return method.message(state, batch, step, basis)


def receive(
    method: Any, exchange: Exchange, plan: Plan, sent: Sequence[Any], reports: Sequence[Any], step: Any
) -> Received:
    """The exchange, and the update that follows from it.

    Args:
      plan: from :func:`settle`.
      sent: from :func:`send`, one for each worker that this process plays.
      reports: for each a few numbers about its mini-batch: float32 [r]. They travel with the rest, uncompressed, so
        that all workers see the same losses and stop at the same step if one is not finite.
    """
    size = sent[0].shape[0]
    summed = not method.packed and not plan.mode.own_basis and plan.wire == "float32"
    if plan.exchange == "update" or summed:
        # Steps are averaged on the way, which moves 2 (K - 1) / K of one instead of K - 1. Coordinates of one basis
        # are few: they are added up in the order of the workers, so that their sum has the same bits everywhere.
        joined = [tf.concat(pair, axis=0) for pair in zip(sent, reports)]
        mean = exchange.mean_all(joined, ordered=plan.exchange != "update")
        update, report = mean[:size], mean[size:]
        finite = tf.math.is_finite(tf.reduce_sum(mean))
        if plan.exchange != "update":
            update = method.update(update[tf.newaxis], step)
    else:
        wire = AS_IT_IS if method.packed else WIRES.get(plan.wire)
        words = [_joined(wire.encode(one), report) for one, report in zip(sent, reports)]
        gathered, cut = exchange.gather_all(words), wire.words(size)
        messages = wire.decode(gathered[:, :cut], size)
        applied = (
            messages if method.packed or plan.mode.own_basis else tf.reduce_mean(messages, axis=0, keepdims=True)
        )
        update = method.update(applied, step)
        with tf.control_dependencies([update]):  # small things come last: a thread less to wake
            all_reports = _bits(gathered[:, cut:], tf.float32)
            numbers = update if method.packed else messages
            finite = tf.math.is_finite(tf.reduce_sum(numbers) + tf.reduce_sum(all_reports))
            report = tf.reduce_mean(all_reports, axis=0)
    weight = weight_of(plan.mode, exchange.workers)
    return Received(update if weight == 1.0 else weight * update, report, finite)


def _joined(words: Any, report: Any) -> Any:
    return tf.concat([words, _bits(report, words.dtype)], axis=0)


def _bits(values: Any, kind: Any) -> Any:
    return values if values.dtype == kind else tf.bitcast(values, kind)


def settle(method: Any, exchange: Exchange) -> Plan:
    """The plan with ``exchange="auto"`` decided, for a method that has been built; ``exchange.note`` says how.

    Raises:
      ValueError: the method cannot be shared among the workers as planned; with the reason.
    """
    plan = exchange.plan
    _check_fit(method, exchange)
    if plan.exchange != "auto":
        return plan
    work = work_of(method, exchange.workers, plan.parallel)
    if not sends_steps(method):
        choice = Choice("coordinates", f"exchange=coordinates: all that method {method.name!r} can send")
    elif work.dim is None:
        choice = Choice("update", f"exchange=update: method {method.name!r} has no coordinates")
    elif plan.wire != "float32":
        choice = Choice("coordinates", f"exchange=coordinates: they are what wire={plan.wire} is for")
    else:
        choice = choose(work)
    exchange.note = choice.why
    return plan._replace(exchange=choice.exchange)


def _check_fit(method: Any, exchange: Exchange) -> None:
    plan = exchange.plan
    if not getattr(method, "parallel", True):
        reason = getattr(method, "not_parallel_because", "its steps follow on each other")
        raise ValueError(f"method {method.name!r} runs on one worker only, not on {exchange.workers}: {reason}")
    if method.follows_gradient and plan.parallel in ("same-data", "split"):
        raise ValueError(
            f"parallel={plan.parallel!r} shares directions among workers, and method {method.name!r} has none; "
            "use parallel='own'"
        )
    if method.packed and (plan.parallel in ("same-data", "split") or plan.wire != "float32"):
        raise ValueError(
            f"method {method.name!r} has one basis for all workers, each with data of its own, and a format of its "
            f"own (bits): use parallel='own' and wire='float32', not {plan.parallel!r} and {plan.wire!r}"
        )
    if plan.exchange == "update" and not sends_steps(method):
        raise ValueError(
            f"method {method.name!r} has no step of a single worker to average; use exchange='coordinates'"
        )


def sends_steps(method: Any) -> bool:
    """Whether ``exchange="update"`` is possible: the method can make its own step from the basis of any worker."""
    return "worker" in inspect.signature(method.step).parameters
