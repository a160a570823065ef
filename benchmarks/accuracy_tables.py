"""The tables of ``accuracy.py``, as pure functions of its document."""

import itertools
import math
import statistics
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from rbd_ipu.text_table import markdown


def summary(accuracies: Sequence[Any]) -> Tuple[float, float, float]:
    """Mean, sample standard deviation and standard error in percent; a run that diverged makes all of them NaN.

    Example:
      >>> [round(x, 3) for x in summary([0.90, 0.91, 0.92])]
      [91.0, 1.0, 0.577]
    """
    if None in accuracies:
        return math.nan, math.nan, math.nan
    values = [100.0 * value for value in accuracies]
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.mean(values), deviation, deviation / math.sqrt(len(values))


def pairs(by_name: Mapping[str, Sequence[Any]]) -> Dict[Tuple[str, str], float]:
    """For every two names, |difference of the means| / sqrt(sum of the squared standard errors).

    Example:
      >>> {k: round(v, 3) for k, v in pairs({"a": [0.90, 0.92], "b": [0.91, 0.93]}).items()}
      {('a', 'b'): 0.707}
    """
    found = {}
    for (first, ones), (second, others) in itertools.combinations(by_name.items(), 2):
        (mean_1, _, error_1), (mean_2, _, error_2) = summary(ones), summary(others)
        error = math.hypot(error_1, error_2)
        found[first, second] = abs(mean_1 - mean_2) / error if error else math.nan
    return found


def best(scores: Mapping[int, Any]) -> int:
    """The exponent with the highest accuracy; one that diverged (None) is never best.

    Example:
      >>> best({-3: 0.5, -2: 0.6, -1: None})
      -2
    """
    return max(scores, key=lambda power: -1.0 if scores[power] is None else scores[power])


def theory(d: int, size: int, padded: int) -> Tuple[float, float]:
    """Expected correlation of the update with the gradient: orthonormal, and with the padding taken into account.

    sqrt(d / D) for d orthonormal directions; sqrt(d / (D + d (1 - D / N))) where they are orthogonal in R^N only
    and cropped to D entries.

    Example:
      >>> theory(64, 256, 256)
      (0.5, 0.5)
    """
    return math.sqrt(d / size), math.sqrt(d / (size + d * (1 - size / padded)))


def distributions(part: Mapping[str, Any]) -> str:
    """Accuracy by distribution, and how far apart every two are."""
    by_name = part["accuracies"]
    rows = [["distribution", "accuracy (%)", "std", "standard error", "seeds"]]
    for name, accuracies in by_name.items():
        mean, deviation, error = summary(accuracies)
        rows.append([name, f"{mean:.2f}", f"{deviation:.2f}", f"{error:.2f}", str(len(accuracies))])
    apart = pairs(by_name)
    names = list(by_name)
    matrix = [["difference in standard errors", *names[1:]]]
    for i, first in enumerate(names[:-1]):
        cells = [f"{apart[first, second]:.1f}" if j > i else "" for j, second in enumerate(names) if j]
        matrix.append([first, *cells])
    return f"{markdown(rows, 1)}\n\n{markdown(matrix, 1)}"


def against_sgd(part: Mapping[str, Any]) -> str:
    """The tuned rates and the accuracies of SGD and of the bases."""
    rows = [["method", "learning rate", "test accuracy (%)", "std", "seeds", "validation accuracy (%) by rate"]]
    for method, label in (("sgd", "SGD"), ("rbd", f"RBD, hadamard, d={part['d']:,}")):
        own = part[method]
        mean, deviation, _ = summary(own["accuracies"])
        shown = {p: "diverged" if value is None else f"{100 * value:.1f}" for p, value in own["grid"].items()}
        grid = ", ".join(f"2^{power}: {text}" for power, text in shown.items())
        seeds = str(len(own["accuracies"]))
        rows.append([label, f"2^{own['power']}", f"{mean:.2f}", f"{deviation:.2f}", seeds, grid])
    return markdown(rows, 1)


def correlation(part: Mapping[str, Any]) -> str:
    """Correlations and cosines beside the theory, which is about the cosine: Pearson's centres the vectors first."""
    head = ["d", "sqrt(d/D)", "with padding", "correlation", "off sqrt(d/D)", "cosine", "off sqrt(d/D)"]
    rows = [head]
    for row in part["rows"]:
        plain, padded = theory(row["d"], part["D"], part["padded"])
        cells: List[str] = [f"{row['d']:,}", f"{plain:.4f}", f"{padded:.4f}"]
        for values in (row["correlations"], row["cosines"]):
            mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
            cells += [f"{mean:.4f} +- {error:.4f}", f"{100 * (mean / plain - 1):+.2f} %"]
        rows.append(cells)
    return markdown(rows, 0)


PARTS = {"distributions": distributions, "sgd": against_sgd, "correlation": correlation}


def everything(document: Mapping[str, Any]) -> str:
    """All tables that the document has numbers for."""
    return "\n\n".join(render(document[name]) for name, render in PARTS.items() if name in document) + "\n"
