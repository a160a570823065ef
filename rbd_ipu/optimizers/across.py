"""Configurations of optimizers that come from the other Keras, so that a file of one stack loads on the other."""

from typing import Any, Dict

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
    config.pop("iterations", None)
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
