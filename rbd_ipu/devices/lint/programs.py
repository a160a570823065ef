"""The program of a row as an IPU would be given it: traced, never run.

The shapes are small where the operations do not depend on them; d is large enough that directions come in several
blocks, so that the loop over blocks is in the program.
"""

import functools
import inspect
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from rbd_ipu.devices.lint.edges import Batches, Hashing, Sink, collectives
from rbd_ipu.devices.lint.hlo import lower
from rbd_ipu.devices.lint.ops import Operation
from rbd_ipu.devices.lint.rows import Row

IMAGE = (8, 8, 1)  # the embedded digits
BATCH = 4
DIM = 5000
STEPS = 10


class Refused(ValueError):
    """The parts of a row do not go together; the message is that of the part that says so."""


class Program(NamedTuple):
    """A program, traced for XLA.

    Attributes:
      graph: of all its operations.
      lower: gives its HLO as text, or raises a ValueError that says why there is none.
      edges: the operations of Graphcore's own that it would have, which stock TensorFlow cannot trace.
      place: the device that it is for, with variables that it reads.
    """

    graph: Any
    lower: Callable[[], str]
    edges: Tuple[Operation, ...] = ()
    place: Any = None


def trace(row: Row) -> Program:
    """A row's program; TensorFlow 2.6.

    Raises:
      Refused: there is no such program.
      Exception: whatever tracing raises.
    """
    from rbd_ipu import models
    from rbd_ipu.place import as_on_an_ipu

    noted: List[Operation] = []
    model = models.build(row.network, IMAGE)
    make = {"trainer": _trainer, "keras": _keras, "validation": _validation}[row.face]
    with as_on_an_ipu(Hashing(noted)) as there:
        try:
            run = make(row, model, noted)
        except ValueError as error:
            raise Refused(str(error)) from None
        program = _traced(run, noted, row.face)
    whole = program._replace(place=there)
    # Whoever keeps only `lower` keeps the variables of the place, too.
    return whole._replace(lower=functools.partial(_lowered, whole))


def _lowered(program: Program) -> str:
    return program.lower()


def _trainer(row: Row, model: Any, noted: List[Operation]) -> Callable[[Any, Any], Any]:
    """The Trainer's loop: :func:`rbd_ipu.devices.ipu.loop.train_program`."""
    from rbd_ipu import methods
    from rbd_ipu._stack import create_variables, keras
    from rbd_ipu.devices.ipu.loop import train_program
    from rbd_ipu.exchange import Alone, Exchange, plan
    from rbd_ipu.exchange.replicas import Replicas
    from rbd_ipu.objective import Objective
    from rbd_ipu.steps import one_step

    variables = model.trainable_variables
    method = methods.create(row.name, **options_for(methods.METHODS.get(row.name), row, len(variables)))
    method.build(variables)
    optimizer = keras.optimizers.SGD(method.learning_rate, momentum=method.momentum)
    create_variables(optimizer, variables)
    exchange: Exchange = Alone()
    if row.workers > 1:
        exchange = Replicas(collectives(noted), row.workers, plan(**row.sharing))
    step = one_step(model, Objective(model), method, optimizer, variables, exchange, 8)
    compared = variables if row.workers > 1 else ()
    program: Any = train_program(step, STEPS, Sink(noted).enqueue, compared, _finish)
    return program.python_function


def _validation(row: Row, model: Any, noted: List[Operation]) -> Callable[[Any, Any], Any]:
    """The evaluation of a model: :func:`rbd_ipu.devices.ipu.loop.evaluate_program`."""
    from rbd_ipu.devices.ipu.loop import evaluate_program
    from rbd_ipu.objective import Objective

    program: Any = evaluate_program(Objective(model), STEPS, Sink(noted).enqueue, _finish)
    return lambda iterator, done: program.python_function(iterator)


def _keras(row: Row, model: Any, noted: List[Operation]) -> Callable[[Any, Any], Any]:
    """``model.fit``: the hooks of the optimizer in the order in which Graphcore's Keras calls them."""
    from rbd_ipu._stack import create_variables, tf
    from rbd_ipu.losses import default_loss, per_batch
    from rbd_ipu.optimizers import OPTIMIZERS

    variables = model.trainable_variables
    make = OPTIMIZERS.get(row.name)
    optimizer = make(**options_for(make, row, len(variables)))
    optimizer.subspace_of(variables)  # refuses now what does not fit
    create_variables(optimizer, variables)
    loss, sink = per_batch(default_loss()), Sink(noted)

    def run(iterator: Any, done: Any) -> None:
        def body(i: Any) -> Tuple[Any]:
            x, y = next(iterator)
            value = loss(y, model(x, training=True))
            gradients = optimizer.get_gradients(value, variables)
            optimizer.apply_gradients(list(zip(gradients, variables)))
            sink.enqueue(value)
            return (i + 1,)

        tf.while_loop(lambda i: i < STEPS, body, (tf.constant(0),), parallel_iterations=1)

    return run


def options_for(make: Any, row: Row, variables: int) -> Dict[str, Any]:
    """What a method or an optimizer is made with: of the row's parts, those that it takes."""
    # A Hadamard basis has no blocks, and in a small compartment few directions.
    dim: Optional[int] = 2 * variables if row.distribution == "hadamard" else DIM
    dim = None if row.compartments.startswith("factor:") else dim
    wanted = {
        "learning_rate": 1.0,
        "dim": dim,
        "distribution": row.distribution,
        "compartments": row.compartments,
        "source": row.source,
        "seed": row.seed,
        **row.options,
    }
    accepted = inspect.signature(make.__init__).parameters
    return {name: value for name, value in wanted.items() if name in accepted or name in row.options}


def _finish(images: Any, labels: Any) -> Any:
    """What :class:`rbd_ipu.data.Batches` makes of bytes, in full."""
    from rbd_ipu._stack import tf
    from rbd_ipu.data.prepare import standardised

    return standardised(tf.cast(images, tf.float32) / 255.0), labels


def _traced(run: Callable[[Any, Any], Any], noted: List[Operation], face: str) -> Program:
    """``run(iterator, done)`` as a compiled function of one batch and of the number of steps before."""
    from rbd_ipu._stack import tf

    def program(x: Any, y: Any, done: Any) -> Any:
        return run(Batches((x, y), (tf.float32 if face == "keras" else tf.uint8, tf.int32), noted), done)

    arguments = tf.zeros([BATCH, *IMAGE]), tf.zeros([BATCH], tf.int32), tf.constant(0)
    function = tf.function(program, jit_compile=True)
    graph = function.get_concrete_function(*arguments).graph
    return Program(graph, lambda: lower(function, *arguments), tuple(noted))
