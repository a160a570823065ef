"""Figures that are no training curves: numbers from :mod:`rbd_ipu.analysis`, as panels and a table.

Each row of ``ANALYSES`` takes the preset's options, the budget and the jobs of its runs, which have ended, and gives
:class:`Findings`. What was found is one row of results, of kind "analysis".
"""

import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import provenance
from rbd_ipu.config import resolve
from rbd_ipu.lab.pool import Job, attempts
from rbd_ipu.lab.presets import Budget, Preset
from rbd_ipu.lab.tables import NOT_MEASURED, Grid
from rbd_ipu.plots import PAPER, Line, Panel
from rbd_ipu.runs.experiment import prepare

DISTRIBUTIONS = ("normal", "uniform", "rademacher", "bernoulli-0.5")
#: What the script of Figure 2 draws for uniform and for Bernoulli directions: entries whose mean is not 0.
PUBLISHED: Dict[str, Callable[[np.random.Generator, Tuple[int, int]], np.ndarray]] = {
    "in [0, 1)": lambda random, shape: random.random(shape),
    "0 or 1": lambda random, shape: random.integers(0, 2, shape).astype(np.float64),
}


class Findings(NamedTuple):
    """What an analysis has found.

    Attributes:
      panels: for the picture.
      lines: the table, its heading first.
    """

    panels: List[Panel]
    lines: List[List[str]]


def orthogonality(options: Mapping[str, Any], limits: Budget, jobs: Sequence[Job]) -> Findings:
    """Fig. B.8: the mean |cosine| of pairs of directions against n, with the theory."""
    from rbd_ipu import analysis

    sizes, pairs = options["sizes"], options["pairs"]
    if limits.tiny:
        sizes, pairs = [size for size in sizes if size <= 1000], 5
    found = analysis.orthogonality(sizes, pairs)
    x = [float(size) for size in sizes]
    measured = Line("measured", x, found.mean.tolist(), found.deviation.tolist(), None, 1)
    theory = Line("theory, random unit vectors", x, found.theory.tolist(), [0.0] * len(x), None, 1)
    lines = [["n", "mean |cos|", "theory"]]
    for size, mean, deviation, expected in zip(sizes, found.mean, found.deviation, found.theory):
        lines.append([f"{size}", f"{mean:.2g} ± {deviation:.2g}", f"{expected:.2g}"])
    panel = Panel(f"{pairs} pairs", "n", "mean |cos|", [measured, theory], log_x=True, log_y=True, dots=True)
    return Findings([panel], lines)


def landscape(options: Mapping[str, Any], limits: Budget, jobs: Sequence[Job]) -> Findings:
    """Fig. 2: the loss along directions of each distribution, at the initial weights and after each run.

    The numbers are mean |<g, phi>| over a draw of directions, divided by that of theory for directions that are
    uniform on the sphere: mean and standard deviation over the draws.
    """
    from rbd_ipu import analysis

    count, draws, points, images = (options[name] for name in ("count", "draws", "points", "images"))
    if limits.tiny:
        count, draws, points, images = 3, 2, 5, 64
    displacements = np.linspace(-options["radius"], options["radius"], points).tolist()
    panels = []
    lines = [["slope over that of theory", *DISTRIBUTIONS, *PUBLISHED]]
    for job, title in _moments(jobs):
        experiment = prepare(job.config)
        if title != _START:
            experiment.model.load_weights(str(attempts(job.folder)[-1] / "checkpoints" / "last.weights.h5"))
        x, y = next(iter(experiment.data.evaluation("validation", images)))
        surface = analysis.Surface(experiment.model, (x, y))
        gradient = surface.gradient().astype(np.float64)
        theory = np.linalg.norm(gradient) * analysis.expected_abs_cosine(surface.size)
        curves, line = [], [title]
        for name in lines[0][1:]:
            drawn = [_directions(name, surface.size, count, draw) for draw in range(draws)]
            slopes = np.array([np.abs(phi.astype(np.float64) @ gradient).mean() for phi in drawn]) / theory
            line.append(f"{slopes.mean():.3f} ± {slopes.std(ddof=1):.3f}")
            mean = analysis.landscape(surface, drawn[0], displacements).downhill().mean
            curves.append(Line(name, displacements, (mean - mean[points // 2]).tolist(), [0.0] * points, None, 1))
        panels.append(Panel(title, "displacement", "change of the loss", curves))
        lines.append(line)
    return Findings(panels, lines)


def _directions(name: str, size: int, count: int, draw: int) -> np.ndarray:
    """Unit directions as rows [count, size]: of a distribution of this package or of the published script."""
    from rbd_ipu import RandomBasis

    if name not in PUBLISHED:
        return np.asarray(RandomBasis(size, count, name).directions(draw))
    entries = PUBLISHED[name](np.random.default_rng(draw), (count, size))
    return entries / np.linalg.norm(entries, axis=1, keepdims=True)


def correlations(options: Mapping[str, Any], limits: Budget, jobs: Sequence[Job]) -> Findings:
    """Figure X2: Table 3's correlation, over the flat vector and as a mean over the variables, at initial weights."""
    settings = {name: options[name] for name in ("dataset", "network")}
    factors, images, seeds = options["factors"], options["images"], options["seeds"]
    if limits.tiny:
        settings, factors, images, seeds = {"dataset": "digits", "network": "fc"}, factors[:2], 64, seeds[:1]
    found = [_correlations({**settings, "seed": seed}, factors, images, options["draws"]) for seed in seeds]
    x = [float(d) for d in found[0]]
    rows = [np.concatenate([one[d] for one in found]) for d in found[0]]
    names = ("flat vector", "flat vector, theory", "mean over variables", "mean over variables, theory")
    lines = [["d", *names, *(["Table 3"] if options["printed"] else [])]]
    for d, values, printed in zip(x, rows, options["printed"]):
        cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(values.mean(axis=0), values.std(axis=0, ddof=1))]
        lines.append([f"{d:.0f}", *cells, f"{printed:g}"])
    curves = [
        Line(name, x, [v[:, i].mean() for v in rows], [v[:, i].std(ddof=1) for v in rows], None, len(rows[0]))
        for i, name in enumerate(names)
    ]
    printed = options["printed"][: len(x)]
    curves.append(Line("mean over variables" + PAPER, x, printed, [0.0] * len(x), None, 0))
    return Findings([Panel("ResNet-8", "d", "correlation", curves, log_x=True, dots=True)], lines)


def _correlations(
    settings: Mapping[str, Any], factors: Sequence[int], images: int, draws: int
) -> Dict[int, np.ndarray]:
    """By d, for each draw: Pearson over the flat vector, its theory, the mean cosine of variables, its theory."""
    from rbd_ipu import Compartments, analysis
    from rbd_ipu._compat import tf
    from rbd_ipu.methods.base import likeness
    from rbd_ipu.subspace import subspace

    config = resolve({**settings, "method": "sgd", "learning_rate": 1.0})
    experiment = prepare(config)
    batch = next(iter(experiment.data.evaluation("validation", images)))
    gradient = tf.constant(analysis.Surface(experiment.model, batch).gradient())
    found: Dict[int, np.ndarray] = {}
    for factor in factors:
        cut = Compartments.of(experiment.model.trainable_variables, f"factor:{factor}")
        drawn = subspace(cut, "normal", "unit", "auto")
        pieces = [slice(piece.start, piece.start + piece.size) for piece in cut]
        expected = analysis.expected_cosine(gradient.numpy(), cut)
        theory = float(np.mean([np.sqrt(piece.dim / (piece.dim + piece.size - 1)) for piece in cut]))
        rows = []
        for draw in range(draws):
            update = drawn.filter(gradient, config.seed, draw)
            each = [float(likeness(update[piece], gradient[piece])[0]) for piece in pieces]
            rows.append([float(likeness(update, gradient)[1]), expected, float(np.mean(each)), theory])
        found[cut.dim] = np.array(rows)
    return found


def walk(options: Mapping[str, Any], limits: Budget, jobs: Sequence[Job]) -> Findings:
    """Figure X4: how far runs have moved the weights, beside the random walk of the projection's noise."""
    batches = 4 if limits.tiny else options["batches"]
    lines = [["run", "norm at first", "norm at last", "moved by", "walk of the noise", "best lr of one step"]]
    measured, theory = [], []
    for job in jobs:
        config = job.config
        first, last, squared, steps, (trace, along) = _moved(job, batches)
        size = len(first)
        share = 1.0 if config.method == "sgd" else (config.dim or size) / size
        moved = float(np.linalg.norm(last - first))
        expected = config.learning_rate * float(np.sqrt(share * (1 - share) * steps * squared))
        name = f"{config.method}, lr {config.learning_rate:.3g}, {config.epochs} epochs"
        norms = [f"{np.linalg.norm(one):.1f}" for one in (first, last)]
        one_step = 1.0 / ((1 - share) * trace / size + share * along)
        lines.append([name, *norms, f"{moved:.1f}", f"{expected:.1f}" if expected else "-", f"{one_step:.2g}"])
        if expected:
            measured.append((config.learning_rate, moved))
            theory.append((config.learning_rate, expected))
    curves = []
    for name, points in (("moved by", sorted(measured)), ("walk of the noise", sorted(theory))):
        x, y = [rate for rate, _ in points], [distance for _, distance in points]
        curves += [Line(name, x, y, [0.0] * len(x), None, 1)] if points else []
    return Findings(
        [Panel("FC-MNIST", "learning rate", "distance", curves, log_x=True, log_y=True, dots=True)], lines
    )


def _moved(job: Job, batches: int) -> Tuple[np.ndarray, np.ndarray, float, int, Tuple[float, float]]:
    """The weights at first and at last, the mean of |g|^2 of mini-batches at last, steps, tr(H) and g'Hg / |g|^2."""
    from rbd_ipu._compat import tf
    from rbd_ipu.analysis import Surface
    from rbd_ipu.objective import default_loss
    from rbd_ipu.step import flatten

    experiment, loss = prepare(job.config), default_loss()
    model, stream = experiment.model, experiment.batches
    first = flatten(model.trainable_variables).numpy()
    model.load_weights(str(attempts(job.folder)[-1] / "checkpoints" / "last.weights.h5"))
    squares = []
    for x, y in stream.dataset(epoch=job.config.epochs).take(batches):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(y, model(x, training=True)))
        gradient = flatten(tape.gradient(value, model.trainable_variables)).numpy().astype(np.float64)
        squares.append(gradient @ gradient)
    steps = job.config.epochs * stream.steps_per_epoch
    surface = Surface(model, next(iter(experiment.data.evaluation("validation", 512))))
    trace, along = _curvature(surface)
    return first, surface.theta, float(np.mean(squares)), steps, (trace, along)


def _curvature(surface: Any, draws: int = 16) -> Tuple[float, float]:
    """tr(H) by Gaussian directions, and g'Hg / |g|^2."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((draws, surface.size)).astype(np.float32)
    trace = np.mean([float(one @ surface.hessian_product(one)) for one in directions])
    gradient = surface.gradient()
    return float(trace), float(gradient @ surface.hessian_product(gradient) / (gradient @ gradient))


_START = "initial weights"


def _moments(jobs: Sequence[Job]) -> List[Tuple[Job, str]]:
    """The first run's weights before training, then those after each."""
    after = {job.config.epochs: job for job in jobs}
    ends = [(job, f"after {epochs} epoch{'' if epochs == 1 else 's'}") for epochs, job in sorted(after.items())]
    return [(jobs[0], _START), *ends] if jobs else []


#: By the name in a preset's key ``analysis``.
ANALYSES: Dict[str, Callable[[Mapping[str, Any], Budget, Sequence[Job]], Findings]] = {
    "correlations": correlations,
    "landscape": landscape,
    "orthogonality": orthogonality,
    "walk": walk,
}


def analyse(preset: Preset, limits: Budget, jobs: Sequence[Job], command: str) -> Dict[str, Any]:
    """Computes a figure; a row of results."""
    began = time.perf_counter()
    found = ANALYSES[preset.analysis](preset.options, limits, jobs)
    return {
        "kind": "analysis",
        "preset": preset.name,
        "budget": limits.name,
        "options": preset.options,
        "panels": [{**panel._asdict(), "lines": [line._asdict() for line in panel.lines]} for panel in found.panels],
        "lines": found.lines,
        "seconds": time.perf_counter() - began,
        "command": command,
        **provenance.origin(),
    }


def latest(rows: Sequence[Mapping[str, Any]], preset: Preset, limits: Budget) -> Optional[Mapping[str, Any]]:
    """The last row of an analysis under a budget; None where there is none."""
    own = [row for row in rows if row.get("preset") == preset.name and row.get("budget") == limits.name]
    return own[-1] if own else None


def panels(preset: Preset, row: Optional[Mapping[str, Any]]) -> List[Panel]:
    """The panels of a row, with the paper's numbers; the lines of the first one are the columns of the table."""
    if row is None:
        return []
    found = [Panel(**{**panel, "lines": [Line(**line) for line in panel["lines"]]}) for panel in row["panels"]]
    for column, points in preset.paper.items():
        name = found[0].lines[row["lines"][0].index(column) - 1].name
        x, y = ([float(point[i]) for point in points] for i in (0, 1))
        found[0].lines.append(Line(name + PAPER, x, y, [0.0] * len(x), None, 0))
    return found


def grid(preset: Preset, row: Optional[Mapping[str, Any]]) -> Grid:
    """The table of an analysis."""
    title = f"{preset.source}: {preset.title}"
    if row is None:
        lines = [["", "measured"], [preset.title, NOT_MEASURED]]
        return Grid(title, lines, list(preset.notes), [{"preset": preset.name, "state": NOT_MEASURED}])
    heading, *body = lines = _beside_the_paper(preset, row["lines"])
    records = [
        {"preset": preset.name, "row": line[0], "column": name, "value": value}
        for line in body
        for name, value in zip(heading[1:], line[1:])
        if value
    ]
    machine, commit = row["machine"], (row["commit"] or "unknown")[:7]
    where = f"Commit {commit}{' with changes' if row['modified'] else ''}, {machine['processor']}."
    return Grid(title, lines, [where, *preset.notes], records)


def _beside_the_paper(preset: Preset, lines: List[List[str]]) -> List[List[str]]:
    """The lines, with the paper's numbers in a column behind ours."""
    for column, points in preset.paper.items():
        behind = lines[0].index(column) + 1
        theirs = {str(place): f"{number:g}" for place, number in points}
        cells = [f"{column}{PAPER}", *(theirs.get(line[0], "") for line in lines[1:])]
        lines = [[*line[:behind], cell, *line[behind:]] for line, cell in zip(lines, cells)]
    return lines
