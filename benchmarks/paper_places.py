"""What the pages say of the paper's numbers, from the rows of ``results/``, as Markdown."""

from pathlib import Path
from typing import Any, Callable, Dict, List

from rbd_ipu import text_table
from rbd_ipu.config.resolve import rates_on_record
from rbd_ipu.lab import analyses, paper, presets, results, tables
from rbd_ipu.lab.claims import VERDICTS, Known, Verdict, verdicts
from rbd_ipu.lab.measures import Index
from rbd_ipu.lab.presets import NAMED, cells
from rbd_ipu.lab.results import Costs
from rbd_ipu.lab.tables import exponent, grid

_HOLDS = {True: "holds", False: "fails", None: "open"}


def known(folder: Path) -> Known:
    """What is on record in a folder of results."""
    return Known(results.read(folder), results.read(folder, "analysis"), folder / "performance")


def _claims(found: Known) -> str:
    judged = verdicts(found)
    counts = ", ".join(f"{sum(one.verdict == name for one in judged)} {name}" for name in VERDICTS)
    lines = [["claim", "verdict", "evidence"]]
    for one in judged:
        claim = f"{one.claim} ({one.source})"
        lines.append([_cell(claim), f"**{one.verdict}**", _cell("<br>".join(_evidence(one)))])
    return f"{len(judged)} claims: {counts}.\n\n{text_table.markdown(lines, 3)}"


def _evidence(one: Verdict) -> List[str]:
    """What is known first; what was not run is counted, not listed."""
    parts = [one.why[0].upper() + one.why[1:]] if one.why else []
    parts += [f"{_HOLDS[e.holds]}: {e.words}" for e in dict.fromkeys(one.evidence) if e.rows]
    idle = sum(not e.rows for e in dict.fromkeys(one.evidence))
    parts += [f"{idle} comparison{'' if idle == 1 else 's'} without a run."] if idle else []
    keys = [row for row in one.rows if " " not in row]
    parts += [f"Rows: {', '.join(f'`{name}`' for name in keys)}"] if keys else []
    return parts


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _noise(found: Known) -> str:
    index = Index(found.rows)
    grids = [tables.grid_of_noise(index), tables.grid_of_noise_by_epoch(index)]
    texts = [tables.markdown(one).partition("\n")[2].strip() for one in grids if len(one.lines) > 1]
    return "\n\n".join(texts)


def _analysis(name: str) -> Callable[[Known], str]:
    def render(found: Known) -> str:
        preset = presets.load(name)
        shown = analyses.grid(preset, analyses.latest(found.findings, preset, NAMED["full"]))
        return tables.markdown(shown).partition("\n")[2].strip()

    return render


def _rates(found: Known) -> str:
    return "\n".join(f"- {sentence}" for sentence in tables.best_rates(Index(found.rows)))


def _table(name: str) -> Callable[[Known], str]:
    def render(found: Known) -> str:
        preset = presets.load(name)
        shown = grid(preset, cells(preset, NAMED["full"]), Index(found.rows))
        return tables.markdown(shown._replace(notes=[note for note in shown.notes if note not in preset.notes]))

    return render


def _left(found: Known) -> str:
    """By table and figure, cells at the paper's setting, and what the rest would take."""
    index, costs = Index(found.rows), Costs(found.rows)
    lines = [["", "cells", "at the paper's setting", "runs to do", "hours"]]
    every: Dict[str, Any] = {}
    for name in presets.names():
        preset = presets.load(name)
        if preset.kind not in ("table", "curves", "points"):
            continue
        own = cells(preset, NAMED["full"])
        runs = {key: config for key, (config, _) in paper.to_run(own).items() if not index.has(config)}
        every.update(runs)
        whole = sum(all(index.has(config) for config in cell.configs) and not cell.untuned for cell in own)
        hours = f"{sum(map(costs.seconds, runs.values())) / 3600:.0f}"
        lines.append([f"{preset.source}: {preset.title}", str(len(own)), str(whole), str(len(runs)), hours])
    total = f"{sum(map(costs.seconds, every.values())) / 3600:.0f}"
    lines.append(["all, each run once", "", "", str(len(every)), total])
    return text_table.markdown(lines, 1)


# The runs of 100 epochs that stand for large d beside SGD, of JPEG copies until they are made again.
_LARGE = ("sgd", None), ("rbd", 60_000)


def _large(found: Known) -> str:
    place = found.performance.parent / "jpeg" / "cifar10-cnn.jsonl"
    lines = [["method", "learning rate", "seed", "held out (%)", "its mean over the last ten epochs", "test (%)"]]
    rows = [row for row in results.read(place) if row["epochs"] == 100]
    for row in sorted(rows, key=lambda row: (row["settings"]["method"] != "sgd", row["settings"]["learning_rate"])):
        settings = row["settings"]
        if (settings["method"], settings.get("dim")) in _LARGE:
            last = [100 * value for value in row["curves"]["val_accuracy"][-10:]]
            name = "SGD" if settings["method"] == "sgd" else f"RBD, hadamard, d={settings['dim']:,}"
            values = [100 * row["values"][name] for name in ("val_accuracy", "test_accuracy")]
            rate = f"2^{exponent(settings['learning_rate'])}"
            mean = f"{sum(last) / len(last):.1f}"
            lines.append([name, rate, str(row["seed"]), f"{values[0]:.2f}", mean, f"{values[1]:.2f}"])
    return text_table.markdown(lines, 1)


_NAMES = {"digits": "digits", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def _learning_rates(found: Known) -> str:
    """The rates on record; they come with the package, not from the rows of runs."""
    lines = [["data", "network", "method", "from", "d", "learning rate"]]
    for row in rates_on_record().values():
        dim = "" if row.dim is None else f"{row.dim:,}"
        rate = f"2^{exponent(row.learning_rate)}"
        lines.append([_NAMES[row.dataset], row.network, row.method, row.source, dim, rate])
    return text_table.markdown(lines, 4)


#: Name of a place -> what is written there.
PLACES: Dict[str, Callable[[Known], Any]] = {
    "claims": _claims,
    "rbd": _noise,
    "walk": _analysis("figureX4"),
    "rates": _rates,
    "left": _left,
    "table1": _table("table1"),
    "table2": _table("table2"),
    "tableX5": _table("tableX5"),
    "table3": _table("table3"),
    "large-d": _large,
    "learning-rates": _learning_rates,
}
