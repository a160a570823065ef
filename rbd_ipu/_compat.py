"""The two software stacks behind one pair of names: ``tf`` and ``keras``.

====================  ==========================  =========================
                      IPU stack                   today's stack
====================  ==========================  =========================
TensorFlow, Keras     2.6 to 2.10, Keras 2        2.16 and later, Keras 3
``keras`` is          ``tensorflow.keras``        the package ``keras``
====================  ==========================  =========================

Everything in the package that needs TensorFlow takes it from here, so that a missing or unfit installation is
reported once, in words.
"""

import functools
import importlib.util
import inspect
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

_INSTALL = (
    'rbd_ipu needs TensorFlow, which it never installs by itself: pip install "rbd-ipu[cpu]" for a CPU, '
    '"rbd-ipu[gpu]" for a GPU, or the TensorFlow and Keras wheels of the Poplar SDK for an IPU'
)

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(_INSTALL) from error


def _version(text: str) -> Tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


if (2, 6) <= _version(tf.__version__) <= (2, 10):
    keras = tf.keras
    KERAS_3 = False
elif _version(tf.__version__) >= (2, 16):
    import keras  # type: ignore[no-redef]

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"rbd_ipu needs Keras on TensorFlow, but its backend is {keras.backend.backend()!r}: "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    KERAS_3 = True
else:
    raise ImportError(
        f"rbd_ipu runs on TensorFlow 2.6 to 2.10 (the IPU stack) and 2.16 or later, not on {tf.__version__}"
    )


_context = tf.__internal__.autograph.control_status_ctx()
#: AutoGraph as it is outside of every ``tf.function``: what asks it to convert something is heard.
_ASKED = type(_context)(type(_context.status).UNSPECIFIED)


def as_it_is(function: Callable) -> Callable:
    """A function of ours for graphs, not converted: AutoGraph would take seconds to find nothing to rewrite in it.

    Layers of the user's own are converted within it as ever: Keras 2 asks for that.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with _ASKED:
            return function(*arguments, **options)

    return tf.autograph.experimental.do_not_convert(call)


def as_written_by_users(function: Callable, owner: Any = None) -> Callable:
    """A function of the user's own, to be called in a graph: AutoGraph makes branches of its ``if`` on tensors.

    With an ``owner``, a function of ours that calls what may be the user's: methods of that object.
    """
    if str(getattr(owner or function, "__module__", "")).split(".")[0] in ("rbd_ipu", "keras", "tensorflow"):
        return function
    converted = tf.__internal__.autograph.tf_convert(function, _ASKED)

    @functools.wraps(function, updated=())
    def call(*arguments: Any, **options: Any) -> Any:
        return (function if tf.executing_eagerly() else converted)(*arguments, **options)

    return call


def program(function: Callable, jit: bool = False, beside_others: bool = False) -> Any:
    """A ``tf.function`` of ours, which AutoGraph leaves as it is; ``jit``: compiled by XLA.

    Those ``beside_others`` run at the same time in one graph: TensorFlow runs its ops for compiled programs one after
    the other there, but not nested functions.
    """
    # TensorFlow counts traces by a function's code, which a partial has not: it would warn of several in a process.
    traced = tf.function(as_it_is(functools.partial(function)), jit_compile=jit or None)
    return _launching(traced) if jit and not beside_others else traced


def _launching(traced: Any) -> Callable:
    """The same function, called from the graph of another one by the op that runs compiled programs.

    As a nested function, TensorFlow would keep a copy of it for each graph that ever called it: a MB or two a model.
    On CPUs only: where there is a GPU, people compile whole steps, and XLA has no such op.
    """

    def call(*arguments: Any) -> Any:
        nested = tf.compat.v1.executing_eagerly_outside_functions() and not tf.executing_eagerly()
        if not nested or inside_xla() or not only_cpus():
            return traced(*arguments)
        specs = tf.nest.map_structure(_spec, arguments)
        tensors = [x for x in tf.nest.flatten(arguments) if tf.is_tensor(x)]
        # What is a constant in that graph must not look like one, or TensorFlow runs the program while it builds it.
        given = [tf.raw_ops.PlaceholderWithDefault(input=x, shape=x.shape) for x in tensors]
        with tf.init_scope():  # for all graphs, this one is only the first
            concrete = traced.get_concrete_function(*specs)
        graph = tf.compat.v1.get_default_graph()
        concrete.add_to_graph(graph)
        results = tf.nest.flatten(concrete.structured_outputs)
        attributes = {
            "Tconstants": _attribute(list={}),
            "Targs": _attribute(list={"type": [x.dtype.as_datatype_enum for x in given]}),
            "Nresources": _attribute(i=0),
            "Tresults": _attribute(list={"type": [x.dtype.as_datatype_enum for x in results]}),
            "function": _attribute(func={"name": concrete.name}),
        }
        outputs = graph.create_op("XlaLaunch", given, [x.dtype for x in results], attrs=attributes).outputs
        for output, result in zip(outputs, results):
            output.set_shape(result.shape)
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)

    return call


def only_cpus() -> bool:
    """Whether a CPU is all there is. Asks for visible devices: listing logical ones would fix their number."""
    # Graphcore's TensorFlow shows its devices only once they are configured.
    if importlib.util.find_spec("tensorflow.python.ipu") is not None:
        return False
    return {device.device_type for device in tf.config.get_visible_devices()} <= {"CPU", "XLA_CPU"}


def _spec(argument: Any) -> Any:
    return tf.TensorSpec(argument.shape, argument.dtype) if tf.is_tensor(argument) else argument


def _attribute(**value: Any) -> Any:
    return tf.compat.v1.AttrValue(**value)


def create_variables(optimizer: Any, variables: Sequence[Any]) -> None:
    """Creates an optimizer's variables now, so that no traced function has to."""
    if KERAS_3:
        optimizer.build(list(variables))
    else:
        optimizer._create_all_weights(list(variables))


def apply_update(optimizer: Any, pairs: Sequence[Tuple[Any, Any]]) -> None:
    """Subtracts (update, variable) pairs that all workers hold alike, at the optimizer's learning rate."""
    if hasattr(optimizer, "subtract"):  # a Trainer's
        optimizer.subtract(pairs)
    elif KERAS_3:
        optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)


def compiled_with(model: Any) -> Optional[Dict[str, Any]]:
    """What ``model.compile`` was called with, by argument; None if it was not called."""
    if not KERAS_3:
        return {**model._get_compile_args(), "run_eagerly": model._run_eagerly} if model._is_compiled else None
    if not model.compiled:
        return None
    # Keras has no public way to ask for the objects themselves.
    return {
        "optimizer": model.optimizer,
        "loss": model.loss,
        "loss_weights": getattr(model._compile_loss, "_user_loss_weights", None),
        "metrics": getattr(model._compile_metrics, "_user_metrics", None),
        "weighted_metrics": getattr(model._compile_metrics, "_user_weighted_metrics", None),
        "run_eagerly": model.run_eagerly,
    }


def compile_keras(model: Any, compiled: Optional[Mapping[str, Any]], optimizer: Any, loss: Any = None) -> None:
    """Compiles a model that was not ``compiled`` yet, or was with another loss; its metrics and loss weights stay."""
    if compiled is None:
        keras.Model.compile(model, optimizer=optimizer, loss=loss)
    elif loss is not None:
        kept = {name: compiled.get(name) for name in ("metrics", "weighted_metrics", "loss_weights")}
        keras.Model.compile(model, optimizer=optimizer, loss=loss, **kept)


def tensors(variables: Sequence[Any]) -> List[Any]:
    """The tf.Variables behind the variables of either Keras."""
    return [v if isinstance(v, tf.Variable) or not hasattr(v, "value") else v.value for v in variables]


def current_rate(optimizer: Any) -> float:
    """The learning rate of the next step; a schedule is asked for it."""
    return float(rate_of(optimizer))


def rate_of(optimizer: Any) -> Any:
    """The same as a tensor, also in a traced function: float32 scalar."""
    rate = optimizer.learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)


def untuned(dataset: Any) -> Any:
    """A tf.data.Dataset whose numbers are all given, so that tf.data has nothing to tune or to rewrite.

    A tuner, busy or idle, can sleep through the end of an iterator: who drops one then waits until it wakes, up to as
    long again as the iterator has lived (TensorFlow 2.21). To look for what to rewrite takes a tenth of a second.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    if KERAS_3:
        options.autotune.enabled = False
    else:
        options.experimental_optimization.autotune = False
    return dataset.with_options(options)


def is_saving_model() -> bool:
    """Whether Keras 2 is writing a SavedModel: it has set the learning phase of everything, and is below us."""
    from keras.backend import global_learning_phase_is_set  # not public

    if not global_learning_phase_is_set():
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("keras.saving.saved_model."):
            return True
        frame = frame.f_back
    return False


def writes_saved_model() -> bool:
    """Whether TensorFlow is writing a SavedModel, in this thread."""
    from tensorflow.python.saved_model import save_context  # not public

    return bool(save_context.in_save_context())


def inside_xla() -> bool:
    """Whether operations now being made are for XLA, which has no op that calls Python."""
    if tf.executing_eagerly():
        return False
    # TensorFlow keeps no public record of this; both modules are the same from 2.6 to 2.21.
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


__all__ = [
    "KERAS_3",
    "apply_update",
    "as_it_is",
    "as_written_by_users",
    "compile_keras",
    "compiled_with",
    "create_variables",
    "current_rate",
    "inside_xla",
    "keras",
    "is_saving_model",
    "only_cpus",
    "program",
    "rate_of",
    "tensors",
    "tf",
    "untuned",
    "writes_saved_model",
]
