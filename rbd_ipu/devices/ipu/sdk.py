"""Graphcore's TensorFlow: the one place that imports it, when an IPU is opened and not before."""

import importlib
from typing import Any


def package() -> Any:
    """The package ``tensorflow.python.ipu``.

    Raises:
      RuntimeError: this TensorFlow is not Graphcore's.
    """
    try:
        return importlib.import_module("tensorflow.python.ipu")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("tensorflow.python.ipu"):
            raise
        from rbd_ipu._stack import tf

        raise RuntimeError(
            f"an IPU needs the TensorFlow of the Poplar SDK (Python 3.8, TensorFlow 2.6); this is TensorFlow "
            f"{tf.__version__} without tensorflow.python.ipu. `rbd-ipu devices check FILE` needs no SDK"
        ) from error


def make_strategy(ipu: Any, several_processes: bool) -> Any:
    """The strategy for the IPUs that have been configured; after ``configure_ipu_system``."""
    if several_processes:
        module = importlib.import_module("tensorflow.python.ipu.distributed.popdist_strategy")
        return module.PopDistStrategy()
    return ipu.ipu_strategy.IPUStrategy()


def host_collectives() -> Any:
    """The module that moves numbers between the hosts; the package does not import it by itself."""
    return importlib.import_module("tensorflow.python.ipu.distributed.host_collective_ops")
