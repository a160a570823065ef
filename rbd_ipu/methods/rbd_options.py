"""The options of RBD that change its step.

They are checked once and against each other. What is made of coordinates before they are used is a pure function
[d] -> [d], a registry row each.

The first public implementation offers them as ``coordinate_transformation`` and ``use_top_directions``; there they
act on each compartment alone, here on the coordinates of all compartments together.

Variables that are treated otherwise than the rest are a second part of the flat vector.
"""

import fnmatch
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import checks, compression
from rbd_ipu._compat import KERAS_3, apply_update, create_variables, keras, tensors, tf
from rbd_ipu.checks import Registry
from rbd_ipu.compartments import describe
from rbd_ipu.directions import DISTRIBUTIONS
from rbd_ipu.methods.base import inner_optimizer, likeness


def gathered(total: Any, c: Any, due: Any) -> Tuple[Any, Any]:
    """(what to project now, what to keep): the sum of coordinates where it is due, else kept for later.

    Example:
      >>> now, kept = gathered(tf.constant([1.0]), tf.constant([2.0]), due=tf.constant(False))
      >>> now.numpy().tolist(), kept.numpy().tolist()
      ([0.0], [3.0])
    """
    total = total + c
    return tf.where(due, total, tf.zeros_like(total)), tf.where(due, tf.zeros_like(total), total)


def unless_alike(u: Any, g: Any, below: float, ratio: float) -> Any:
    """u, or ratio * g where Pearson's correlation of u and g is below a threshold: [D].

    Example:
      >>> g = tf.constant([1.0, 2.0, 3.0])
      >>> unless_alike(tf.reverse(g, [0]), g, below=0.0, ratio=0.5).numpy().tolist()
      [0.5, 1.0, 1.5]
    """
    return tf.where(likeness(u, g)[1] < below, ratio * g, u)


def lowest_again(draws: Any, c: Any, share: float) -> Any:
    """Numbers of draws [d], one more for the round(share * d) directions with the lowest |c_i|, at least one.

    Example:
      >>> lowest_again(tf.constant([4, 4, 4, 4]), tf.constant([0.3, -0.1, 5.0, -2.0]), 0.5).numpy().tolist()
      [5, 5, 4, 4]
    """
    count = max(1, round(share * c.shape[0]))
    return draws + tf.cast(largest(-tf.abs(c), count), draws.dtype)


TRANSFORMS = Registry("transform")


@TRANSFORMS.register("none")
def unchanged(c: Any) -> Any:
    """c as it is."""
    return c


@TRANSFORMS.register("rank")
def rank(c: Any) -> Any:
    """Ranks, evenly spaced from -1/2 (the lowest) to 1/2 (the highest); equal values share their mean rank.

    The shaping of Salimans et al. 2017: only the order counts, and no outlier weighs more than another. One value
    alone has rank 0, and NaN stays NaN.

    Example:
      >>> rank(tf.constant([3.0, -7.0, 1.0, 1.0, 90.0])).numpy().tolist()
      [0.25, -0.5, -0.125, -0.125, 0.5]
    """
    ordered = tf.sort(c)
    below = tf.searchsorted(ordered, c, side="left")
    up_to = tf.searchsorted(ordered, c, side="right")
    places = tf.cast(below + up_to - 1, c.dtype) / 2.0
    count = c.shape[0]
    shaped = places / (count - 1) - 0.5 if count > 1 else tf.zeros_like(c)
    return tf.where(tf.math.is_nan(c), c, shaped)


@TRANSFORMS.register("range")
def scaled(c: Any) -> Any:
    """(c - min c) / (max c - min c) - 1/2; zeros where all are equal.

    Example:
      >>> scaled(tf.constant([3.0, 1.0, 5.0, 2.0])).numpy().tolist()
      [0.0, -0.5, 0.5, -0.25]
    """
    low, high = tf.reduce_min(c), tf.reduce_max(c)
    return tf.where(high > low, tf.math.divide_no_nan(c - low, high - low) - 0.5, c - c)


def largest(values: Any, k: int) -> Any:
    """1 at the k largest values, 0 elsewhere: float32 [d]; of equal values the first ones count.

    Example:
      >>> largest(tf.constant([3.0, 1.0, 5.0, 5.0]), 2).numpy().tolist()
      [0.0, 0.0, 1.0, 1.0]
    """
    places = tf.math.top_k(values, k).indices
    return tf.scatter_nd(places[:, tf.newaxis], tf.ones([k]), [values.shape[0]])


def top(c: Any, k: int) -> Any:
    """The k coordinates of the largest magnitude, zeros for the others.

    Example:
      >>> top(tf.constant([3.0, -7.0, 1.0]), 2).numpy().tolist()
      [3.0, -7.0, 0.0]
    """
    return c * largest(tf.abs(c), k)


class Layers:
    """The variables whose name or layer matches one of some patterns, apart from the others.

    Args:
      variables: in the order in which they make the flat vector [D].
      patterns: names or shell patterns of layers or variables, separated by commas: "logits", "conv*/bias, hidden",
        "bias" for all biases.

    Attributes:
      chosen, rest: the variables that match, and the others.

    Raises:
      ValueError: a pattern matches nothing, or nothing is left; the message lists the layers there are.

    Example:
      >>> layers = Layers([(20, 10), (10,), (10, 3)], "layer/1, 2")
      >>> layers.rest, [part.shape.as_list() for part in layers.split(tf.zeros([240]))]
      ([(20, 10)], [[200], [40]])
    """

    def __init__(self, variables: Sequence[Any], patterns: str):
        known = [describe(variable, index) for index, variable in enumerate(variables)]
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        layers = ", ".join(dict.fromkeys(v.layer for v in known))
        for pattern in wanted:
            if not any(_matches(v, pattern) for v in known):
                raise ValueError(f"no layer or variable is called {pattern!r}; the layers are {layers}")
        self._sizes = [v.size for v in known]
        self._marks = [any(_matches(v, pattern) for pattern in wanted) for v in known]
        if all(self._marks):
            raise ValueError(f"{patterns!r} are all variables (of the layers {layers}); none is left for directions")
        self.chosen = [v for v, mark in zip(variables, self._marks) if mark]
        self.rest = [v for v, mark in zip(variables, self._marks) if not mark]

    @property
    def size(self) -> int:
        """How many parameters the chosen variables have."""
        return sum(size for size, mark in zip(self._sizes, self._marks) if mark)

    def split(self, vector: Any) -> Tuple[Any, Any]:
        """(the rest, the chosen): [D] -> [D - n], [n]."""
        pieces = list(zip(tf.split(vector, self._sizes), self._marks))
        return tuple(tf.concat([p for p, mark in pieces if mark is kind], axis=0) for kind in (False, True))

    def join(self, rest: Any, chosen: Any) -> Any:
        """The opposite of :meth:`split`."""
        parts = {}
        for kind, part in ((False, rest), (True, chosen)):
            parts[kind] = iter(tf.split(part, [n for n, mark in zip(self._sizes, self._marks) if mark is kind]))
        pieces: List[Any] = [next(parts[mark]) for mark in self._marks]
        return tf.concat(pieces, axis=0)


def _matches(variable: Any, pattern: str) -> bool:
    """Whether a pattern is a variable's or its layer's name, or the end of one: "bias" of "model/dense/bias"."""
    paths = [name.split("/") for name in (variable.name, variable.layer)]
    ends = ["/".join(path[k:]) for path in paths for k in range(len(path))]
    return any(fnmatch.fnmatchcase(end, pattern) for end in ends)


class InCoordinates:
    """An optimizer of Keras that is given d coordinates: its state is as small as they are.

    Args:
      inner: its name in small letters.
      dim: d.
      reset_every: its state is set to zero before every so many steps; None: it lives on.

    Attributes:
      slots: its variables, by name.

    Example:
      >>> adam = InCoordinates("adam", 3)
      >>> [round(float(x), 3) for x in adam.step(tf.constant([0.3, 2.0, -7.0]), tf.constant(0))]
      [1.0, 1.0, -1.0]
    """

    def __init__(self, inner: str, dim: int, reset_every: Optional[int] = None):
        make = keras.Variable if KERAS_3 else tf.Variable
        self._z = make(tf.zeros([dim]), trainable=True, name="coordinates")
        self._inner = inner_optimizer(inner)(1.0)
        create_variables(self._inner, [self._z])
        own = tensors(self._inner.variables if KERAS_3 else self._inner.variables())
        self._moments = [v for v in own if v.shape == [dim] and v.dtype == tf.float32]
        self.slots: Dict[str, Any] = {"inner_step": tensors([self._inner.iterations])[0]}
        self.slots.update({f"inner_{i}": v for i, v in enumerate(self._moments)})
        self._reset_every = reset_every

    def step(self, c: Any, step: Any) -> Any:
        """What the optimizer subtracts at learning rate 1, given c: [d] -> [d]; c itself where it is not finite."""
        return tf.cond(tf.math.is_finite(tf.reduce_sum(c)), lambda: self._step(c, step), lambda: c)

    def _step(self, c: Any, step: Any) -> Any:
        if self._reset_every is not None:
            due = tf.equal(step % self._reset_every, 0)
            for moment in self._moments:
                now = tf.identity(moment)
                moment.assign(tf.where(due, tf.zeros_like(now), now))
        z = tensors([self._z])[0]
        z.assign(tf.zeros_like(c))
        apply_update(self._inner, [(c, self._z)])
        return -tf.convert_to_tensor(z)


class Options(NamedTuple):
    """See :class:`rbd_ipu.methods.RBD` for their meaning.

    Attributes:
      ratio: of the learning rate of SGD to that of the descent in random bases.
    """

    sgd_layers: Optional[str]
    transform: str
    accumulate: int
    top_k: Optional[int]
    sgd_below: Optional[float]
    redraw_lowest: Optional[float]
    ratio: float

    @property
    def filters(self) -> bool:
        """Whether the update is P P^T g, so that coordinates need not be known."""
        return self[:4] == (None, "none", 1, None) and self.redraw_lowest is None

    def not_parallel_because(self) -> str:
        """Why several workers cannot share a step, or nothing."""
        if self.accumulate > 1:
            return f"accumulate={self.accumulate} keeps sums of coordinates, which every worker would have its own of"
        if self.sgd_below is not None:
            return f"sgd_below={self.sgd_below:g} makes steps of SGD, for which workers send no gradients"
        if self.redraw_lowest is not None:
            return f"redraw_lowest={self.redraw_lowest:g} looks at the coordinates of one worker's directions"
        return ""

    def check_dim(self, dim: int) -> None:
        """Refuses what needs more directions than there are.

        Raises:
          ValueError: both numbers are quoted.
        """
        if self.top_k is not None and self.top_k > dim:
            raise ValueError(f"top_k={self.top_k} is more than the dim={dim} directions there are")
        if self.transform != "none" and dim == 1:
            raise ValueError(f"transform={self.transform!r} compares coordinates, but dim=1 gives one alone")


def checked(
    method: Any,
    sgd_layers: Optional[str],
    transform: str,
    accumulate: int,
    top_k: Optional[int],
    sgd_below: Optional[float],
    redraw_lowest: Optional[float],
    sgd_learning_rate: Optional[float],
) -> Options:
    """Options that go together, and with the rest of a method.

    Raises:
      TypeError, ValueError: one is wrong, or two contradict each other; both are quoted.
    """
    if sgd_layers is not None and not (isinstance(sgd_layers, str) and sgd_layers.strip()):
        raise TypeError(f"sgd_layers must be names or patterns of layers, separated by commas, got {sgd_layers!r}")
    accumulate = checks.positive_int("accumulate", accumulate)
    top_k = None if top_k is None else checks.positive_int("top_k", top_k)
    sgd_below = None if sgd_below is None else checks.finite_float("sgd_below", sgd_below, -1.0, 1.0)
    if redraw_lowest is not None:
        redraw_lowest = checks.finite_float("redraw_lowest", redraw_lowest, 0.0, 1.0)
    inner_optimizer(method.inner)
    checks.one_of("state", method.state, compression.STATES)
    checks.one_of("on_redraw", method.on_redraw, compression.ON_REDRAW)
    made = Options(
        sgd_layers, transform, accumulate, top_k, sgd_below, redraw_lowest, _ratio(method, sgd_learning_rate)
    )
    for contradiction, why in _contradictions(method, made, sgd_learning_rate):
        if contradiction:
            raise ValueError(why)
    return made


def _contradictions(method: Any, use: Options, sgd_learning_rate: Optional[float]) -> Any:
    """(whether, why) for every pair."""
    k, share = use.accumulate, use.redraw_lowest
    sgd = use.sgd_layers is not None or use.sgd_below is not None
    name = f"sgd_layers={use.sgd_layers!r}" if use.sgd_layers is not None else f"sgd_below={use.sgd_below}"
    yield (
        method.momentum > 0 and method.inner != "sgd",
        f"momentum={method.momentum} is for inner='sgd', got {method.inner!r}",
    )
    yield sgd and method.inner != "sgd", f"{name} makes steps of SGD, which inner={method.inner!r} would change"
    yield (
        method.on_redraw == "reset" and not method.one_basis,
        f"on_redraw='reset' is for state='coordinates', got state={method.state!r}",
    )
    if method.one_basis:
        yield from _without_coordinates(method.inner, use)
    yield (
        not sgd and sgd_learning_rate is not None,
        f"sgd_learning_rate={sgd_learning_rate} is for sgd_layers or sgd_below, but neither is given",
    )
    yield sgd and sgd_learning_rate is None, f"{name} needs sgd_learning_rate, the learning rate of its SGD"
    yield (
        use.sgd_layers is not None and use.sgd_below is not None,
        f"sgd_below={use.sgd_below} compares the update with the gradient, but with sgd_layers={use.sgd_layers!r} a "
        "part of it is the gradient",
    )
    yield (
        k > 1 and method.basis.redraw_every % k > 0,
        f"accumulate={k} sums up coordinates of one basis, so redraw_every must be a multiple of it, "
        f"got redraw_every={method.basis.redraw_every}",
    )
    yield (
        k > 1 and method.momentum > 0,
        f"accumulate={k} leaves the weights alone between its updates, but momentum={method.momentum} moves them",
    )
    yield (
        k > 1 and use.sgd_below is not None,
        f"sgd_below={use.sgd_below} compares every update with the gradient, but accumulate={k} makes none at most "
        "steps",
    )
    yield (
        share is not None and not 0 < share < 1,
        f"redraw_lowest must be a number above 0 and below 1, got {share}; 1 is what RBD does without it, 0 is fpd",
    )
    yield (
        share is not None and (method.basis.distribution not in DISTRIBUTIONS or method.basis.orthogonalize),
        f"redraw_lowest={share} draws directions one by one, but with distribution={method.basis.distribution!r} and "
        f"orthogonalize={method.basis.orthogonalize} they are made as a whole",
    )
    yield (
        share is not None and method.basis.source not in ("auto", "counter"),
        f"redraw_lowest={share} gives every direction a seed of its own, which source={method.basis.source!r} does "
        "not take; leave it 'auto'",
    )


def _without_coordinates(inner: str, use: Options) -> Any:
    """(whether, why) for all that an inner optimizer with state in coordinates does not go with."""
    yield (
        inner in ("sgd", "adamw"),
        "state='coordinates' is for an inner optimizer that keeps something of coordinates (adam, rmsprop, lion): "
        f"the momentum of sgd is that of the whole step, the decay of adamw is of weights; got inner={inner!r}",
    )
    for name, value in (("accumulate", use.accumulate > 1), ("redraw_lowest", use.redraw_lowest is not None)):
        yield (
            value,
            f"{name}={getattr(use, name)} decides itself when coordinates count; with state='coordinates' the inner "
            "optimizer is given those of every step",
        )


def _ratio(method: Any, sgd_learning_rate: Optional[float]) -> float:
    if sgd_learning_rate is None:
        return 0.0
    sgd = checks.rate("sgd_learning_rate", sgd_learning_rate)
    if callable(method.learning_rate) or not method.learning_rate > 0:
        raise ValueError(
            f"sgd_learning_rate={sgd} is applied in proportion to learning_rate, which must be a number > 0, "
            f"got {method.learning_rate!r}"
        )
    return sgd / method.learning_rate
