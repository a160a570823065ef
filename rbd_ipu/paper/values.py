"""What a table or figure can show of a run: each value's heading, unit and number of places."""

from typing import Any, Dict, NamedTuple, Optional


class Value(NamedTuple):
    """A row: heading for tables, label for axes, what a stored number is multiplied by, places after the point."""

    heading: str
    label: str
    scale: float
    places: int


VALUES: Dict[str, Value] = {
    "val_accuracy": Value("validation acc. %", "validation accuracy (%)", 100.0, 2),
    "accuracy": Value("training acc. %", "training accuracy (%)", 100.0, 2),
    "test_accuracy": Value("test acc. %", "test accuracy (%)", 100.0, 2),
    "correlation": Value("correlation", "Pearson correlation with the gradient", 1.0, 3),
    "val_loss": Value("validation loss", "validation loss (nats)", 1.0, 4),
    "images_per_second": Value("images/s", "images a second", 1.0, 0),
    "hours": Value("hours", "wall-clock time (hours)", 1.0, 2),
    "d": Value("d", "directions", 1.0, 0),
}


class Mean(NamedTuple):
    """Mean and sample standard deviation of n runs, in the units of the table; ``std`` is None for one run."""

    mean: float
    std: Optional[float]
    n: int


def printed(value: Any) -> str:
    """A number of the paper as it is printed there: a list is [mean, standard deviation].

    Example:
      >>> printed([93.893, 0.024]), printed(7982), printed(None)
      ('93.893 ± 0.024', '7982', '')
    """
    if value is None:
        return ""
    if isinstance(value, list):
        mean, std = value
        return f"{mean} ± {std}"
    return str(value)


def ours(name: str, value: Mean) -> str:
    """A measured number to the places of its kind; the deviation is there from two runs on.

    Example:
      >>> ours("val_accuracy", Mean(94.123, 0.204, 3)), ours("d", Mean(7982.0, 0.0, 2))
      ('94.12 ± 0.20', '7982')
    """
    places = VALUES[name].places
    text = f"{value.mean:.{places}f}"
    if value.std is None or name == "d":
        return text
    return f"{text} ± {value.std:.{places}f}"
