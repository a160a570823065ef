"""Tables and pictures of what language_model.py has run: write_pages.py puts them into the documentation.

Of each network, number of steps, number of workers and their groups, recipe and size of message, the rate counts that
has the most seeds, and of those the lowest mean loss. A run whose loss is not finite is worse than any other.
"""

import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
from language_model import RECIPES, loss_of

from rbd_ipu import files, text_table
from rbd_ipu.parallel import cost_model
from rbd_ipu.plots import Line, Panel, svgs

Row = Mapping[str, Any]
OWN = ("adam", "sgd-momentum", "rbd", "fpd", "largest", "one-bit-adam", "adam-in-")  # beginnings: docs/optimizer.md
MEGABITS = (10, 100, 1000)  # a second, of the modelled networks
WORKERS = (4, 16)  # of the modelled steps


class Best(NamedTuple):
    """The runs of a recipe at its best rate.

    Attributes:
      D, steps, workers, group_size, group_levels, recipe, sent: what they share; ``sent`` bytes a step.
      state: floats that a worker keeps.
      note: of the settings.
      tried: rates, rising.
      diverged: those of them where a run has no finite loss.
      rate: the best.
      losses: of its seeds.
    """

    D: int
    steps: int
    workers: int
    group_size: int
    group_levels: int
    recipe: str
    sent: float
    state: float
    note: str
    tried: List[float]
    diverged: List[float]
    rate: float
    losses: List[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.losses))

    @property
    def spread(self) -> float:
        """The sample deviation over seeds; 0 of one run."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else 0.0


def best_of(rows: Sequence[Row]) -> List[Best]:
    """The best rate of each recipe, sorted by network, steps, workers and falling size of message."""
    groups: Dict[Any, Dict[float, List[Row]]] = {}
    for row in rows:
        if "validation_loss" in row:
            divided = [row.get(name, 1) for name in ("workers", "group_size", "group_levels")]
            what = (row["D"], row["steps"], *divided, row["recipe"], row["bytes_a_step"])
            groups.setdefault(what, {}).setdefault(row["rate"], []).append(row)
    found = []
    for what, rates in groups.items():
        means = {rate: float(np.mean([loss_of(row) for row in own])) for rate, own in rates.items()}
        finite = {rate: len(own) if math.isfinite(means[rate]) else 0 for rate, own in rates.items()}
        best = min(means, key=lambda rate: (-finite[rate], means[rate]))
        diverged = [rate for rate in sorted(means) if not math.isfinite(means[rate])]
        first = rates[best][0]
        losses = [loss_of(row) for row in rates[best]]
        found.append(Best(*what, first["state_floats"], first["note"], sorted(means), diverged, best, losses))
    return sorted(found, key=lambda one: (*one[:3], -one.sent, one.recipe, one.group_size, one.group_levels))


def _loss(one: Best) -> str:
    if not math.isfinite(one.mean):
        return "diverged"
    return f"{one.mean:.3f}" + (f" ± {one.spread:.3f}" if len(one.losses) > 1 else "")


def rate_text(rate: float) -> str:
    """A power of two as such.

    Example:
      >>> rate_text(0.0078125), rate_text(0.005)
      ('2^-7', '0.005')
    """
    exponent = math.log2(rate)
    return f"2^{exponent:.0f}" if exponent == round(exponent) else f"{rate:g}"


def _tried(one: Best) -> str:
    powers = all(math.log2(rate) == round(math.log2(rate)) for rate in one.tried)
    text = ", ".join(rate_text(rate) for rate in one.tried)
    if powers and len(one.tried) > 2:
        text = f"{rate_text(one.tried[0])} to {rate_text(one.tried[-1])}"
    if one.diverged and len(one.diverged) < len(one.tried):
        text += f"; diverged from {rate_text(one.diverged[0])}"
    return text


def _sent(one: Best) -> str:
    return f"{one.sent:,.0f}" + (f" (1/{4 * one.D / one.sent:,.0f})" if one.sent < 4 * one.D else "")


def _workers(one: Best) -> str:
    if one.group_size == 1:
        return str(one.workers)
    levels = f", {one.group_levels} levels" if one.group_levels > 1 else ""
    return f"{one.workers} in groups of {one.group_size}{levels}"


def _lines(found: Sequence[Best]) -> List[List[str]]:
    lines = [["D", "steps", "K", "method", "bytes a step", "state", "rates tried", "best", "n", "validation loss"]]
    for one in found:
        lines.append([
            f"{one.D:,}", f"{one.steps:,}", _workers(one), f"{one.recipe}: {one.note}", _sent(one),
            f"{one.state / one.D:.2g} D", _tried(one), rate_text(one.rate), str(len(one.losses)), _loss(one),
        ])  # fmt: skip
    return lines


def losses(rows: Sequence[Row]) -> str:
    """All methods, as Markdown."""
    return text_table.markdown(_lines(best_of(rows)), 4)


def of_the_package(rows: Sequence[Row]) -> str:
    """One worker, the methods of the package and Keras' optimizers that they are measured by, as Markdown."""
    found = [one for one in best_of(rows) if one.workers == 1 and one.recipe.startswith(OWN)]
    return text_table.markdown([[*line[:2], *line[3:]] for line in _lines(found)], 3)


def step_seconds(compute: float, message: float, workers: int, reduced: bool, megabits: float) -> float:
    """A model of the time of a step, by the rings of rbd_ipu.parallel.cost_model, without latency.

    Args:
      compute: seconds of the step of one worker, before the exchange.
      message: bytes of the message of one worker.
      workers: K.
      reduced: whether messages are added up on their way (all-reduce), or all of them go to everybody (all-gather).
      megabits: a second, both ways at the same time.

    Example:
      >>> step_seconds(0.5, 1e6, 5, False, 8.0), step_seconds(0.5, 1e6, 5, True, 8.0)
      (4.5, 2.1)
    """
    ring: Callable[[float, int], float] = cost_model.reduced if reduced else cost_model.gathered
    return compute + ring(message, workers) / (megabits * 1e6 / 8)


def costs(rows: Sequence[Row]) -> str:
    """What a step takes, measured and modelled, as Markdown: the last measurement of each recipe and network."""
    measured = {(row["D"], row["recipe"], row["bytes_a_step"]): row for row in rows if row.get("measured") == "cost"}
    if not measured:
        raise KeyError("no cost was measured")
    modelled = [f"K = {K}, {speed}" for K in WORKERS for speed in ("10 Mb/s", "100 Mb/s", "1 Gb/s")]
    lines = [["D", "method", "bytes a step", "exchange", "ms a step", "peak MB", *modelled]]
    for (D, name, sent), row in sorted(measured.items(), key=lambda item: (item[0][0], -item[0][2], item[0][1])):
        reduced = RECIPES[name].reduced
        low, high = row["ms_quartiles"]
        times = [1e3 * step_seconds(row["ms"] / 1e3, sent, K, reduced, speed) for K in WORKERS for speed in MEGABITS]
        lines.append([
            f"{D:,}", name, f"{sent:,.0f}", "all-reduce" if reduced else "all-gather",
            f"{row['ms']:.0f} ({low:.0f} to {high:.0f})", f"{row['peak_bytes'] / 2**20:,.0f}",
            *(f"{time:,.0f}" for time in times),
        ])  # fmt: skip
    return text_table.markdown(lines, 2)


# A line of a picture: its name, and the recipes along it, from large to small messages or states.
FAMILIES: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    ("largest, one bit", ("largest",)),
    ("largest of g / sqrt(v), one bit", ("largest-rms",)),
    ("Adam", ("adam-dense",)),
    ("SGD, momentum", ("sgd-momentum",)),
    ("DeMo", ("demo-32", "demo-8", "demo-1")),
    ("PowerSGD, Adam", ("powersgd-4-adam", "powersgd-1-adam")),
    ("PowerSGD", ("powersgd-4", "powersgd-2", "powersgd-1")),
    ("top-k, momentum", ("top-k-momentum",)),
    ("1-bit Adam", ("1-bit-adam",)),
    ("RBD", ("rbd",)),
    ("Adam in coordinates", ("adam-in-coordinates",)),
    ("Lion, Signum", ("lion", "signum")),
    ("GaLore", ("galore",)),
    ("APOLLO", ("apollo", "apollo-mini")),
)
OF_BYTES = ("Lion, Signum", "GaLore", "APOLLO")  # send whole gradients: left out of the picture of bytes
OF_STATE = ("PowerSGD", "1-bit Adam")  # for small messages, with more state than Adam: left out of that of states


def panels(rows: Sequence[Row], steps: int = 1000, workers: int = 1) -> List[Panel]:
    """Loss against bytes a step, and against state, of the smallest network."""
    found = best_of(rows)
    D = min((one.D for one in found), default=0)
    found = [
        one for one in found if (one.D, one.steps, one.workers) == (D, steps, workers) and math.isfinite(one.mean)
    ]

    def lines(x: Callable[[Best], float], left_out: Sequence[str]) -> List[Line]:
        made = []
        for name, recipes in FAMILIES:
            points = sorted((one for one in found if one.recipe in recipes), key=x)
            if points and name not in left_out:
                means, spreads = [one.mean for one in points], [one.spread for one in points]
                made.append(Line(name, [x(one) for one in points], means, spreads, None, len(points)))
        return made

    title, ylabel = f"{steps:,} steps, D = {D:,}", "validation loss (nats)"
    return [
        Panel(
            title, "bytes a step and worker", ylabel, lines(lambda one: one.sent, OF_BYTES), True, False, True, True
        ),
        Panel(
            title,
            "floats of state, in D",
            ylabel,
            lines(lambda one: one.state / one.D, OF_STATE),
            False,
            False,
            True,
            True,
        ),
    ]


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Writes comparison-bytes.svg and comparison-state.svg."""
    for name, picture in zip(("comparison-bytes.svg", "comparison-state.svg"), svgs(panels(rows))):
        files.write_text(folder / name, picture.decode("utf-8"))
