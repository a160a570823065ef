"""SubspaceOptimizer: any Keras optimizer, on gradients that went through a random subspace."""

import fnmatch
import math
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from rbd_ipu import _imports, checks, compression, text_table
from rbd_ipu._compat import KERAS_3, keras, tensors, tf
from rbd_ipu.compartments import describe, name_of
from rbd_ipu.optimizers import projected
from rbd_ipu.optimizers.random_bases import SubspaceSGD
from rbd_ipu.parallel import wire as wires
from rbd_ipu.placement import on_ipu

if KERAS_3:
    from rbd_ipu.optimizers.keras_3 import Wrapper
else:
    from rbd_ipu.optimizers.keras_2 import Wrapper

Patterns = Union[None, str, Sequence[str], Callable[[Any], bool]]

register = _imports.register(keras.utils.register_keras_serializable, keras.utils.get_custom_objects())


@register
class SubspaceOptimizer(Wrapper):
    """Any Keras optimizer, on compressed gradients: few coordinates, few bits each, and a memory of the rest.

    With g_k the gradient of worker k (clipped), P_t an orthonormal basis that is drawn from the seed, and S the
    coordinates that are sent (all, or the largest of each block)::

        m_k   <- memory * m_k + g_k                          without memory: m_k = g_k
        c     =  P_t^T m_k,   q_k = wire(c_S)                what a worker sends
        m_k   <- m_k - P_t q_k                               what was not sent is sent later
        u     =  update( P_t (sum_k q_k) / K )               the mean, or its sign
        theta <- inner_optimizer(theta, u)

    One worker alone applies what it would have sent. With ``state="coordinates"`` the inner optimizer sees the mean
    of the q_k instead, d numbers, its own state has d entries, and the weights move by P_t times its step.

    The method of the paper (https://arxiv.org/abs/2011.04720) is ``select="all"`` with d of D directions, no memory
    and SGD. A selection with memory and the sign of the update needs far fewer bytes for the same loss (compare DeMo,
    https://arxiv.org/abs/2411.19870, which selects in a cosine transform).

    **The learning rate** is that of the inner optimizer. With ``update="sign"`` a good rate is about that of Adam;
    with ``update="mean"`` and an inner SGD, that of SGD. ``rbd_ipu.presets`` has two settings by name.

    Args:
      inner_optimizer: a Keras optimizer. Its clipping, loss scale and gradient accumulation act before the
        compression; its weight decay acts on the weights.
      dim: how many coordinates a step sends. With ``select="all"`` it is d, the number of directions; with
        ``select="largest"`` each block sends round(n dim / D) of its n, and where that is below 1 some of the blocks
        send one each, so that there are about dim in all.
      fraction: or which part of D, in (0, 1]. With ``select="largest"`` each block sends max(1, round(fraction n)) of
        its n, and below 1/4096 some of the blocks send one each. Both None: all D, for "blocks".
      distribution: of the bases: "blocks" (the default), "groups", "hadamard", or another of
        :class:`rbd_ipu.RandomBasis`.
      select: "all" coordinates, or the "largest" of each block of "blocks".
      memory: what a step keeps of the memory, in [0, 1]: 1.0 forgets nothing. None: no memory, no state of D numbers.
      wire: how coordinates are sent: "float32", "bfloat16", "int8", "sign", "sign-unbiased".
      update: what the inner optimizer is given: the "mean" over the workers, or its "sign".
      state: of the inner optimizer: "full", or in "coordinates" (for ``select="all"``).
      redraw_every: steps that a basis serves; 0 keeps the first one (of "blocks", that without signs).
      include, exclude: which variables: shell patterns of names or layers ("embedding*", "*/bias"), several in a
        list, or a function of the variable. The others are given to the inner optimizer as they are.
      seed: of the bases, an int of at most 64 bits.
      on_redraw: what becomes of the inner state in coordinates when the basis changes: "keep" or "reset" to zero. The
        count of its steps goes on, so that after a reset Adam takes steps of up to 0.1 / sqrt(0.001) = 3.2 rates.
      compartments, normalize, source, orthogonalize: of the bases, as for :class:`rbd_ipu.RandomBasis`.
      second_moment: b, in [0, 1): each worker divides its gradients by the root of a running mean of their squares
        before anything else, as Adam does: v <- b v + (1 - b) g^2, g / (sqrt(v / (1 - b^t)) + 1e-8). An entry
        whose gradients begin late, at step t, begins with v = (1 - b^t) g^2. Then ``update="mean"`` and an inner SGD
        at the rate of Adam fit. Another D numbers of state. None: not.
      name: of the optimizer.

    Raises:
      TypeError, ValueError: an argument is wrong, or does not go with another; quotes it and what is accepted. When
        the model is known: a pattern matches no variable, or dim does not fit.

    A gradient that is not finite never enters the memory: the step passes NaN on to the inner optimizer, as without
    compression. Under a strategy with several replicas each has a memory; a file holds their mean, and all replicas
    start from it, whatever their number.

    Example:
      >>> import numpy as np, rbd_ipu
      >>> from rbd_ipu._compat import keras
      >>> optimizer = rbd_ipu.SubspaceOptimizer(
      ...     keras.optimizers.SGD(0.01), fraction=1 / 16, select="largest", memory=1.0, wire="sign", update="sign"
      ... )
      >>> model = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(1)])
      >>> model.compile(optimizer=optimizer, loss="mse")
      >>> history = model.fit(np.ones((8, 16)), np.ones((8, 1)), epochs=2, verbose=0)
      >>> optimizer.message_bytes
      14
    """

    def __init__(
        self,
        inner_optimizer: Any,
        dim: Optional[int] = None,
        fraction: Optional[float] = None,
        distribution: str = "blocks",
        select: str = "all",
        memory: Optional[float] = None,
        wire: str = "float32",
        update: str = "mean",
        state: str = "full",
        redraw_every: int = 1,
        include: Patterns = None,
        exclude: Patterns = None,
        seed: int = 0,
        on_redraw: str = "keep",
        compartments: str = "global",
        normalize: str = "unit",
        source: str = "auto",
        orthogonalize: bool = False,
        second_moment: Optional[float] = None,
        name: Optional[str] = None,
        **kwargs: Any,
    ):
        use = compression.compression(
            redraw_every, dim, fraction, select, memory, wire, second_moment,
            distribution=distribution, compartments=compartments, normalize=normalize, source=source,
            orthogonalize=orthogonalize, seed=seed,
        )  # fmt: skip
        checks.one_of("update", update, compression.UPDATES)
        checks.one_of("state", state, compression.STATES)
        checks.one_of("on_redraw", on_redraw, compression.ON_REDRAW)
        if state == "coordinates" and (select, update) != ("all", "mean"):
            raise ValueError(
                "state='coordinates' keeps the inner state for all coordinates of a step, so it needs select='all' "
                f"and update='mean'; got select={select!r}, update={update!r}"
            )
        if on_redraw == "reset" and state != "coordinates":
            raise ValueError(f"on_redraw='reset' is for state='coordinates', got state={state!r}")
        _check_inner(inner_optimizer)
        _check_state(inner_optimizer, state)
        super().__init__(inner_optimizer, name or type(self).__name__, **kwargs)
        self._use, self.update, self.state, self.on_redraw = use, update, state, on_redraw
        self.include, self.exclude = _plain(include), _plain(exclude)
        object.__setattr__(self, "_sketches", {})  # by variables; not tracked by Keras

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects: Any = None) -> Any:
        optimizer = super().from_config(config, custom_objects)
        optimizer._patterns_may_miss = True  # they have matched once, and a layer may have been frozen since
        return optimizer

    # --- which variables ----------------------------------------------------------------------------------------

    _patterns_may_miss = False

    def inside(self, variables: Sequence[Any]) -> List[bool]:
        """Of each variable, whether its gradient goes through the subspace.

        Raises:
          ValueError: a pattern matches none of them, or none is left.
        """
        chosen = [True] * len(variables)
        if self.include is not None:
            chosen = _matching("include", self.include, variables, self.candidates(variables))
        if self.exclude is not None:
            candidates = () if self._patterns_may_miss else self.candidates(variables)
            left_out = _matching("exclude", self.exclude, variables, candidates)
            chosen = [own and not out for own, out in zip(chosen, left_out)]
        sizes = [describe(v, i).size if own else 0 for i, (v, own) in enumerate(zip(variables, chosen))]
        chosen = [own and size > 0 for own, size in zip(chosen, sizes)]
        if not any(chosen):
            raise ValueError(
                f"include={self.include!r} and exclude={self.exclude!r} leave none of the {len(variables)} variables "
                "in the subspace"
            )
        return chosen

    def sketch_of(self, variables: Sequence[Any]) -> Any:
        """The sketch (:mod:`rbd_ipu.compression`) of the variables that are inside."""
        key = tuple((describe(v, i).name, tuple(v.shape)) for i, v in enumerate(variables))
        if key not in self._sketches:
            self._sketches[key] = self._use.sketch(variables)
        return self._sketches[key]

    def _known(self, variables: Any) -> List[Any]:
        """The variables of a model, or these; None: those that the optimizer knows."""
        if variables is None:
            variables = self.own_variables()
        found = list(variables.trainable_variables if isinstance(variables, keras.layers.Layer) else variables)
        if not found:
            raise ValueError("there are no variables yet: give a built model, or train first")
        return found

    @property
    def message_bytes(self) -> int:
        """Bytes that a worker sends at a step, of the variables inside the subspace.

        Raises:
          ValueError: there is no model yet.
        """
        known = self._known(None)
        sketch = self.sketch_of([v for v, own in zip(known, self.inside(known)) if own])
        return wires.message_bytes(self._use.wire, sketch.shapes)

    def summary(self, variables: Any = None, print_fn: Callable[[str], Any] = print) -> None:
        """Prints which variables are inside, with their coordinates and bytes a step, before training.

        Args:
          variables: a model, or variables; None for those that the optimizer was built with.
          print_fn: what prints a text.

        Raises:
          ValueError: there are no variables yet.
        """
        known = self._known(variables)
        rows, outside = [["variable", "shape", "subspace", "coordinates", "bytes"]], 0
        inside, sizes = self.inside(known), [math.prod(v.shape) for v in known]
        whole = self.sketch_of([v for v, own in zip(known, inside) if own])
        for i, (variable, own) in enumerate(zip(known, inside)):
            coordinates = count = ""
            if not own:
                outside += 4 * sizes[i]
                count = f"{4 * sizes[i]:,}"
            elif isinstance(whole, compression.BlockSketch):
                layout = compression.Layout([sizes[i]], whole.layout.fraction, whole.layout.shared)
                coordinates = f"{layout.coordinates:,}"
                count = f"{wires.message_bytes(self._use.wire, layout.sent_shapes):,}"
            shape = " x ".join(str(n) for n in variable.shape) or "1"
            rows.append([name_of(variable, i), shape, "yes" if own else "no", coordinates, count])
        count = f"{wires.message_bytes(self._use.wire, whole.shapes) + outside:,}"
        rows.append(["all", f"{sum(sizes):,}", f"{whole.size:,}", f"{whole.dim:,}", count])
        print_fn(text_table.text(rows, left=3))

    def check_settings(self) -> None:
        """Refuses settings that the inner optimizer was given since.

        Raises:
          ValueError: it names the setting.
        """
        projected.check_inner(self)
        _check_state(self.inner_optimizer, self.state, getattr(self, "gradient_accumulation_steps", None))

    # --- a step ---------------------------------------------------------------------------------------------------

    def descend(self, gradients: Sequence[Any], variables: Sequence[Any]) -> Any:
        """One step: the gradients of this replica, clipped, into changed weights.

        Keras has divided the losses of K replicas by K. A replica's memory and second moment are of its own gradient,
        as where it is alone, so that they mean the same for every K.
        """
        projected.warn_of_xla(self._use.basis.source)
        replicas = 1 if projected.alone() else tf.distribute.get_strategy().num_replicas_in_sync
        known = self.described(variables)
        inside = self.inside(known)
        chosen = [i for i, own in enumerate(inside) if own]
        sketch = self.sketch_of([known[i] for i in chosen])
        step = self.step_index()
        index = self._use.basis_index(step)
        flat = [_times(_flat(gradients[i], known[i]), replicas) for i in chosen]
        memory, squares = (
            [self.kept(name, known[i]) for i in chosen if name in self._use.kept]
            for name in ("memory", "second_moment")
        )
        gather = self._gather()  # refuses several replicas of an IPU
        if self._use.lossless and self.state == "full":
            if squares:
                flat = sketch.rescaled(self._use, squares, flat, compression.all_finite(flat), step)
            expanded = self._sum_of_replicas(flat)
            if self.update == "sign":
                expanded = [tf.sign(u) for _, u in compression.nan_unless_finite([(None, u) for u in expanded])]
        else:
            sent = compression.send(self._use, sketch, flat, memory, index, gather, squares, step)
            if self.state == "full" or memory:
                expanded = compression.receive(sketch, sent, memory, index, self.update == "sign")
        if self.state == "full" and self.update == "mean":
            expanded = [_times(u, 1.0 / replicas) for u in expanded]
        others = [i for i in range(len(variables)) if not inside[i]]
        plain = self._sum_of_replicas([gradients[i] for i in others])
        if self.state == "coordinates":
            mean = _times(wires.joined(compression.summed(sent.coordinates, sketch.shapes)), 1.0 / replicas)
            return self._in_coordinates(sketch, mean, step, index, known, chosen, others, plain)
        updates: List[Any] = [None] * len(variables)
        for i, u in zip(chosen, expanded):
            updates[i] = tf.cast(tf.reshape(u, variables[i].shape), variables[i].dtype)
        for i, gradient in zip(others, plain):
            updates[i] = gradient
        return self.apply_inner(updates, variables)

    def _in_coordinates(
        self, sketch: Any, mean: Any, step: Any, index: Any, known: Sequence[Any], chosen: Sequence[int],
        others: Sequence[int], plain: Sequence[Any],
    ) -> Any:  # fmt: skip
        """The inner optimizer on d coordinates, and P_t times its step on the weights."""
        self.owners.check(self, [known[i] for i in chosen])
        z = tensors([self.coordinates])[0]
        if self.on_redraw == "reset" and not self._use.fixed:
            due = tf.equal(step % self._use.basis.redraw_every, 0) & (step > 0)
            for slot in self.inner_slots():
                now = tf.convert_to_tensor(slot)
                self.put(slot, tf.where(due, tf.zeros_like(now), now))
        inside = [known[i] for i in chosen]
        self.decay_weights(inside)
        self.put(self.coordinates, tf.zeros([sketch.dim]))
        outside = [known[i] for i in others]
        applied = self.apply_inner([mean, *plain], [self.coordinates, *outside])
        # One sum of weights and update, not an update that is added: half of the traffic of a large model.
        # Of float64 the update is float32, and the weights are not rounded.
        exact = [tf.as_dtype(variable.dtype) == tf.float64 for variable in inside]
        weights = [
            _flat(v, v) if not own else tf.zeros([v.shape.num_elements()]) for v, own in zip(tensors(inside), exact)
        ]
        moved = sketch.moved(weights, tf.convert_to_tensor(z), index)
        for variable, weight, own in zip(inside, moved, exact):
            value = tf.cast(tf.reshape(weight, variable.shape), variable.dtype)
            self.put(variable, tf.convert_to_tensor(variable) + value if own else value)
        self.constrain(inside)
        return applied

    def _gather(self) -> Optional[compression.Gather]:
        """How the replicas' messages are gathered; None where this one is alone."""
        if projected.alone():
            return None
        if on_ipu():
            raise NotImplementedError(
                "SubspaceOptimizer on several replicas of an IPU keeps a memory for each of them: use rbd_ipu.Trainer"
            )
        context = tf.distribute.get_replica_context()
        if context is None:
            raise RuntimeError("a step of SubspaceOptimizer is for a replica: call it in what strategy.run runs")
        replicas = tf.distribute.get_strategy().num_replicas_in_sync

        def gather(message: Any) -> List[Any]:
            rows = context.all_gather(message[tf.newaxis], axis=0)
            return tf.unstack(tf.ensure_shape(rows, [replicas, *message.shape]))

        return gather

    def put(self, variable: Any, value: Any) -> None:
        """variable <- value, which all replicas hold alike."""
        self.write(variable, value, lambda v, x: v.assign(x))

    def _sum_of_replicas(self, gradients: List[Any]) -> List[Any]:
        if not gradients or projected.alone():
            return gradients
        context = tf.distribute.get_replica_context()
        return list(context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(g) for g in gradients]))

    def get_config(self) -> Dict[str, Any]:
        use, basis = self._use, self._use.basis
        return {
            **self.wrapper_config(),
            "dim": use.dim,
            "fraction": use.fraction,
            "distribution": basis.distribution,
            "select": use.select,
            "memory": use.memory,
            "wire": use.wire,
            "update": self.update,
            "state": self.state,
            "redraw_every": 0 if use.fixed else basis.redraw_every,
            "include": self.pattern_config(_plain(self.include)),
            "exclude": self.pattern_config(_plain(self.exclude)),
            "seed": basis.seed,
            "on_redraw": self.on_redraw,
            "compartments": basis.compartments,
            "normalize": basis.normalize,
            "source": basis.source,
            "orthogonalize": basis.orthogonalize,
            "second_moment": use.second_moment,
        }


def _flat(tensor: Any, variable: Any) -> Any:
    """A variable or its gradient as float32 [n]."""
    return tf.reshape(tf.cast(tf.convert_to_tensor(tensor), tf.float32), [int(variable.shape.num_elements())])


def _times(tensor: Any, factor: float) -> Any:
    return tensor if factor == 1.0 else factor * tensor


def _matching(what: str, patterns: Patterns, variables: Sequence[Any], candidates: Sequence[Any]) -> List[bool]:
    """Of each variable, whether it matches. A pattern has to match one of the candidates, if there are any."""
    if callable(patterns):
        return [bool(patterns(variable)) for variable in variables]
    wanted = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if not wanted or not all(isinstance(pattern, str) for pattern in wanted):
        raise TypeError(f"{what} must be a pattern, a list of patterns or a function of a variable, got {patterns!r}")
    known = [name_of(variable, i) for i, variable in enumerate(variables)]
    meant = [name_of(variable, i) for i, variable in enumerate(candidates)]
    for pattern in wanted:
        if meant and not any(_matches(name, pattern) for name in meant):
            names = ", ".join(list(dict.fromkeys(meant))[:20])
            raise ValueError(f"{what}: no variable or layer matches {pattern!r}; the variables are {names}")
    return [any(_matches(name, pattern) for pattern in wanted) for name in known]


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern is that of a variable's path, of the end of it, or of a layer on it."""
    parts = name.split("/")
    ends = ["/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(end, pattern) for end in ends)


def _plain(patterns: Patterns) -> Any:
    return patterns if patterns is None or isinstance(patterns, str) or callable(patterns) else list(patterns)


def _check_inner(inner: Any) -> None:
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise TypeError(f"inner_optimizer must be an optimizer of this Keras ({keras.__version__}), got {inner!r}")
    if isinstance(inner, SubspaceSGD):
        raise ValueError(
            f"inner_optimizer {type(inner).__name__} projects gradients itself; give the SGD that you mean, and the "
            "subspace as arguments of SubspaceOptimizer"
        )
    if type(inner).__name__ == "MultiOptimizer":
        raise ValueError(
            "inner_optimizer MultiOptimizer has optimizers of its own, whose clipping would act on what was "
            "compressed; put it around, with a SubspaceOptimizer for each part"
        )
    if "LossScale" in type(inner).__name__:
        raise ValueError(
            f"inner_optimizer {type(inner).__name__} would let scaled gradients into the memory; put it around: "
            f"{type(inner).__name__}(SubspaceOptimizer(...)), as Keras does for a policy of mixed precision"
        )
    if _is_one_of(inner, ("Muon",)):
        raise ValueError(
            "inner_optimizer Muon treats variables by their shapes and paths, which the inner optimizer is not given"
        )


#: Optimizers of Keras whose step depends on the values of the weights, which coordinates have not.
OF_WEIGHTS = ("Adafactor", "Ftrl", "Lamb", "ScheduleFreeAdamW")


def _is_one_of(inner: Any, names: Sequence[str]) -> bool:
    return any(kind.__name__ in names for kind in type(inner).__mro__)


def _check_state(inner: Any, state: str, accumulated: Optional[int] = None) -> None:
    """Refuses an inner optimizer that would not do what it does without the subspace."""
    averages = getattr(inner, "use_ema", False)
    if averages and accumulated:
        raise ValueError(
            "use_ema of inner_optimizer would average after each update, and Keras averages after each of the "
            f"{accumulated} steps of gradient_accumulation_steps: leave one of them out"
        )
    if state != "coordinates":
        return
    if averages:
        raise ValueError(
            "use_ema of inner_optimizer would average coordinates of different bases; with state='coordinates' it "
            "must be False"
        )
    if _is_one_of(inner, OF_WEIGHTS):
        raise ValueError(
            f"the step of inner_optimizer {type(inner).__name__} depends on the values of the weights, and with "
            "state='coordinates' it is given coordinates that begin at 0 in each step: use state='full', or another "
            "optimizer, as Adam"
        )


__all__ = ["SubspaceOptimizer"]
