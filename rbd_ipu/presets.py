"""Settings of :class:`rbd_ipu.SubspaceOptimizer` by name: for small messages, and for a small state."""

from typing import Any, Optional

from rbd_ipu import checks
from rbd_ipu._compat import keras
from rbd_ipu.optimizers import SubspaceOptimizer


def small_messages(
    learning_rate: Any = 0.005,
    fraction: Optional[float] = None,
    inner_optimizer: Optional[Any] = None,
    **options: Any,
) -> SubspaceOptimizer:
    """The largest coordinates of blocks, one bit each, with memory; plain descent along the sign of their mean.

    A worker sends about ``fraction * D * (3 + log2(1 / fraction)) / 8`` bytes at a step: 1/400 of the gradient at
    1/128. It keeps a memory of D numbers; the inner optimizer keeps none.

    With ``second_moment=0.99``, gradients are divided by the root of a running mean of their squares before all that,
    as in Adam, and the mean itself is applied. That is better for language models, for another D numbers of state.

    Args:
      learning_rate: of the signs, about that of Adam. A warm-up and a decay help; give a schedule.
      fraction: of the coordinates that are sent; 1/128, unless ``dim`` is given.
      inner_optimizer: instead of SGD at that rate.
      **options: other arguments of :class:`rbd_ipu.SubspaceOptimizer`.

    Raises:
      TypeError, ValueError: an argument is wrong; quotes it and what is accepted.

    Example:
      >>> optimizer = small_messages(0.005)
      >>> optimizer.get_config()["wire"], optimizer.get_config()["memory"]
      ('sign', 1.0)
    """
    fraction = _unless(options.get("dim"), fraction, 1 / 128)
    inner = inner_optimizer or keras.optimizers.SGD(checks.learning_rate(learning_rate))
    update = "sign" if options.get("second_moment") is None else "mean"
    settings = {"select": "largest", "memory": 1.0, "wire": "sign", "update": update, "redraw_every": 0, **options}
    return SubspaceOptimizer(inner, fraction=fraction, **settings)


def small_state(
    learning_rate: Any = 0.02, fraction: Optional[float] = None, inner_optimizer: Optional[Any] = None, **options: Any
) -> SubspaceOptimizer:
    """Adam in the coordinates of a basis that is drawn anew every 100 steps: a state of 2 ``fraction`` D numbers.

    Args:
      learning_rate: of Adam; a good rate is higher than that of Adam in the full space.
      fraction: d / D; 1/4, unless ``dim`` is given.
      inner_optimizer: instead of Adam at that rate.
      **options: other arguments of :class:`rbd_ipu.SubspaceOptimizer`.

    Raises:
      TypeError, ValueError: an argument is wrong; quotes it and what is accepted.

    Example:
      >>> small_state(0.02).get_config()["state"]
      'coordinates'
    """
    fraction = _unless(options.get("dim"), fraction, 1 / 4)
    inner = inner_optimizer or keras.optimizers.Adam(checks.learning_rate(learning_rate))
    settings = {"distribution": "groups", "state": "coordinates", "redraw_every": 100, **options}
    return SubspaceOptimizer(inner, fraction=fraction, **settings)


def _unless(dim: Optional[int], fraction: Optional[float], default: float) -> Optional[float]:
    return default if dim is None and fraction is None else fraction


__all__ = ["small_messages", "small_state"]
