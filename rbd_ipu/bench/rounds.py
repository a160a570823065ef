"""Rounds: all runners in turn, again and again, so that a busy moment of the machine strikes all alike."""

import random
from typing import Any, Callable, Dict, Hashable, List, Mapping, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)

LEAST_STEPS = 3


class Times(NamedTuple):
    """What the rounds gave.

    Attributes:
      seconds: for each runner its seconds a step, one number a round.
      steps: for each runner the steps of a burst.
      complete: False if the user stopped the rounds early.
    """

    seconds: Dict[Any, List[float]]
    steps: Dict[Any, int]
    complete: bool


def burst(runner: Any, seconds: float) -> int:
    """How many steps last about ``seconds``, at least 3; the first steps, which compile, are run and not counted."""
    runner.run(1)
    steps = LEAST_STEPS
    taken = runner.run(steps)
    while taken < seconds / 2:
        # A short burst tells little of a long one, which pays for its beginning once: go up in small leaps.
        steps *= max(2, min(8, int(seconds / 2 / max(taken, 1e-9))))
        taken = runner.run(steps)
    return max(LEAST_STEPS, round(steps * seconds / taken))


def measure(
    runners: Mapping[Key, Any], rounds: int, seconds: float, tell: Callable[[str], None] = lambda text: None
) -> Times:
    """Times every runner once a round, in another order each time: what runs before one leaves its mark on it.

    Args:
      runners: what to time; ``run(steps) -> seconds``.
      rounds: how many.
      seconds: how long a burst of each should last.
      tell: is called with a line of text on progress.

    Ctrl-C ends the measurement after the last whole round; before the first, it goes on to the caller.

    Example:
      >>> class Fixed:
      ...     def run(self, steps):
      ...         return steps / 1024
      >>> times = measure({"a": Fixed()}, rounds=2, seconds=0.5)
      >>> times.seconds["a"], times.steps["a"]
      ([0.0009765625, 0.0009765625], 512)
    """
    keys = list(runners)
    steps = {}
    for number, key in enumerate(keys, start=1):
        tell(f"warming up {number}/{len(keys)}: {key}")
        steps[key] = burst(runners[key], seconds)
    whole: List[Dict[Any, float]] = []
    try:
        for r in range(rounds):
            tell(f"round {r + 1}/{rounds}")
            order = random.Random(r).sample(keys, len(keys))
            whole.append({key: runners[key].run(steps[key]) / steps[key] for key in order})
    except KeyboardInterrupt:
        if not whole:
            raise
    return Times({key: [one[key] for one in whole] for key in keys}, steps, len(whole) == rounds)
