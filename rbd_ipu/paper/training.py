"""From cells to ended runs: what is known, what is left to do, what it costs, and doing it."""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import cores
from rbd_ipu.config import Config
from rbd_ipu.paper import queue, results
from rbd_ipu.paper.cells import Cell
from rbd_ipu.paper.cost import Costs, duration
from rbd_ipu.paper.identity import key
from rbd_ipu.paper.jobs import Job, job
from rbd_ipu.paper.measure import Index
from rbd_ipu.paper.presets import Preset
from rbd_ipu.paper.queue import Failure


class Plan(NamedTuple):
    """The runs of some cells.

    Attributes:
      jobs: all of them, each once.
      to_do: those that are neither known nor without data.
      words: the plan in lines, with what the full setting would cost.
      costs: what is expected of a run.
    """

    jobs: List[Job]
    to_do: List[Job]
    words: List[str]
    costs: Costs


def known(published: Path, folders: Iterable[Path]) -> List[results.Row]:
    """All results: of published files and of run folders, each run once.

    Raises:
      ConfigError: a file or folder cannot be read.
    """
    return results.merge(results.read(published), *map(results.from_folder, folders))


def to_run(found: Sequence[Cell]) -> Dict[str, Tuple[Config, str]]:
    """The runs of some cells, each once, by key: settings and a label."""
    runs: Dict[str, Tuple[Config, str]] = {}
    for cell in found:
        for config in cell.configs:
            runs.setdefault(key(config), (config, f"{cell.name}, seed {config.seed}"))
    return runs


def plan(preset: Preset, found: Sequence[Cell], rows: Sequence[results.Row], folder: Path) -> Plan:
    """What is to be run for a preset.

    Args:
      preset, found: the preset and its cells under a budget.
      rows: what is known.
      folder: of the queue.
    """
    index, costs = Index(rows), Costs(rows)
    jobs = [job(config, label, folder) for config, label in to_run(found).values()]
    # An analysis needs the weights, not the numbers alone.
    to_do = [one for one in jobs if not (one.ended() or preset.kind != "analysis" and index.has(one.config))]
    full = {key(config): config for cell in found for config in cell.full}
    words = [f"{preset.source}: {len(found)} cells; in full: {costs.total(full.values())}"]
    for dataset, reason in absent([one.config for one in to_do]).items():
        words.append(f"{sum(one.config.dataset == dataset for one in to_do)} runs are left out: {reason}")
        to_do = [one for one in to_do if one.config.dataset != dataset]
    return Plan(jobs, to_do, words, costs)


def train(plan: Plan, parallel: Optional[int], tell: Callable[[str], None]) -> List[Failure]:
    """Makes the runs that are to do; see :func:`rbd_ipu.paper.queue.run`.

    Args:
      plan: from :func:`plan`.
      parallel: how many at once; None for as many as the machine takes.
      tell: gets lines of progress.
    """
    jobs = plan.to_do
    if parallel is None:
        parallel = max(1, min(cores.default_jobs(), len(jobs)))
    if jobs:
        total = plan.costs.total(one.config for one in jobs)
        tell(f"{parallel or 1} at once: about {duration(total.seconds / max(1, parallel))}")
    return queue.run(jobs, parallel, plan.costs.seconds, tell)


def summary(plan: Plan, budget: str) -> str:
    """One line on what is left."""
    left = plan.costs.total(one.config for one in plan.to_do) if plan.to_do else "none"
    return f"budget {budget}: {len(plan.jobs)} runs; to do: {left}"


def absent(configs: Sequence[Config]) -> Dict[str, str]:
    """Data sets that are not here, and what to do about it: said once, not by every run."""
    from rbd_ipu.data.errors import MissingDataError
    from rbd_ipu.data.tfds import data_folder

    reasons: Dict[str, str] = {}
    places: Any = sorted({(config.dataset, config.data_dir or "") for config in configs})
    for dataset, data_dir in places:
        if dataset != "digits":
            try:
                data_folder(dataset, data_dir or None)
            except MissingDataError as error:
                reasons[dataset] = str(error)
    return reasons
