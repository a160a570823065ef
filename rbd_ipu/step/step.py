"""One update, from a mini-batch to changed weights, and the place in a run that it leads to.

The loop of every device repeats it. The place in a run is plain numbers: a checkpoint keeps them, and a resumed
epoch ends with the same metrics.
"""

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import objective
from rbd_ipu._compat import apply_update, rate_of, tensors, tf
from rbd_ipu.methods import Method
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.parallel.exchange import Exchange
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.round import OutsideWeights, Received, follow, form_of, receive, send, settle
from rbd_ipu.step.model_state import State, unflatten
from rbd_ipu.vectors import likeness

#: What a step measures, in order: float32 scalars, all to be summed. Those of REPORTED are sums over examples
#: already, so that a short batch counts as little as it should. ``cosine`` and ``correlation`` are 0 at steps that
#: are not ``compared``: to compare the update with the gradient takes five passes over both, as long as a small
#: network.
MEASURES = ("steps", "compared", *REPORTED, "cosine", "correlation")

#: Beside them, in a step whose messages are kept: int32 [1 + rows * words], the bits of the learning rate, and what
#: was received (:class:`rbd_ipu.parallel.round.Form`).
LOGGED = "logged"

Run = Callable[..., Dict[str, Any]]


class Proposal(NamedTuple):
    """A step up to its last act.

    Attributes:
      update: what to subtract, in units of the learning rate: [D].
      finite: whether to do it: bool scalar.
      measures: by the names of ``MEASURES``, and ``finite`` once more: float32 scalars.
      before: what the model keeps beside its weights, as it was before the step.
    """

    update: Any
    finite: Any
    measures: Dict[str, Any]
    before: List[Any]


class Step(NamedTuple):
    """A step that can be traced.

    Attributes:
      run: ``(next_batch, place, alive=True) -> measures``; a step that is not alive changes no weights, as one that
        is not finite.
      model: the model that it trains.
      method: how.
      propose, apply, undo: the parts of ``run``, for a device on which they cannot be in one function:
        ``(next_batch, place, alive=True) -> Proposal``, ``(update) -> 0`` and ``(before) -> 0``.
      log: what keeps the messages: a function of the rows ``LOGGED`` of the steps of a call, int32 [n, ...]; or None.
    """

    run: Run
    model: Any
    method: Any
    propose: Callable[..., Proposal]
    apply: Callable[[Any], Any]
    undo: Callable[[Any], Any]
    log: Optional[Callable[[Any], None]] = None


class Part(NamedTuple):
    """A worker's part of a step: its state, its mini-batch, and its report on it, [r]."""

    state: State
    batch: Any
    report: Any


def one_step(
    model: Any,
    objective: Objective,
    method: Method,
    optimizer: Any,
    variables: List[Any],
    exchange: Exchange,
    compare_every: int,
    part: Callable[[Any, Any], Any] = lambda model, variables: (model, variables),
    subtract: Callable[[Any, Any], None] = apply_update,
    log: Optional[Callable[[Any], None]] = None,
) -> Step:
    """The function ``(next_batch, place) -> measures`` that makes one update, to be called in a traced function.

    ``next_batch()`` gives this worker's next mini-batch, (x, y) or (x, y, weights), ``next_batch(i)`` that of the
    i-th worker where this process plays several; ``place`` is the step's number in its epoch. What is REPORTED is the
    mean over all workers, cosine and correlation are those of the first worker that this process plays. A step at
    which the loss of a worker or the update is not finite changes no weights, on any worker; its measures say
    ``finite`` = 0.

    ``part`` and ``subtract`` are those of the device, see :class:`rbd_ipu.devices.Device`.

    With a ``log``, a single worker makes its step as several do: it sends a message, and applies what it received.

    Raises:
      ValueError: the method cannot be shared among workers as planned.
    """
    plan = settle(method, exchange, log is not None) if exchange.workers > 1 else exchange.plan

    def descend(next_batch: Callable[..., Any], step: Any) -> Any:
        """(the first worker's part, what is known after the exchange)."""
        if exchange.workers == 1 and log is None:
            state, batch = _begun(next_batch)
            update = method.step(state, batch, step)
            report = _report(objective, state, batch)
            # A sum is not finite when an entry is not.
            finite = tf.math.is_finite(report[1]) & tf.math.is_finite(tf.reduce_sum(update))
            return Part(state, batch, report), Received(update, report, finite)
        sent, parts, played = [], [], exchange.played()
        outside = OutsideWeights(tensors(model.non_trainable_variables) if len(played) > 1 else [])
        for i, worker in enumerate(played):
            with outside.worker(i):
                state, batch = _begun(next_batch if len(played) == 1 else functools.partial(next_batch, i))
                sent.append(send(method, plan, state, batch, step, worker))
                parts.append(Part(state, batch, _report(objective, state, batch)))
        return parts[0], receive(method, exchange, plan, sent, [part.report for part in parts], step)

    def beside() -> List[Any]:
        return tensors([*part(model, variables)[0].non_trainable_variables, *_metrics()])

    def _metrics() -> Sequence[Any]:
        return part(model, objective.variables)[1]

    def _begun(next_batch: Callable[[], Any]) -> Any:
        own, weights = part(model, variables)
        return State(own, objective, weights, next_batch, _metrics()), next_batch()

    def propose(next_batch: Callable[..., Any], place: Any, alive: Any = True) -> Proposal:
        before = [tf.identity(variable) for variable in beside()]
        step = tf.cast(optimizer.iterations, tf.int32)
        first, received = descend(next_batch, step)
        compared = tf.equal(place % compare_every, 0)
        if method.follows_gradient:
            cosine = correlation = tf.cast(compared, tf.float32)
        else:
            cosine, correlation = tf.cond(
                compared,
                lambda: likeness(received.update, first.state.gradient(first.batch)),
                lambda: (tf.constant(0.0), tf.constant(0.0)),
            )
        finite = alive & received.finite & tf.math.is_finite(tf.reduce_sum(received.update))
        measures = {
            "steps": tf.constant(1.0),
            "compared": tf.cast(compared, tf.float32),
            **dict(zip(REPORTED, [*tf.unstack(received.report), *[tf.constant(0.0)] * len(REPORTED)])),
            "cosine": cosine,
            "correlation": correlation,
            "finite": tf.cast(finite, tf.float32),
        }
        if log is not None:
            rate = tf.bitcast(rate_of(optimizer), tf.int32)
            measures[LOGGED] = tf.concat([rate[tf.newaxis], tf.reshape(received.words, [-1])], axis=0)
        return Proposal(received.update, finite, measures, before)

    def apply(update: Any) -> Any:
        return descend_by(update, optimizer, variables, subtract)

    def undo(before: List[Any]) -> Any:
        """A step that is not applied leaves nothing behind: no moving statistics of batch normalisation either."""
        for variable, value in zip(beside(), before):
            variable.assign(value)
        return tf.constant(0)

    def run(next_batch: Callable[..., Any], place: Any, alive: Any = True) -> Dict[str, Any]:
        proposal = propose(next_batch, place, alive)
        tf.cond(proposal.finite, lambda: apply(proposal.update), lambda: undo(proposal.before))
        return proposal.measures

    return Step(run, model, method, propose, apply, undo, log)


def descend_by(
    update: Any, optimizer: Any, variables: Sequence[Any], subtract: Callable[[Any, Any], None] = apply_update
) -> Any:
    """The last act of a step: the optimizer subtracts the update [D] from the variables."""
    subtract(optimizer, list(zip(unflatten(update, variables), variables)))
    return tf.constant(0)


def one_replayed(
    method: Method, optimizer: Any, variables: Sequence[Any], plan: Plan, workers: int
) -> Callable[[Any], Any]:
    """The function ``(row) -> good`` that makes a step again from its row ``LOGGED``, in a traced function.

    It ends as the step itself did: ``follow``, then ``descend_by``, at the learning rate of the row. ``good`` is 1;
    it is 0, and no weight has changed, where the update is not finite or a schedule gives another rate.
    """
    form = form_of(method, plan, workers)

    def run(row: Any) -> Any:
        rate = tf.bitcast(row[0], tf.float32)
        if hasattr(optimizer.learning_rate, "assign"):
            optimizer.learning_rate.assign(rate)
        same = tf.abs(rate_of(optimizer) - rate) <= 1e-5 * tf.abs(rate)
        words = form.typed(tf.reshape(row[1:], [form.rows, form.words]))
        step = tf.cast(optimizer.iterations, tf.int32)
        update, _ = follow(method, plan, workers, words, form.size, step)
        good = same & tf.math.is_finite(tf.reduce_sum(update))
        tf.cond(good, lambda: descend_by(update, optimizer, variables), lambda: tf.constant(0))
        return tf.cast(good, tf.float32)

    return run


def _report(objective: Objective, state: State, batch: Any) -> Any:
    seen = state.look(batch)  # evaluated already, unless the method needs no gradient
    return objective.report(batch, seen.outputs, seen.loss)


class Progress(NamedTuple):
    """A place in a run, between two calls of the loop.

    Attributes:
      epoch: finished epochs.
      step: finished steps of the present one.
      steps_per_epoch: how many it has; 0 is unknown.
      sums: over these steps, of what ``MEASURES`` names; behind them what Keras' metrics keep, if there are any, for
        each worker that has its own.
      seconds: training of the present epoch so far.
      timed_steps, timed_seconds: those that count for the speed: not the first call, which traces.
    """

    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    sums: Tuple[float, ...] = (0.0,) * len(MEASURES)
    seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0

    def after(self, steps: int, sums: Sequence[float], seconds: float, timed: bool) -> "Progress":
        """The place after a call of the loop that took so many steps; ``sums`` are the epoch's up to there."""
        return self._replace(
            step=self.step + steps,
            sums=tuple(sums),
            seconds=self.seconds + seconds,
            timed_steps=self.timed_steps + (steps if timed else 0),
            timed_seconds=self.timed_seconds + (seconds if timed else 0.0),
        )

    def within(self, steps_per_epoch: int) -> "Progress":
        """This place in epochs of so many steps.

        Raises:
          ValueError: it is a place in epochs of another number of steps.
        """
        if self.steps_per_epoch not in (0, steps_per_epoch) or not 0 <= self.step <= steps_per_epoch:
            raise ValueError(
                f"start is at step {self.step} of an epoch of {self.steps_per_epoch or '(unknown)'} steps, but the "
                f"data give {steps_per_epoch} steps an epoch: they are not those that were trained on"
            )
        if self.step and len(self.sums) < len(MEASURES):
            raise ValueError(
                f"start is in the middle of an epoch and holds {len(self.sums)} sums where this version has "
                f"{len(MEASURES)}: another version of rbd_ipu wrote it, which can go on from there"
            )
        sums = self.sums if self.step else Progress().sums
        return self._replace(steps_per_epoch=steps_per_epoch, sums=sums)


def means(sums: Sequence[float]) -> Dict[str, float]:
    """Metrics of an epoch from sums over its steps; ``accuracy`` only where outputs are classes.

    Example:
      >>> means([2.0, 0.0, 4.0, 2.0, 4.0, 3.0, 0.0, 0.0])
      {'loss': 0.5, 'accuracy': 0.75}
    """
    total = dict(zip(MEASURES, sums))
    found = objective.means([total[name] for name in objective.REPORTED])
    if total["compared"]:
        found.update({name: total[name] / total["compared"] for name in ("cosine", "correlation")})
    return found
