"""Packages that a run can do without, and what is missing in its folder without them."""

import importlib.util
from typing import List

_WITHOUT = {
    "matplotlib": 'no curves.png: matplotlib is missing; pip install "rbd-ipu[plots]"',
    "tensorboard": "no TensorBoard events: tensorboard is missing; pip install tensorboard",
}


def installed(package: str) -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(package) is not None


def missing() -> List[str]:
    """One line for each of these packages that is not there."""
    return [text for package, text in _WITHOUT.items() if not installed(package)]
