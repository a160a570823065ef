"""The programs that are linted: every row of the registries, traced as an IPU would be given it, never run.

What a program meets at its edges (infeed, outfeed, replicas) is made of operations that any TensorFlow has, each for
one of Graphcore's, whose name and types are noted to be held against the table of kernels. Shapes are small where the
operations do not depend on them; d is large enough that directions come in several blocks.
"""

import functools
import inspect
import math
import types
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from rbd_ipu import methods, models
from rbd_ipu._compat import as_it_is, create_variables, keras, tf
from rbd_ipu.compartments import SCHEMES
from rbd_ipu.data.batches import standardised
from rbd_ipu.devices.ipu.lint.rules import Operation, lower, type_name
from rbd_ipu.devices.ipu.program import evaluate_program, train_program
from rbd_ipu.directions import distribution_names
from rbd_ipu.directions.stream import schedule, word_at
from rbd_ipu.methods import METHODS
from rbd_ipu.models import NETWORKS
from rbd_ipu.objective import Objective, default_loss, per_batch
from rbd_ipu.optimizers import OPTIMIZERS
from rbd_ipu.parallel.exchange import Alone, Exchange, Replicas
from rbd_ipu.parallel.plan import plan
from rbd_ipu.placement import as_on_an_ipu
from rbd_ipu.seeds import fold_in
from rbd_ipu.step import one_step


class Batches:
    """An iterator whose batches are tensors of the program, for ``next(iterator)``; it never ends.

    A batch comes in its types where it is asked for, as from a dequeue: in a branch of the program it is not an
    argument of the branch.

    Args:
      batch: tensors.
      types: what each is cast to.
    """

    def __init__(self, batch: Any, types: Sequence[Any], noted: List[Operation]):
        self._batch = batch
        self._types = types
        self._noted = noted

    def __next__(self) -> Any:
        kinds = tuple(type_name(kind) for kind in self._types)
        self._noted.append(Operation("PopDatastreamInfeedDequeue", {"output_types": kinds}, kinds))
        return tuple(tf.identity(tf.cast(tensor, kind)) for tensor, kind in zip(self._batch, self._types))


class Sink:
    """Takes what a program enqueues, and adds it up in a variable, so that all that leads to it is needed.

    To be made before the program is traced.
    """

    def __init__(self, noted: List[Operation]):
        self._noted = noted
        self._sums = {dtype: tf.Variable(tf.zeros([], dtype), trainable=False) for dtype in (tf.float32, tf.int32)}

    def enqueue(self, told: Any) -> None:
        """Stands for ``IPUOutfeedQueue.enqueue``."""
        tensors = tf.nest.flatten(told)
        kinds = tuple(type_name(tensor.dtype) for tensor in tensors)
        self._noted.append(Operation("PopDatastreamOutfeedEnqueue", {"output_types": kinds}, ()))
        for tensor in tensors:
            self._sums[tensor.dtype].assign_add(tf.reduce_sum(tensor))


def collectives(noted: List[Operation]) -> Any:
    """As much of ``tensorflow.python.ipu`` as :class:`rbd_ipu.parallel.exchange.Replicas` calls: R equal replicas."""

    def replication_index() -> Any:
        noted.append(Operation("ReplicationIndex", {}, ("int32",)))
        return tf.identity(tf.constant(1))

    def all_gather(x: Any, replication_factor: int) -> Any:
        noted.append(Operation("IpuAllGather", {"dtype": (type_name(x.dtype),)}, (type_name(x.dtype),)))
        return tf.stack([x] * replication_factor)

    def cross_replica_mean(x: Any) -> Any:
        noted.append(Operation("IpuCrossReplicaMean", {"dtype": (type_name(x.dtype),)}, (type_name(x.dtype),)))
        return tf.identity(x)

    return types.SimpleNamespace(
        replication_ops=types.SimpleNamespace(replication_index=replication_index),
        all_to_all_op=types.SimpleNamespace(all_gather=all_gather),
        cross_replica_ops=types.SimpleNamespace(cross_replica_mean=cross_replica_mean),
    )


class Hashing:
    """Stands for :class:`rbd_ipu.devices.ipu.program.Hash`: the same words, by TensorFlow's operations."""

    def __init__(self, noted: List[Operation]):
        self._noted = noted

    def words(self, pairs: Any, places: Any) -> Any:
        """Stands for the operation ``Words``."""
        self._note()
        return word_at(pairs, places)

    def keys(self, seeds: Any, parts: Any) -> Any:
        """Stands for the operation ``Keys``."""
        self._note()
        return schedule(fold_in(seeds[..., tf.newaxis, :], parts))

    def _note(self) -> None:
        types = {"input_types": ("int32", "int32"), "output_types": ("int32",)}
        self._noted.append(Operation("IpuUserOp", types, ("int32",)))


# What an IPU draws with: its generator, or the integer hash by a codelet.
SOURCES = ("poprand", "counter")
SCHEME_NAMES = [{"even:K": "even:2", "factor:f": "factor:8"}.get(name, name) for name in SCHEMES]

# What a method cannot be made without, besides what every row has.
NEEDED: Dict[str, Dict[str, Any]] = {"switch": {"sgd_learning_rate": 0.1, "switch_step": 5}}

# Options of a method or an optimizer that add operations of their own, with a value each.
OPTIONS: Dict[str, Dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "normalize=expected": {"normalize": "expected"},
    "normalize=none": {"normalize": "none"},
    "redraw_every": {"redraw_every": 10},
    "orthogonalize": {"orthogonalize": True, "dim": 64},
    "transform=rank": {"transform": "rank"},
    "transform=range": {"transform": "range"},
    "top_k": {"top_k": 100},
    "accumulate": {"accumulate": 2, "redraw_every": 2},
    "redraw_lowest": {"redraw_lowest": 0.5, "source": "auto"},
    "inner=adam": {"inner": "adam"},
    "state=coordinates": {"inner": "adam", "state": "coordinates", "on_redraw": "reset"},
    "sgd_layers": {"sgd_layers": "logits", "sgd_learning_rate": 0.1},
    "sgd_below": {"sgd_below": 0.1, "sgd_learning_rate": 0.1},
}

# Ways to share a step among replicas: a row of MODES, of EXCHANGES or of WIRES in place of the first.
WORKERS = 4
SHARING: Dict[str, Dict[str, str]] = {
    "own": {"parallel": "own"},
    "shared": {"parallel": "shared"},
    "same-data": {"parallel": "same-data"},
    "split": {"parallel": "split"},
    "exchange=update": {"exchange": "update"},
    "wire=float16": {"wire": "float16"},
    "wire=bfloat16": {"wire": "bfloat16"},
    "wire=int8": {"wire": "int8"},
    "wire=sign": {"wire": "sign"},
}

# What is known not to compile on an IPU, and why. A row that is listed and clean is a fault too, so that this stays
# true.
NOT_READY: Dict[Tuple[str, str], str] = {
    (
        "network",
        "gpt",
    ): "TensorFlow 2.6 computes shapes in the program for a cross entropy of logits [n, t, V] and gelu",
    ("replicas", "wire=float16"): "two float16 are packed into an int32, but an IPU reinterprets equal sizes only",
    ("replicas", "wire=int8"): "an IPU stores int8 and computes nothing in it",
}


class Row(NamedTuple):
    """A program to lint.

    Attributes:
      kind: "trainer", "keras" or "validation".
      name: the method, or the Keras optimizer.
      distribution, compartments, network: rows of their registries.
      workers: replicas.
      share: how they share a step, a row of ``SHARING``.
      option: a row of ``OPTIONS``, or "".
      source, seed: of the directions.
      subject: (kind, name) of what the row is there to show.
    """

    kind: str = "trainer"
    name: str = "rbd"
    distribution: str = "normal"
    compartments: str = "global"
    network: str = "fc"
    workers: int = 1
    share: str = "own"
    option: str = ""
    source: str = "poprand"
    seed: int = 0
    subject: Tuple[str, str] = ("", "")

    @property
    def options(self) -> Mapping[str, Any]:
        """The arguments of its option, and what its method needs."""
        return {**NEEDED.get(self.name, {}), **OPTIONS.get(self.option, {})}

    @property
    def sharing(self) -> Mapping[str, str]:
        """The choices of its plan."""
        return SHARING[self.share]

    @property
    def parts(self) -> List[Tuple[str, str]]:
        """All that the row is made of, as (kind, name)."""
        made = [
            ("method" if self.kind == "trainer" else "optimizer", self.name),
            ("distribution", self.distribution),
            ("compartments", self.compartments),
            ("network", self.network),
        ]
        made += [("replicas", self.share)] if self.workers > 1 else []
        return made + ([("option", self.option)] if self.option else [])

    @property
    def not_ready(self) -> str:
        """Why the row is known not to be ready; "" if it is."""
        return next((NOT_READY[part] for part in self.parts if part in NOT_READY), "")

    def __str__(self) -> str:
        words = [self.name, self.distribution, self.compartments, self.network]
        words += [f"source {self.source}"] if self.source != SOURCES[0] else []
        words += [f"{self.workers} replicas ({self.share})"] if self.workers > 1 else []
        return ", ".join(words + ([self.option] if self.option else []))


def each_once() -> Iterator[Row]:
    """Every row of every registry, in a program of its own; all else as in ``Row``."""
    for name in METHODS:
        yield Row(name=name, subject=("method", name))
    for name in OPTIMIZERS:
        yield Row(kind="keras", name=name, subject=("optimizer", name))
        yield Row(kind="keras", name=name, option="momentum", subject=("optimizer", f"{name}(momentum=0.9)"))
    for distribution in distribution_names():
        yield Row(distribution=distribution, subject=("distribution", distribution))
    for source in SOURCES:
        yield Row(source=source, subject=("source", source))
    for scheme in SCHEME_NAMES:
        yield Row(compartments=scheme, subject=("compartments", scheme))
    for network in NETWORKS.names():
        yield Row(network=network, subject=("network", network))
    for option, values in OPTIONS.items():
        if set(values) <= _accepted(METHODS.get("rbd")):
            yield Row(option=option, subject=("option", option))
    for share in SHARING:
        yield Row(workers=WORKERS, share=share, subject=("replicas", share))
    yield Row(kind="validation", subject=("program", "validation"))


def all_together() -> Iterator[Row]:
    """Every method with every distribution, compartment scheme and network, as far as it takes them."""
    for kind, name in [*(("trainer", name) for name in METHODS), *(("keras", name) for name in OPTIMIZERS)]:
        takes = _accepted((METHODS if kind == "trainer" else OPTIMIZERS).get(name))
        for distribution in distribution_names() if "distribution" in takes else ("normal",):
            for scheme in SCHEME_NAMES if "compartments" in takes else ("global",):
                for network in NETWORKS.names():
                    yield Row(kind, name, distribution, scheme, network)


IMAGE = (8, 8, 1)  # the embedded digits
WINDOW, CHARACTERS = (8,), 10
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
    noted: List[Operation] = []
    text = models.takes(row.network) == "text"
    model = models.build(row.network, WINDOW, CHARACTERS) if text else models.build(row.network, IMAGE)
    make = {"trainer": _trainer, "keras": _keras, "validation": _validation}[row.kind]
    with as_on_an_ipu(Hashing(noted)) as there:
        try:
            run = make(row, model, noted)
        except ValueError as error:
            raise Refused(str(error)) from None
        program = _traced(run, noted, row.kind, text)
    whole = program._replace(place=there)
    # Whoever keeps only `lower` keeps the variables of the place, too.
    return whole._replace(lower=functools.partial(_lowered, whole))


def _lowered(program: Program) -> str:
    return program.lower()


def _trainer(row: Row, model: Any, noted: List[Operation]) -> Callable[[Any, Any], Any]:
    """The Trainer's loop: :func:`rbd_ipu.devices.ipu.program.train_program`."""
    variables = model.trainable_variables
    method = methods.create(row.name, **options_for(METHODS.get(row.name), row, variables))
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
    """The evaluation of a model: :func:`rbd_ipu.devices.ipu.program.evaluate_program`."""
    program: Any = evaluate_program(Objective(model), STEPS, Sink(noted).enqueue, _finish)
    return lambda iterator, done: program.python_function(iterator)


def _keras(row: Row, model: Any, noted: List[Operation]) -> Callable[[Any, Any], Any]:
    """``model.fit``: the hooks of the optimizer in the order in which Graphcore's Keras calls them."""
    variables = model.trainable_variables
    make = OPTIMIZERS.get(row.name)
    optimizer = make(**options_for(make, row, variables))
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


def _accepted(make: Any) -> Set[str]:
    """The names of what a method or an optimizer can be made with."""
    return {*inspect.signature(make.__init__).parameters, *getattr(make, "of_basis", ())}


def options_for(make: Any, row: Row, variables: Sequence[Any]) -> Dict[str, Any]:
    """What a method or an optimizer is made with: of the row's parts, those that it takes."""
    # A Hadamard basis has no blocks, and in a small compartment few directions; blocks have all.
    dim: Optional[int] = 2 * len(variables) if row.distribution == "hadamard" else DIM
    if row.distribution == "blocks":
        dim = sum(int(math.prod(variable.shape)) for variable in variables)
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
    accepted = _accepted(make)
    return {name: value for name, value in wanted.items() if name in accepted or name in row.options}


def _finish(images: Any, labels: Any) -> Any:
    """What :class:`rbd_ipu.data.Batches` makes of bytes, in full: of images, or of tokens."""
    if images.shape.rank == len(WINDOW) + 1:
        return tf.cast(images, tf.int32), labels
    return standardised(tf.cast(images, tf.float32) / 255.0), labels


def _traced(run: Callable[[Any, Any], Any], noted: List[Operation], kind: str, text: bool) -> Program:
    """``run(iterator, done)`` as a compiled function of one batch and of the number of steps before."""

    def program(x: Any, y: Any, done: Any) -> Any:
        kinds = tf.int32 if text else tf.float32 if kind == "keras" else tf.uint8, tf.int32
        return run(Batches((x, y), kinds, noted), done)

    images = tf.zeros([BATCH, *IMAGE]), tf.zeros([BATCH], tf.int32)
    windows = tf.zeros([BATCH, *WINDOW], tf.int32), tf.zeros([BATCH, *WINDOW], tf.int32)
    arguments = (*(windows if text else images), tf.constant(0))
    function = tf.function(as_it_is(program), jit_compile=True)
    graph = function.get_concrete_function(*arguments).graph
    return Program(graph, lambda: lower(function, *arguments), tuple(noted))
