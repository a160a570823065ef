"""One step of K workers: what each one sends, the exchange, the update that follows (Algorithm 1).

``follow`` makes the update of what was received and of nothing else: a replay log keeps just that.

Workers that one process plays take turns with one model, and none finds what another has left in it.
"""

import contextlib
import functools
import inspect
from typing import Any, Iterator, List, NamedTuple, Sequence, Tuple

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
      words: what :func:`follow` has made the update of, int32 [rows, words] of a :class:`Form`; None where the update
        itself was sent.
    """

    update: Any
    report: Any
    finite: Any
    words: Any = None


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
    size, words = sent[0].shape[0], None
    if plan.exchange == "update" or summed(method, plan):
        # Steps are averaged on the way, which moves 2 (K - 1) / K of one instead of K - 1. Coordinates of one basis
        # are few: they are added up in the order of the workers, so that their sum has the same bits everywhere.
        joined = [tf.concat(pair, axis=0) for pair in zip(sent, reports)]
        mean = exchange.mean_all(joined, ordered=plan.exchange != "update")
        update, report = mean[:size], mean[size:]
        finite = tf.math.is_finite(tf.reduce_sum(mean))
        if plan.exchange == "update":
            update = _weighted(update, plan, exchange.workers)
        else:
            words = update[tf.newaxis]
            update, _ = follow(method, plan, exchange.workers, words, size, step)
    else:
        wire = _wire(method, plan)
        coded = [_joined(wire.encode(one), report) for one, report in zip(sent, reports)]
        cut = wire.words(size)
        if method.groups.size > 1:
            gathered = exchange.gather_groups(coded, method.groups, functools.partial(_passed_on, method, cut, step))
        else:
            gathered = exchange.gather_all(coded)
        words = gathered[:, :cut]
        update, messages = follow(method, plan, exchange.workers, words, size, step)
        with tf.control_dependencies([update]):  # small things come last: a thread less to wake
            all_reports = _bits(gathered[:, cut:], tf.float32)
            numbers = update if method.packed else messages
            finite = tf.math.is_finite(tf.reduce_sum(numbers) + tf.reduce_sum(all_reports))
            report = tf.reduce_mean(all_reports, axis=0)
    return Received(update, report, finite, None if words is None else _bits(words, tf.int32))


def _passed_on(method: Any, cut: int, step: Any, rows: Any, level: int, leader: Any) -> Any:
    """What a leader makes of the rows of its group: its message, and the mean of their reports."""
    report = tf.reduce_mean(_bits(rows[:, cut:], tf.float32), axis=0)
    return _joined(method.pass_on(rows[:, :cut], step, level, leader), report)


def follow(method: Any, plan: Plan, workers: int, words: Any, size: int, step: Any) -> Tuple[Any, Any]:
    """(the update [D], the messages [rows, size]) that follow from what all workers have received.

    Pure: of the words, the method's hyper-parameters and the step. A step and its replay both call it.

    Args:
      plan: from :func:`settle`.
      workers: K.
      words: as they have crossed the wire, [rows, words] of a :class:`Form`, in the type of the wire.
      size: m, numbers of a message (of a packed one: its words).
      step: int32 scalar, the number of updates before.
    """
    if summed(method, plan):
        messages = applied = words
    else:
        messages = applied = _wire(method, plan).decode(words, size)
        if not method.packed and not plan.mode.own_basis:
            applied = tf.reduce_mean(messages, axis=0, keepdims=True)
    return _weighted(method.update(applied, step), plan, workers), messages


class Form(NamedTuple):
    """What of a step reaches every worker, as far as the update follows from it.

    Attributes:
      rows: K messages; 1 where they are added up on the way, and of groups, one of each last leader.
      words: of 32 bits in a row.
      bytes: of a row that say something; what comes after them fills up a word.
      size: m, see :func:`follow`.
      integer: whether words are int32; else float32.
    """

    rows: int
    words: int
    bytes: int
    size: int
    integer: bool

    def typed(self, words: Any) -> Any:
        """int32 words in the type of the wire."""
        return words if self.integer else tf.bitcast(words, tf.float32)


def form_of(method: Any, plan: Plan, workers: int) -> Form:
    """The form of a step of a method that has been built, with ``exchange="coordinates"``.

    Example:
      >>> from rbd_ipu import methods
      >>> method = methods.create("rbd", learning_rate=1.0, dim=50)
      >>> method.build([(20, 10)])
      >>> form_of(method, Plan(wire="int8"), 2)
      Form(rows=2, words=14, bytes=56, size=50, integer=True)
    """
    if method.packed:
        words = -(-method.message_bytes // 4)
        return Form(method.groups.messages(workers), words, method.message_bytes, words, True)
    if summed(method, plan):
        return Form(1, method.dim, 4 * method.dim, method.dim, False)
    words = WIRES.get(plan.wire).words(method.dim)
    return Form(workers, words, 4 * words, method.dim, plan.wire != "float32")


def summed(method: Any, plan: Plan) -> bool:
    """Whether the coordinates of one basis are added up on the way."""
    return not method.packed and not plan.mode.own_basis and plan.wire == "float32"


def _wire(method: Any, plan: Plan) -> Any:
    return AS_IT_IS if method.packed else WIRES.get(plan.wire)


def _weighted(update: Any, plan: Plan, workers: int) -> Any:
    weight = weight_of(plan.mode, workers)
    return update if weight == 1.0 else weight * update


def _joined(words: Any, report: Any) -> Any:
    return tf.concat([words, _bits(report, words.dtype)], axis=0)


def _bits(values: Any, kind: Any) -> Any:
    return values if values.dtype == kind else tf.bitcast(values, kind)


def settle(method: Any, exchange: Exchange, logged: bool = False) -> Plan:
    """The plan with ``exchange="auto"`` decided, for a method that has been built; ``exchange.note`` says how.

    Args:
      logged: whether messages are kept, for a replay.

    Raises:
      ValueError: the method cannot be shared among the workers as planned; with the reason.
    """
    plan = exchange.plan
    _check_fit(method, exchange)
    if plan.exchange != "auto":
        return plan
    work = work_of(method, exchange.workers, plan.parallel)
    if logged:
        choice = Choice("coordinates", "exchange=coordinates: they are what a replay log keeps")
    elif not sends_steps(method):
        choice = Choice("coordinates", f"exchange=coordinates: all that method {method.name!r} can send")
    elif work.dim is None and plan.wire != "float32":
        raise ValueError(
            f"wire {plan.wire!r} is for coordinates, and method {method.name!r} has none; use wire='float32'"
        )
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
    check_groups(method, exchange)
    if not getattr(method, "parallel", True):
        reason = getattr(method, "not_parallel_because", "its steps follow on each other")
        raise ValueError(f"method {method.name!r} runs on one worker only, not on {exchange.workers}: {reason}")
    if method.one_basis and (plan.mode.own_basis or not exchange.grouped):
        raise ValueError(
            f"method {method.name!r} with state='coordinates' has one state for the coordinates of all workers: use "
            f"parallel='shared' with simulated workers or workers of MPI, not {plan.parallel!r} with "
            f"{type(exchange).__name__}"
        )
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


def check_groups(method: Any, exchange: Exchange) -> None:
    """Refuses groups that these workers cannot form.

    Raises:
      ValueError: there are others than whole groups have, or they are connected otherwise than groups need.
    """
    method.groups.check(exchange.workers)
    if method.groups.size > 1 and not exchange.grouped:
        raise ValueError(
            f"group_size={method.groups.size} is for simulate_workers and for workers of MPI (mpiexec, --workers); "
            f"got {exchange.workers} workers of another kind ({type(exchange).__name__})"
        )


def sends_steps(method: Any) -> bool:
    """Whether ``exchange="update"`` is possible: the method can make its own step from the basis of any worker."""
    return "worker" in inspect.signature(method.step).parameters and not method.one_basis
