"""How much of the full setting is run: fewer epochs, fewer seeds, or tiny stand-ins to see that all works."""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu.config import ConfigError

_FORM = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,3})")


class Budget(NamedTuple):
    """At most so many epochs and seeds; None for as many as the paper has.

    Attributes:
      name: what the user writes.
      epochs, seeds: the limits.
      tiny: digits instead of the data set, a small network and few directions.
    """

    name: str
    epochs: Optional[int] = None
    seeds: Optional[int] = None
    tiny: bool = False


NAMED = {
    "full": Budget("full"),
    "short": Budget("short", epochs=10, seeds=1),
    "smoke": Budget("smoke", epochs=2, seeds=1, tiny=True),
}
HELP = "full, short (10x1), smoke (tiny, on digits, to see that it works), or EPOCHSxSEEDS such as 20x2"


def budget(text: str) -> Budget:
    """Reads what the user wrote.

    Raises:
      ConfigError: it is none of the names and not EPOCHSxSEEDS.

    Example:
      >>> budget("20x2")
      Budget(name='20x2', epochs=20, seeds=2, tiny=False)
    """
    if text in NAMED:
        return NAMED[text]
    form = _FORM.fullmatch(text)
    if not form:
        raise ConfigError(f"--budget {text}: must be {HELP}")
    return Budget(text, int(form.group(1)), int(form.group(2)))


def cut(
    limits: Budget, settings: Dict[str, Any], seeds: Sequence[int]
) -> Tuple[Dict[str, Any], Tuple[int, ...], List[str]]:
    """The settings and seeds under a budget, and in words what was cut.

    A change of method after so many epochs moves with the epochs, in proportion.

    Example:
      >>> cut(budget("10x1"), {"epochs": 100, "switch_epoch": 50}, (0, 1, 2))
      ({'epochs': 10, 'switch_epoch': 5}, (0,), ['10 of 100 epochs', '1 of 3 seeds', 'switch after 5, not 50'])
    """
    new, words = dict(settings), []
    epochs = settings["epochs"]
    if limits.epochs is not None and limits.epochs < epochs:
        new["epochs"] = limits.epochs
        words.append(f"{limits.epochs} of {epochs} epochs")
    kept = tuple(seeds if limits.seeds is None else seeds[: limits.seeds])
    if len(kept) < len(seeds):
        words.append(f"{len(kept)} of {len(seeds)} seeds")
    switch = settings.get("switch_epoch")
    if switch is not None and new["epochs"] < epochs:
        new["switch_epoch"] = max(1, min(new["epochs"] - 1, round(switch * new["epochs"] / epochs)))
        words.append(f"switch after {new['switch_epoch']}, not {switch}")
    if limits.tiny:
        new.update(_tiny(new))
        words.append("digits")
    return new, kept, words


def _tiny(settings: Dict[str, Any]) -> Dict[str, Any]:
    small: Dict[str, Any] = {"dataset": "digits", "network": "fc", "learning_rate": 0.25}
    if settings.get("dim") is not None:
        small["dim"] = min(settings["dim"], 8)
    if settings.get("simulate_workers") is not None:
        small["simulate_workers"] = min(settings["simulate_workers"], 2)
    scheme, _, argument = str(settings.get("compartments", "global")).partition(":")
    if scheme == "even":
        small["compartments"] = f"even:{min(int(argument), 2)}"
    if scheme == "factor":
        small["compartments"] = "factor:100"
    return small
