"""One step: the model's state as a vector, the update from a mini-batch to changed weights, the loop over many steps.

The loop of every device repeats the update: one function, run by the strategy, n steps a call. The place in a run is
plain numbers: a checkpoint keeps them, and a resumed epoch ends with the same metrics.
"""

import contextlib
import functools
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import objective
from rbd_ipu._compat import apply_update, as_it_is, as_written_by_users, program, rate_of, tensors, tf
from rbd_ipu.methods import Method
from rbd_ipu.methods.base import likeness
from rbd_ipu.objective import REPORTED, Objective
from rbd_ipu.parallel.exchange import Exchange
from rbd_ipu.parallel.plan import Plan
from rbd_ipu.parallel.round import OutsideWeights, Received, follow, form_of, receive, send, settle


class Evaluation(NamedTuple):
    """A mini-batch seen by the model: mean loss [], outputs [B, ...], gradient of the loss [D]."""

    loss: Any
    outputs: Any
    gradient: Any


class State:
    """The model at its present weights; a new one is made for each step.

    Whatever a method asks for, a mini-batch leaves its mark on the model once: of several passes over it (a gradient
    after :meth:`look`, weights beside the present ones) the first counts, and the moving statistics of batch
    normalisation are kept out of the others.

    Args:
      model: a Keras model.
      objective: its :class:`rbd_ipu.objective.Objective`, ``(batch, training) -> (loss [], outputs)``.
      variables: the trainable variables, in the order in which they make the flat vector.
      next_batch: gives a further mini-batch, for methods whose step takes several.
      beside: more variables that a pass may change, those of metrics.
    """

    def __init__(
        self,
        model: Any,
        objective: Callable[..., Any],
        variables: Sequence[Any],
        next_batch: Optional[Callable[[], Any]] = None,
        beside: Sequence[Any] = (),
    ):
        self.model = model
        self.objective = objective
        self.variables = list(variables)
        self.next_batch = next_batch
        self.beside = list(beside)
        self._seen: List[Any] = []

    def evaluate(self, batch: Any) -> Evaluation:
        """Loss, outputs and gradient; asked twice about a batch, it computes once."""
        known = self._find(batch)
        if known is not None and known.gradient is not None:
            return known
        # Seen without a gradient before: this pass is not the one that counts.
        with self.untouched([] if known is None else [*self.model.non_trainable_variables, *self.beside]):
            with tf.GradientTape() as tape:
                loss, outputs = self._forward(batch)
            gradients = tape.gradient(
                loss, tensors(self.variables), unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        return self._keep(batch, Evaluation(loss, outputs, flatten(gradients)))

    def look(self, batch: Any) -> Evaluation:
        """Loss and outputs by a forward pass alone; the gradient is None unless it is known already."""
        known = self._find(batch)
        if known is not None:
            return known
        loss, outputs = self._forward(batch)
        return self._keep(batch, Evaluation(loss, outputs, None))

    def gradient(self, batch: Any) -> Any:
        """g = grad L(theta) on a mini-batch: float32 [D]."""
        return self.evaluate(batch).gradient

    def weights(self) -> Any:
        """theta: float32 [D]."""
        return flatten(self.variables)

    def loss_at(self, weights: Any, batch: Any) -> Any:
        """L(weights) on a mini-batch: float32 [D] -> []. Within :meth:`untouched` only: it leaves the weights there.

        In training mode, as the gradient is: batch normalisation takes the statistics of the mini-batch.
        """
        for variable, value in zip(tensors(self.variables), unflatten(weights, self.variables)):
            variable.assign(value)
        return tf.cast(self._forward(batch)[0], tf.float32)

    @contextlib.contextmanager
    def untouched(self, variables: Optional[Sequence[Any]] = None) -> Iterator[None]:
        """Puts variables (None: all of the model) back afterwards, bit for bit: values are saved, not computed."""
        kept = tensors([*self.model.variables, *self.beside] if variables is None else variables)
        values = [tf.identity(variable) for variable in kept]
        try:
            yield
        finally:
            for variable, value in zip(kept, values):
                variable.assign(value)

    def _forward(self, batch: Any) -> Any:
        return self.objective(batch, training=True)

    def _find(self, batch: Any) -> Optional[Evaluation]:
        """What is known of a mini-batch here: results from inside a branch or a loop cannot be used outside."""
        found = [e for known, e in self._seen if known is batch and _visible(e.loss)]
        return found[-1] if found else None

    def _keep(self, batch: Any, evaluation: Evaluation) -> Evaluation:
        self._seen.append((batch, evaluation))
        return evaluation


def _visible(tensor: Any) -> bool:
    """Whether a tensor belongs to the graph that is being made, or to one around it."""
    if tf.executing_eagerly():
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def flatten(arrays: Sequence[Any]) -> Any:
    """One float32 vector [D] of tensors of any rank; sparse gradients are made dense."""
    return tf.concat([flat_piece(a) for a in arrays], axis=0)


def flat_piece(array: Any, size: int = -1) -> Any:
    """One of them: [n], float32. TensorFlow may not know the shape of a gradient, as with masks; ``size`` says it."""
    return tf.reshape(tf.cast(tf.convert_to_tensor(array), tf.float32), [size])


def unflatten(vector: Any, like: Sequence[Any]) -> List[Any]:
    """The vector [D] in pieces of the shapes and types of ``like``."""
    like = tensors(like)
    pieces = tf.split(vector, [int(variable.shape.num_elements()) for variable in like])
    return [shaped(piece, variable) for piece, variable in zip(pieces, like)]


def shaped(piece: Any, like: Any) -> Any:
    """A piece [n] in the shape and type of a tensor or variable."""
    return tf.cast(tf.reshape(piece, like.shape), like.dtype)


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
        first, received = as_written_by_users(descend, method)(next_batch, step)
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
        update, _ = as_written_by_users(follow, method)(method, plan, workers, words, form.size, step)
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


def train_steps(step: Run, logged: bool = False) -> Callable[[Any, Any, Any, Any], Any]:
    """The compiled function ``(iterator, n, done, sums) -> sums`` that trains for n steps, ``done`` into the epoch.

    ``step(next_batch, place) -> measures`` is one update: the ``run`` of a :class:`rbd_ipu.step.Step`, or what a
    device makes of one.

    ``sums``, a float vector in the order of ``MEASURES``, are those over the steps of the epoch before; the steps are
    added to them one by one, so that no bit depends on where the epoch is cut into calls. They come back as scalars
    of their type, with ``finite`` after them: 1 as long as every loss and update was finite. The step at which one is
    not is not counted and ends the loop: the weights are those of the last finite step.

    ``iterator`` is a tuple of iterators where a process plays several workers, one for each.

    ``logged`` adds a last result: the rows ``LOGGED`` of all steps that were tried, int32 [n, ...].

    n is a tensor, so that calls of any length share one trace. On a CPU the network is a plain graph (ten times
    faster there than XLA); methods compile their bases.
    """

    @program
    def run(iterator: Any, n: Any, done: Any, sums: Any) -> Any:
        def body(i: Any, sums: Any, _: Any, *rows: Any) -> Any:
            new = step(_next(iterator), done + i)
            measured = tf.stack([new[name] for name in MEASURES])
            added = tf.where(new["finite"] > 0.0, measured, tf.zeros_like(measured))
            kept = [row.write(i, new[LOGGED]) for row in rows]
            return (i + 1, sums + tf.cast(added, sums.dtype), new["finite"], *kept)

        kept = [tf.TensorArray(tf.int32, size=n)] if logged else []
        tried, total, finite, *kept = tf.while_loop(
            lambda i, _, finite, *rows: (i < n) & (finite > 0.0),
            body,
            (tf.constant(0), tf.ensure_shape(sums, [len(MEASURES)]), tf.constant(1.0), *kept),
            parallel_iterations=1,
        )
        return (*tf.unstack(total), finite, *[rows.gather(tf.range(tried)) for rows in kept])

    return run


def replay_steps(step: Callable[[Any], Any], width: int) -> Callable[[Any], Any]:
    """The compiled function ``rows int32 [n, width] -> how many were good`` that makes n steps again.

    ``step`` is that of :func:`rbd_ipu.step.one_replayed`; the first row that is not good ends the loop.
    """

    @program
    def run(rows: Any) -> Any:
        def body(i: Any, _: Any) -> Any:
            good = step(rows[i])
            return i + tf.cast(good, tf.int32), good

        return tf.while_loop(
            lambda i, good: (i < tf.shape(rows)[0]) & (good > 0.0),
            body,
            (tf.constant(0), tf.constant(1.0)),
            parallel_iterations=1,
        )[0]

    # TensorFlow warns of functions traced once and called rarely.
    return run.get_concrete_function(tf.TensorSpec([None, width], tf.int32))


def _next(iterator: Any) -> Callable[..., Any]:
    """What gives the next mini-batch; of several iterators, that of the i-th."""
    if isinstance(iterator, tuple):
        return lambda i: next(iterator[i])
    return lambda: next(iterator)


def evaluate_all(objective: Objective, as_replica: Optional[Callable[..., Any]] = None) -> Callable[[Any], Any]:
    """The compiled function ``dataset -> sums`` over all examples, in the order of REPORTED.

    ``as_replica(function)`` calls it where Keras can compute losses and metrics; None: anywhere.
    """

    @program
    def run(dataset: Any) -> Any:
        def add(sums: Any, batch: Any) -> Any:
            outputs = objective.forward(batch, training=False)

            def look() -> Any:
                report = objective.report(batch, outputs, objective.loss_of(batch, outputs, training=False))
                return tf.pad(report, [[0, len(REPORTED) - report.shape[0]]])

            plain = objective.is_plain(batch, outputs) and not objective.measured_by_keras
            return sums + (look() if plain or as_replica is None else as_replica(look))

        return tuple(tf.unstack(dataset.reduce(tf.zeros([len(REPORTED)]), as_it_is(add))))

    traces: Dict[Any, Callable] = {}

    def evaluate(dataset: Any) -> Any:
        # One trace for each kind of dataset, kept here: TensorFlow warns of functions traced once and called rarely.
        kind = str(dataset.element_spec)
        if kind not in traces:
            traces[kind] = run.get_concrete_function(dataset)
        return traces[kind](dataset)

    return evaluate
