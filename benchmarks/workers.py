"""What `rbd-ipu bench --workers` measured, beside what the model of rbd_ipu.parallel.cost_model expects.

    rbd-ipu bench --workers 1,2 --methods sgd,rbd --dims 250,10000 --distributions normal,hadamard \\
        --exchanges coordinates,update --output FILE.json
    python benchmarks/workers.py FILE.json [MORE.json ...]

From the rows of one worker and from those of SGD come the parameters of the model (a Machine of
rbd_ipu.parallel.cost_model); with them it says how long every other row should have taken. Beside that, the same with
HERE, the parameters on record. They are the medians over several files, which are printed at the end, with two
digits.
"""

import json
import math
import statistics
import sys
from typing import Any, Dict, List, Sequence

from rbd_ipu.parallel.cost_model import HERE, Machine, Work, pass_time, sent, step_time
from rbd_ipu.text_table import text

Row = Dict[str, Any]
SIZES = {"cnn-cifar10": 122_570, "fc-cifar10": 394_634, "fc-mnist": 101_770, "cnn-mnist": 93_322}


def work(row: Row) -> Work:
    """What a row did."""
    exchange = row["used"] if row["used"] in ("coordinates", "update") else "update"
    structured = row["distribution"] == "hadamard"
    return Work(SIZES[row["network"]], row["dim"], row["workers"], row["parallel"], exchange, structured)


def fitted(rows: Sequence[Row]) -> Machine:
    """The parameters, each from the rows that show it; where there are none, those on record."""
    machine = HERE
    plain = [row["ms"] / 1e3 for row in rows if row["dim"] is None and row["workers"] == 1]
    if plain:
        machine = machine._replace(compute=min(plain))
    alone = [row for row in rows if row["dim"] is not None and row["workers"] == 1]
    over = {True: [], False: []}  # type: Dict[bool, List[float]]
    for row in alone:
        seconds = row["ms"] / 1e3 - machine.compute
        if seconds > 0:
            over[work(row).structured].append(pass_time(work(row), Machine(0, 1, 1, 1, 1), row["dim"]) / seconds)
    if over[False]:
        machine = machine._replace(rate=statistics.median(over[False]))
    if over[True]:
        machine = machine._replace(transform=1 / statistics.median(over[True]))
    small = [row["exchange_ms"] / 1e3 for row in rows if row["exchange_ms"] and sent(work(row)) < 1e4]
    if small:
        machine = machine._replace(latency=min(small))
    # What the exchange of a gradient adds to a step, its copies and all; the time on the wire alone is less.
    several = [row for row in rows if row["dim"] is None and row["workers"] > 1]
    if plain and several:
        row = several[0]
        rest = row["ms"] / 1e3 - machine.compute - 2 * (row["workers"] - 1) * machine.latency
        machine = machine._replace(bandwidth=sent(work(row)) / rest if rest > 0 else math.inf)
    return machine


def fits(rows: Sequence[Row]) -> Dict[str, float]:
    """The parameters that these rows show, by name; not those on record."""
    shown = {work(row).structured for row in rows if row["dim"] is not None}
    names = ["compute", "latency", "bandwidth", *(["rate"] if False in shown else [])]
    machine = fitted(rows)
    return {name: getattr(machine, name) for name in [*names, *(["transform"] if True in shown else [])]}


def main(paths: Sequence[str]) -> None:
    """Prints for each file the parameters and a table: what was measured in one run belongs together."""
    found: Dict[str, List[float]] = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        print(f"{path}: {document['command']}; load {document['load_average']['begin']}")
        machine = fitted(document["rows"])
        print(f"{machine}\n\n{text(compared(document['rows'], machine), left=1)}\n")
        for name, value in fits(document["rows"]).items():
            found.setdefault(name, []).append(value)
    medians = (f"{name}={statistics.median(values):.2g} of {len(values)}" for name, values in found.items())
    print(f"medians: {', '.join(medians)}")


def compared(rows: Sequence[Row], machine: Machine) -> List[List[str]]:
    """Lines of a table: each row beside what the model expects of it."""
    heads = ["measured ms", "model ms", "model / measured", "HERE ms", "HERE / measured"]
    lines = [["distribution", "d", "workers", "exchange", *heads]]
    for row in rows:
        d = "SGD" if row["dim"] is None else f"{row['dim']:,}"
        used = row["used"] if row["workers"] > 1 else ""
        line = [row["distribution"] or "", d, str(row["workers"]), used, f"{row['ms']:.1f}"]
        for expected in (1e3 * step_time(work(row), parameters).total for parameters in (machine, HERE)):
            line += [f"{expected:.1f}", f"{expected / row['ms']:.2f}"]
        lines.append(line)
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
