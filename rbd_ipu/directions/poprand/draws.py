"""What poprand draws: the entries of a block for each distribution, from ``tf.random.stateless_*`` alone."""

from typing import Any, Callable, Dict

from rbd_ipu._stack import tf


def _normal(shape: Any, seed: Any) -> Any:
    return tf.random.stateless_normal(shape, seed)


def _uniform(shape: Any, seed: Any) -> Any:
    # On an IPU the interval is closed: -1, 1 and 0 itself can come.
    return tf.random.stateless_uniform(shape, seed, minval=-1.0, maxval=1.0)


def _rademacher(shape: Any, seed: Any) -> Any:
    # Not the sign of a uniform on [-1, 1], which may be 0.
    return tf.where(tf.random.stateless_uniform(shape, seed) < 0.5, -1.0, 1.0)


def _bernoulli(shape: Any, seed: Any) -> Any:
    return _rademacher(shape, seed) - 0.5


#: (shape, seed int32 [2]) -> raw entries float32, for the rows of ``DISTRIBUTIONS``.
DRAWS: Dict[str, Callable[[Any, Any], Any]] = {
    "normal": _normal,
    "uniform": _uniform,
    "rademacher": _rademacher,
    "bernoulli-0.5": _bernoulli,
}
