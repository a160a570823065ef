"""When two runs are the same: a key from the settings that decide the numbers.

Where a run computes and how often it saves is no part of it (device, folder of the data, what draws the directions,
whether workers are real or simulated, checkpoints), and neither are settings at their defaults, so that a setting
that is added later leaves the keys of older runs as they are.
"""

import hashlib
import json
from typing import Any, Dict

from rbd_ipu.config import FIELDS, Config

_ELSEWHERE = (
    "device", "data_dir", "source", "checkpoint_seconds", "keep_checkpoints", "workers", "simulate_workers",
    "worker_timeout",
)  # fmt: skip


def essence(config: Config) -> Dict[str, Any]:
    """The settings that decide the numbers, less those at their defaults.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> essence(resolve({"method": "sgd", "learning_rate": 0.5, "epochs": 3}))
      {'method': 'sgd', 'learning_rate': 0.5, 'epochs': 3}
    """
    found = {
        name: value
        for name, value in config.as_dict().items()
        if name not in _ELSEWHERE and value != FIELDS[name]["default"]
    }
    return {**found, "workers": config.all_workers} if config.all_workers > 1 else found


def key(config: Config) -> str:
    """12 hexadecimal digits that two runs share if all of their numbers must agree."""
    return _digest(essence(config))


def stem(config: Config) -> str:
    """The same without seed and epochs: what the runs of a cell have in common.

    Example:
      >>> from rbd_ipu.config import resolve
      >>> one, other = (resolve({"learning_rate": 1.0, "seed": s, "epochs": 9 + s}) for s in (1, 2))
      >>> stem(one) == stem(other), key(one) == key(other)
      (True, False)
    """
    return _digest({name: value for name, value in essence(config).items() if name not in ("seed", "epochs")})


def _digest(settings: Dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
