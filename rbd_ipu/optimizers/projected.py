"""From the gradients of replicas to updates that have provably been projected.

Updates that went through the projection, and the rule that nothing else changes a weight.

From a gradient to a weight Keras knows many ways, and wrappers and subclasses add others. So an update is marked
where it comes out of the projection, with its optimizer and its variable; where a weight is about to change, the mark
is looked for. An update without it, with that of another variable, or one that was used before is refused: what was
computed from it is no longer known to lie in the subspace.

The variables that a fixed basis, or a state in coordinates, belongs to: others are refused, also after a restart.

Coordinates averaged over replicas: one collective of one vector, right under every strategy.

Keras divides a replica's loss by ``num_replicas_in_sync``, so that the sum of the replicas' gradients is the gradient
of the mean. Under Graphcore's ``IPUStrategy`` that number is 1 whatever the replicas are, nothing is divided,
and the mean has to be taken. Its ``PopDistStrategy`` says how many there are.

Configurations and states of optimizers that come from the other Keras, so that a file of one stack loads on the
other.
"""

import contextlib
import functools
import json
import logging
import threading
import weakref
import zlib
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import inside_xla, tensors, tf
from rbd_ipu.compartments import name_of
from rbd_ipu.directions import resolve
from rbd_ipu.placement import here, on_ipu
from rbd_ipu.step import flatten, unflatten

Pairs = List[Tuple[Any, Any]]

_MARK = "_rbd_ipu_projected"
_here = threading.local()  # each replica has its thread


class _Mark:
    """Of whose and of which variable an update is, and whether it was used."""

    def __init__(self, owner: Any, variable: Any):
        self.owner, self.variable, self.used = weakref.ref(owner), _key(variable), False

    def fits(self, owner: Any, variable: Any) -> bool:
        return self.owner() is owner and self.variable == _key(variable) and not self.used


@functools.lru_cache(maxsize=None)
def _say(words: str) -> None:
    logging.getLogger("rbd_ipu").warning(words)


def warn_of_xla(source: str) -> None:
    """Says once, in the log, that XLA takes the kernels of Numba out of a step on a CPU, and how to keep them."""
    if inside_xla() and not on_ipu() and resolve(source) == "native":
        _say(
            "this step is compiled by XLA, which is slow on a CPU and cannot call the kernels of Numba: "
            "model.compile(..., jit_compile=False) is faster and computes the same"
        )


def mark(owner: Any, updates: Iterable[Any], variables: Iterable[Any]) -> Pairs:
    """(update, variable) pairs, marked as projected by this optimizer."""
    pairs = list(zip(updates, variables))
    for update, variable in pairs:
        setattr(update, _MARK, _Mark(owner, variable))
    _here.count = count() + 1
    return pairs


def count() -> int:
    """How many projections there were in this thread."""
    return getattr(_here, "count", 0)


def are_marked(owner: Any, pairs: Sequence[Tuple[Any, Any]]) -> bool:
    """Whether all of these updates are as they came out of the projection, and not used yet."""
    return all(_fits(owner, update, variable) for update, variable in pairs)


def check(owner: Any, pairs: Iterable[Tuple[Any, Any]], distribution: Any = None) -> None:
    """Refuses pairs of which one is not as it came out of the projection; no weight has changed then.

    Args:
      owner: the optimizer.
      pairs: of tensors, or of the values of all replicas.
      distribution: the strategy, where values of replicas may be among them.

    Raises:
      ValueError: it names the variable.
    """
    for update, variable in pairs:
        parts = [update] if distribution is None else distribution.experimental_local_results(update)
        if not all(_fits(owner, part, variable) for part in parts):
            raise ValueError(refusal(owner, f"what came for {variable.name!r} is not what it projected"))


def use(owner: Any, update: Any, variable: Any) -> None:
    """Takes the mark off an update that is about to change its variable.

    Raises:
      ValueError: there is none.
    """
    check(owner, [(update, variable)])
    getattr(update, _MARK).used = True


def refusal(owner: Any, why: str) -> str:
    """The words of an error for what would leave the subspace."""
    accumulates = (
        "; gradients accumulate on an IPU with set_gradient_accumulation_options(..., "
        "use_v2_gradient_accumulation_optimizer=False), which applies their sum at once"
    )
    return (
        f"{type(owner).__name__} moves weights within its subspace only, and {why}: this would train without a "
        "subspace. It takes the gradients of all variables at once (apply_gradients, or fit) and projects them "
        "itself; a wrapper or subclass may change gradients before that, but not what comes after"
        f"{accumulates if on_ipu() else ''}"
    )


def refuse_overrides(owner: Any, base: type, names: Sequence[str]) -> None:
    """Refuses an optimizer that has its own version of a method that changes weights.

    Raises:
      TypeError: it names the method.
    """
    for name in names:
        if getattr(getattr(owner, name, None), "__func__", None) is not getattr(base, name, None):
            raise TypeError(refusal(owner, f"its {name} has been replaced"))


def constraint_of(variable: Any) -> Any:
    """That of a variable; one of CentralStorageStrategy does not say, but the variable within does."""
    try:
        return variable.constraint
    except NotImplementedError:
        return getattr(getattr(variable, "_v", None), "constraint", None)


def is_to_build(owner: Any, variables: Any) -> bool:
    """Whether an optimizer of Keras 3 is to be built with these variables.

    There are none while Keras reads an .h5 file, and sets the weights next.

    Raises:
      ValueError: the state was to be read from such a file, and has not arrived; with the format that keeps it.
    """
    if owner.built:
        return False
    if not variables:
        owner._reading = True
        return False
    if owner._reading and not owner._awaited:
        raise ValueError(
            f"the .h5 file did not give this {type(owner).__name__} its step, so that it would begin at the bases of "
            "step 0 again: Keras cannot read the state of an optimizer within another from this format. Save the "
            "model as .keras; or load it with compile=False, and compile it anew"
        )
    return True


@contextlib.contextmanager
def _noted(name: str, value: Any) -> Iterator[None]:
    """The time in which this thread has a note."""
    before = getattr(_here, name, None)
    setattr(_here, name, value)
    try:
        yield
    finally:
        setattr(_here, name, before)


def applying(owner: Any) -> Any:
    """The time in which an optimizer makes a step."""
    return _noted("applying", owner)


def check_applying(owner: Any) -> None:
    """Refuses a part of a step that is called by itself: settings are not checked, and steps are not counted.

    Raises:
      RuntimeError: with what to call instead.
    """
    if getattr(_here, "applying", None) is not owner:
        raise RuntimeError(refusal(owner, "_backend_update_step was called by itself") + ". Call apply_gradients")


def _fits(owner: Any, update: Any, variable: Any) -> bool:
    known = getattr(update, _MARK, None)
    return known is not None and known.fits(owner, variable)


def _key(variable: Any) -> Any:
    """One key for a variable and for its copies on replicas, as the optimizers of both Keras have it."""
    variable = tensors([variable])[0]
    if not isinstance(variable, tf.distribute.DistributedValues):
        holder: Any = variable if hasattr(variable, "_distributed_container") else getattr(variable, "handle", None)
        if hasattr(holder, "_distributed_container"):
            variable = holder._distributed_container() or variable
    return variable._shared_name if getattr(variable, "_in_graph_mode", False) else variable._unique_id


class Owners(tf.train.experimental.PythonState):
    """The variables that a fixed basis, or a state in coordinates, belongs to: those of the first step.

    They are state: a checkpoint of TensorFlow saves them, and the formats of Keras that have room. A file knows them
    by their shapes and values, since names change where a model is built or loaded once more.
    """

    def __init__(self) -> None:
        self._keys: List[Any] = []
        self._variables: List[Any] = []  # weak references
        self._file: List[Any] = []  # what a file says, until the first step here
        self._begun = False

    def expect(self, variables: Sequence[Any]) -> None:
        """The variables of the steps before, or to come, unless it is known already."""
        if not (self._begun or self._file):
            self._keep(variables)

    def _keep(self, variables: Sequence[Any]) -> None:
        self._keys = [_key(variable) for variable in variables]
        self._variables = [weakref.ref(variable) for variable in variables]

    def check(self, owner: Any, variables: Sequence[Any]) -> None:
        """Keeps the variables of the first step, and refuses others after it.

        Raises:
          ValueError: it says how many there were.
        """
        if self._file:
            fits = _alike(self._file, _described(variables))
        else:
            fits = not self._keys or self._keys == [_key(variable) for variable in variables]
        if not fits:
            raise _others(type(owner).__name__, len(self._file or self._keys), len(variables))
        if not self._begun:
            self._file, self._begun = [], True
            self._keep(variables)

    def serialize(self) -> str:
        variables = [variable() for variable in self._variables]
        return json.dumps(self._file or _described([v for v in variables if v is not None]))

    def deserialize(self, string_value: str) -> None:
        said = json.loads(string_value)
        if not self._begun:
            self._file = said
            return
        # Steps are traced, and will not ask again: an older state of these variables, or of others.
        mine = [variable() for variable in self._variables]
        if said and [shape for _, shape, _ in said] != [None if v is None else list(v.shape) for v in mine]:
            raise _others("optimizer", len(said), len(mine))


def _others(kind: str, before: int, now: int) -> ValueError:
    return ValueError(
        f"the basis of this {kind}, and its state, is kept in coordinates of the {before} variables of its first "
        f"step, and these {now} are others, or in another order (another model, layers frozen or made trainable, or "
        "a part that got no gradient): give each set of variables an optimizer of its own, and leave out those that "
        "get no gradient (trainable=False, or exclude= of a SubspaceOptimizer). To begin anew with weights from a "
        "file, compile the model after they are loaded"
    )


def _described(variables: Sequence[Any]) -> List[Any]:
    """[name, shape, checksum of the values] of each; without values (None) in a graph of TensorFlow 1."""

    def checksum(variable: Any) -> Any:
        return zlib.crc32(np.asarray(variable.numpy()).tobytes()) if tf.executing_eagerly() else None

    with tf.init_scope():
        return [[name_of(v, 0), list(v.shape), checksum(value)] for v, value in zip(variables, tensors(variables))]


def _alike(said: Sequence[Any], mine: Sequence[Any]) -> bool:
    """Whether these variables may be those of a file: their shapes, and their values or else their names."""
    names, shapes, values = ([[own[i] for own in each] for each in (said, mine)] for i in range(3))
    return shapes[0] == shapes[1] and (values[0] == values[1] or names[0] == names[1])


def agreed() -> Any:
    """The time of what all replicas hold alike: there is nothing to exchange."""
    return _noted("agreed", True)


def alone() -> bool:
    """Whether there is one replica only; on an IPU, whether somebody said so (``rbd_ipu.open_device`` does)."""
    if getattr(_here, "agreed", False):
        return True
    return here().replicas == 1 if on_ipu() else tf.distribute.get_strategy().num_replicas_in_sync == 1


def keeps_its_own(strategy: Any) -> bool:
    """Whether replicas need variables that each of them writes alone: those of a MirroredStrategy, even of one."""
    mirrored = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return isinstance(strategy, mirrored) and not type(strategy).__module__.startswith("tensorflow.python.ipu")


def replica_mean(coordinates: Any) -> Any:
    """The mean over replicas of their batches' coordinates, of losses as Keras divided them."""
    context = tf.distribute.get_replica_context()
    if context is None or alone():
        return coordinates
    divided = tf.distribute.get_strategy().num_replicas_in_sync > 1
    operation = tf.distribute.ReduceOp.SUM if divided else tf.distribute.ReduceOp.MEAN
    return context.all_reduce(operation, tf.identity(coordinates))


def whole_batch(pairs: Sequence[Tuple[Any, Any]]) -> List[Tuple[Any, Any]]:
    """(gradient, variable) pairs of a replica's part -> those of the whole batch, in one collective of D numbers."""
    gradients, variables = zip(*pairs)
    return list(zip(unflatten(replica_mean(flatten(gradients)), variables), variables))


def taken_over(owner: Any, inner: Any, given: Dict[str, Any]) -> Dict[str, Any]:
    """The settings that a wrapper takes over from its inner optimizer, which has them no more; or that it was given.

    Raises:
      TypeError: it was given something else.
      ValueError: both have one, and not the same; or another wrapper has taken over what it had.
    """
    names = owner._taken_over
    gone = getattr(inner, "_given_up", {})
    if gone:
        raise ValueError(
            f"inner_optimizer has given {', '.join(f'{key}={value!r}' for key, value in gone.items())} to another "
            f"{type(owner).__name__}: make an optimizer for each of them"
        )
    unknown = [key for key in given if key not in names]
    if unknown:
        raise TypeError(
            f"{type(owner).__name__} does not take {', '.join(unknown)}; beside its own arguments it takes "
            f"{', '.join(names)}. Others belong to inner_optimizer"
        )
    settings = {key: given.get(key) for key in names}
    for key in names:
        own = getattr(inner, key)
        if own is not None:
            if settings[key] not in (None, own):
                raise ValueError(f"{key}={settings[key]!r} contradicts {own!r} of inner_optimizer")
            settings[key] = own
            setattr(inner, key, None)
            note_taken(inner, key, own)
    return settings


def note_taken(inner: Any, key: str, value: Any) -> None:
    """Notes what a wrapper has taken over, so that a second one does not act without it."""
    object.__setattr__(inner, "_given_up", {**getattr(inner, "_given_up", {}), key: value})


class Function(dict):
    """A function in a configuration: itself while the program runs, and in files what names it.

    An .h5 file would hold the bare name, which reads as a pattern.
    """

    def __init__(self, function: Any, config: Dict[str, Any]):
        super().__init__(config)
        self.function = function


def check_inner(owner: Any) -> None:
    """Refuses an inner optimizer that was given a setting which a wrapper takes over.

    Raises:
      ValueError: it names the setting.
    """
    for key in (*owner._taken_over, "gradient_transformers"):  # the last is of Keras 2
        value = getattr(owner.inner_optimizer, key, None)
        if value:
            raise ValueError(
                f"{key}={value!r} of inner_optimizer would act on what was compressed: set it on the "
                f"{type(owner).__name__}, which applies it to the gradients"
            )


# What Keras 3 writes and Keras 2 has no argument for, at the values that ask for nothing.
_KERAS_3_ONLY = {
    "weight_decay": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


def to_keras_2(config: Dict[str, Any]) -> Dict[str, Any]:
    """A configuration of either Keras as Keras 2 takes it.

    Raises:
      ValueError: it asks for something that Keras 2 cannot do.

    Example:
      >>> to_keras_2({"learning_rate": 0.5, "use_ema": False, "clipnorm": None})
      {'learning_rate': 0.5}
    """
    config = dict(config)
    for key, idle in _KERAS_3_ONLY.items():
        value = config.pop(key, idle)
        if value != idle:
            raise ValueError(
                f"this optimizer was saved with {key}={value!r}, which the optimizers of Keras 2 have not"
            )
    for key in ("ema_momentum", "ema_overwrite_frequency"):  # of use_ema, which is off
        config.pop(key, None)
    for key in ("clipnorm", "clipvalue", "global_clipnorm"):
        if config.get(key, 0) is None:
            del config[key]
    rate = config.get("learning_rate")
    if isinstance(rate, dict):
        config["learning_rate"] = {"class_name": rate["class_name"], "config": rate["config"]}
    return config


def to_keras_3(config: Dict[str, Any]) -> Dict[str, Any]:
    """A configuration of either Keras as Keras 3 takes it.

    Keras 2 lets a learning rate decay by ``lr / (1 + decay * step)``; here that is a schedule. A step among the
    settings, as files of this library once had it, is left out: it is in the state.

    Raises:
      ValueError: a decay of a learning rate that is a schedule already.

    Example:
      >>> to_keras_3({"learning_rate": 0.5, "decay": 0.0, "iterations": 7})
      {'learning_rate': 0.5}
    """
    config = dict(config)
    for key in ("iterations", "owners"):  # of a SavedModel
        config.pop(key, None)
    decay = config.pop("decay", None) or 0.0
    rate = config.get("learning_rate")
    if decay and isinstance(rate, dict):
        raise ValueError(f"this optimizer was saved with decay={decay!r} of a schedule, which Keras 3 has not")
    if decay:
        settings = {"initial_learning_rate": rate, "decay_steps": 1, "decay_rate": decay}
        rate = {"class_name": "InverseTimeDecay", "config": settings}
    if isinstance(rate, dict) and "module" not in rate:
        name = rate["class_name"]
        own = {"module": None, "registered_name": name} if ">" in name else {"module": "keras.optimizers.schedules"}
        settings = {key: value for key, value in rate["config"].items() if (key, value) != ("name", None)}
        config["learning_rate"] = {"registered_name": None, **own, "class_name": name, "config": settings}
    return config


# Optimizers whose state has the same meaning in both Kerases -> how many of the slots of a variable Keras 3 has side
# by side, where Keras 2 has those of all variables by kind.
_SIDE_BY_SIDE = {"SGD": 1, "RMSprop": 1, "Adagrad": 1, "Ftrl": 1, "Adam": 2, "Adadelta": 2, "Adamax": 2}


def slots_to_keras_3(inner: Any, slots: Sequence[Any], variables: int) -> List[Any]:
    """The slots of an inner optimizer for some variables, in the order of Keras 2 -> in that of Keras 3.

    Raises:
      ValueError: the two Kerases do not keep the same for this kind.

    Example:
      >>> class Adam: pass
      >>> slots_to_keras_3(Adam(), ["m of a", "m of b", "v of a", "v of b"], 2)
      ['m of a', 'v of a', 'm of b', 'v of b']
    """
    return _transposed(slots, _side_by_side(inner), variables)


def slots_to_keras_2(inner: Any, slots: Sequence[Any], variables: int) -> List[Any]:
    """The slots of an inner optimizer for some variables, in the order of Keras 3 -> in that of Keras 2.

    Raises:
      ValueError: the two Kerases do not keep the same for this kind.

    Example:
      >>> class Adam: pass
      >>> slots_to_keras_2(Adam(), ["m of a", "v of a", "m of b", "v of b"], 2)
      ['m of a', 'm of b', 'v of a', 'v of b']
    """
    return _transposed(slots, variables, _side_by_side(inner))


def _side_by_side(inner: Any) -> int:
    kind = type(inner).__name__
    if kind not in _SIDE_BY_SIDE:
        raise ValueError(
            f"the state of {kind} in a file of the other Keras does not cross, as that of {', '.join(_SIDE_BY_SIDE)} "
            "does: load the model with compile=False, and compile it anew"
        )
    return _SIDE_BY_SIDE[kind]


def _transposed(slots: Sequence[Any], rows: int, columns: int) -> List[Any]:
    """A matrix that lies row by row, transposed; what is behind it stays."""
    end = rows * columns
    return [*[slots[i * columns + j] for j in range(columns) for i in range(rows)], *slots[end:]]
