"""The devices of this machine: its CPU, and a GPU."""

from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from rbd_ipu._compat import apply_update, tensors, tf
from rbd_ipu.objective import Objective
from rbd_ipu.parallel.exchange import Alone, Exchange
from rbd_ipu.step import Step, evaluate_all, train_steps


class Device:
    """A device to build and train models on, and the strategy that runs things there.

    A context manager: what is built inside it has its variables on the device. The strategy is TensorFlow's
    default one, which takes models built elsewhere too (OneDeviceStrategy refuses those).

    Args:
      name: "cpu" or "gpu".
      place: TensorFlow's name of it, such as "/CPU:0".

    Attributes:
      name: "cpu" or "gpu".
      strategy: a ``tf.distribute`` strategy.
      exchange: what the workers of this device send each other.
      compiles_only: it runs nothing: programs are compiled for a machine that has the device.
      has_numbers: what it measures means something.

    Example:
      >>> with Device("cpu", "/CPU:0") as device:
      ...     device.name, tf.Variable(1.0).device[-5:]
      ('cpu', 'CPU:0')
    """

    exchange: Exchange = Alone()
    compiles_only = False
    has_numbers = True

    def __init__(self, name: str, place: str):
        self.name = name
        self.strategy = tf.distribute.get_strategy()
        self._place = place
        self._entered: List[Any] = []

    def __enter__(self) -> "Device":
        scope = tf.device(self._place)
        scope.__enter__()
        self._entered.append(scope)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.pop().__exit__(*exception)

    def check(self, model: Any) -> None:
        """Refuses a model that was built elsewhere, with a ValueError."""
        if not self.is_home(model):
            raise ValueError(
                f"model {model.name!r} was built elsewhere: build it inside `with device:`, with no other strategy "
                "of tf.distribute in scope; the device 'gpu:N' trains copies on N GPUs"
            )

    def is_home(self, model: Any) -> bool:
        """Whether a model was built where it must be; here anywhere will do, but not as copies on replicas."""
        return not any(isinstance(v, tf.distribute.DistributedValues) for v in tensors(model.variables))

    def part(self, model: Any, variables: Sequence[Any]) -> Tuple[Any, Sequence[Any]]:
        """What a worker has of the model, in the traced step: (the model, the variables as its own)."""
        return model, variables

    def subtract(self, optimizer: Any, pairs: Sequence[Tuple[Any, Any]]) -> None:
        """Applies (update, variable) pairs that all workers hold alike, in the traced step."""
        apply_update(optimizer, pairs)

    def iterate(self, dataset: Any) -> Any:
        """The iterator that the loop reads from."""
        return iter(dataset)

    def loop(self, step: Step) -> Callable[[Any, int, int, Sequence[float]], List[float]]:
        """``(iterator, n, done, sums) -> sums``: n steps on the device; see :func:`rbd_ipu.step.train_steps`."""
        compiled = train_steps(step.run, step.log is not None)

        def run(iterator: Any, n: int, done: int, sums: Sequence[float]) -> List[float]:
            given = (iterator, tf.constant(n), tf.constant(done), tf.constant(sums, tf.float64))
            # strategy.run wants a plain function around the compiled one.
            with self:
                found = self.strategy.run(lambda *arguments: compiled(*arguments), args=given)
            if step.log is not None:
                *found, rows = found
                step.log(rows.numpy()[: int(found[0]) - done])  # without the one that was not finite
            return [float(value) for value in found]

        return run

    def steps_a_call(self, wanted: int, steps_per_epoch: int, every: int = 0) -> int:
        """How many steps a call of the loop should take, for one that lasts as long as ``wanted`` of them.

        Where ``every`` is not 0, calls have to end at each multiple of it; it is the caller who cuts them.
        """
        return max(1, wanted)

    def evaluation(self, objective: Objective) -> Callable[[Any], Any]:
        """``dataset -> sums`` in the order of REPORTED; see :func:`rbd_ipu.step.evaluate_all`."""
        return evaluate_all(objective)

    # --- the variables of Keras' metrics ----------------------------------------------------------------

    #: Whether steps can change them here.
    keeps_metrics = True

    def copies(self, variable: Any) -> Sequence[Any]:
        """A variable that every worker of this process changes on its own, as each of them has it."""
        return [variable]

    #: (this process, how many there are).
    process = (0, 1)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """What every process has: float64 [m] -> [processes, m]."""
        return values[np.newaxis]

    # --- what several workers need, between two calls of the loop; a worker on its own needs nothing ----

    def agree(self, n: int) -> int:
        """The least of what the workers propose: how many steps the next call of the loop runs, 0 to stop."""
        return n

    def shared_seed(self, seed: int) -> int:
        """The seed of the first of several processes that should have one in common."""
        return seed

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Refuses, with a ConfigError, to begin where the processes that train together differ in these facts."""

    def leave(self, error: BaseException) -> None:
        """Lets the other workers know that this one stops because of ``error``."""

    def measured(self) -> Dict[str, float]:
        """More columns for the logs of an epoch that is over."""
        return {}


def processor(name: str) -> Device:
    """The CPU or the first GPU of this machine, by the name in small letters.

    Raises:
      RuntimeError: TensorFlow sees no such device here; the message lists those it sees.
    """
    kind = name.upper()
    if not tf.config.list_logical_devices(kind):
        present = ", ".join(sorted({d.device_type for d in tf.config.list_logical_devices()}))
        raise RuntimeError(f"TensorFlow sees no {kind} on this machine; it sees: {present}")
    return Device(name, f"/device:{kind}:0")
