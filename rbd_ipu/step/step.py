"""One update, from a mini-batch to changed weights: what the loop of every device repeats."""

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from rbd_ipu._compat import apply_update, tensors, tf
from rbd_ipu.methods import Method
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.parallel.exchange import Exchange
from rbd_ipu.parallel.round import Heard, Turns, hear, settle, tell
from rbd_ipu.step.model_state import State, unflatten
from rbd_ipu.vectors import likeness

#: What a step measures, in order: float32 scalars, all to be summed. Those of REPORTED are sums over examples
#: already, so that a short batch counts as little as it should. ``cosine`` and ``correlation`` are 0 at steps that
#: are not ``compared``: to compare the update with the gradient takes five passes over both, as long as a small
#: network.
MEASURES = ("steps", "compared", *REPORTED, "cosine", "correlation")

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
    """

    run: Run
    model: Any
    method: Any
    propose: Callable[..., Proposal]
    apply: Callable[[Any], Any]
    undo: Callable[[Any], Any]


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
) -> Step:
    """The function ``(next_batch, place) -> measures`` that makes one update, to be called in a traced function.

    ``next_batch()`` gives this worker's next mini-batch, (x, y) or (x, y, weights), ``next_batch(i)`` that of the
    i-th worker where this process plays several; ``place`` is the step's number in its epoch. What is REPORTED is the
    mean over all workers, cosine and correlation are those of the first worker that this process plays. A step at
    which the loss of a worker or the update is not finite changes no weights, on any worker; its measures say
    ``finite`` = 0.

    ``part`` and ``subtract`` are those of the device, see :class:`rbd_ipu.devices.Device`.

    Raises:
      ValueError: the method cannot be shared among workers as planned.
    """
    plan = settle(method, exchange) if exchange.workers > 1 else exchange.plan

    def descend(next_batch: Callable[..., Any], step: Any) -> Any:
        """(the first worker's part, what is known after the exchange)."""
        if exchange.workers == 1:
            state, batch = _begun(next_batch)
            update = method.step(state, batch, step)
            report = _report(objective, state, batch)
            # A sum is not finite when an entry is not.
            finite = tf.math.is_finite(report[1]) & tf.math.is_finite(tf.reduce_sum(update))
            return Part(state, batch, report), Heard(update, report, finite)
        told, parts, played = [], [], exchange.played()
        turns = Turns(tensors(model.non_trainable_variables) if len(played) > 1 else [])
        for i, worker in enumerate(played):
            with turns.turn(i):
                state, batch = _begun(next_batch if len(played) == 1 else functools.partial(next_batch, i))
                told.append(tell(method, plan, state, batch, step, worker))
                parts.append(Part(state, batch, _report(objective, state, batch)))
        return parts[0], hear(method, exchange, plan, told, [part.report for part in parts], step)

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
        first, heard = descend(next_batch, step)
        compared = tf.equal(place % compare_every, 0)
        if method.follows_gradient:
            cosine = correlation = tf.cast(compared, tf.float32)
        else:
            cosine, correlation = tf.cond(
                compared,
                lambda: likeness(heard.update, first.state.gradient(first.batch)),
                lambda: (tf.constant(0.0), tf.constant(0.0)),
            )
        finite = alive & heard.finite & tf.math.is_finite(tf.reduce_sum(heard.update))
        measures = {
            "steps": tf.constant(1.0),
            "compared": tf.cast(compared, tf.float32),
            **dict(zip(REPORTED, [*tf.unstack(heard.report), *[tf.constant(0.0)] * len(REPORTED)])),
            "cosine": cosine,
            "correlation": correlation,
            "finite": tf.cast(finite, tf.float32),
        }
        return Proposal(heard.update, finite, measures, before)

    def apply(update: Any) -> Any:
        subtract(optimizer, list(zip(unflatten(update, variables), variables)))
        return tf.constant(0)

    def undo(before: List[Any]) -> Any:
        """A step that is not applied leaves nothing behind: no moving statistics of batch normalisation either."""
        for variable, value in zip(beside(), before):
            variable.assign(value)
        return tf.constant(0)

    def run(next_batch: Callable[..., Any], place: Any, alive: Any = True) -> Dict[str, Any]:
        proposal = propose(next_batch, place, alive)
        tf.cond(proposal.finite, lambda: apply(proposal.update), lambda: undo(proposal.before))
        return proposal.measures

    return Step(run, model, method, propose, apply, undo)


def _report(objective: Objective, state: State, batch: Any) -> Any:
    seen = state.look(batch)  # evaluated already, unless the method needs no gradient
    return objective.report(batch, seen.outputs, seen.loss)
