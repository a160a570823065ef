"""The tables and the figure of docs/scaling.md, from the model alone: nothing is measured here.

python benchmarks/scaling.py [FIGURE.png]
"""

import math
import sys
from typing import List

from rbd_ipu import text_table
from rbd_ipu.compression import Layout
from rbd_ipu.parallel import wire
from rbd_ipu.parallel.cost_model import (
    HERE,
    Machine,
    Traffic,
    Work,
    contenders,
    exchange_time,
    fastest,
    groups_time,
    least_bandwidth,
    sent,
    step_time,
    throughput,
    traffic,
)
from rbd_ipu.parallel.workers import Groups

SIZE, BATCH = 122_570, 32
WORKERS = (2, 4, 8, 16, 64, 256, 1024, 4096)
DIMS = (250, 1000, 10_000)
# Names of networks: bytes a second a worker, seconds of latency.
NETWORKS = {
    "10 Mbit/s": (1.25e6, 2e-2),
    "100 Mbit/s": (1.25e7, 1e-3),
    "1 Gbit/s": (1.25e8, 3e-4),
    "10 Gbit/s": (1.25e9, 5e-5),
    "100 Gbit/s": (1.25e10, 1e-5),
}
# Workers, after measurements in docs/performance.md: one with 4 CPU cores, and one a hundred times as fast.
CPU = Machine(compute=5.6e-3, rate=1.2e10, transform=4e-10, bandwidth=1.25e9, latency=5e-5)
FAST = Machine(compute=5.6e-5, rate=1.2e12, transform=4e-12, bandwidth=1.25e9, latency=5e-5)
FIELDS = {"CPU worker": CPU, "worker 100 times as fast": FAST}


def on(machine: Machine, network: str) -> Machine:
    """The machine with another network."""
    bandwidth, latency = NETWORKS[network]
    return machine._replace(bandwidth=bandwidth, latency=latency)


def show(heading: str, lines: List[List[str]]) -> None:
    """A Markdown table."""
    print(f"\n{heading}\n")
    for i, line in enumerate(lines):
        print("| " + " | ".join(line) + " |")
        if i == 0:
            print("|" + " --- |" * len(line))


def winners(machine: Machine, dim: int) -> List[List[str]]:
    """Who has the shortest step, by K and network."""
    lines = [["K", *NETWORKS]]
    for workers in WORKERS:
        lines.append([f"{workers:,}", *(fastest(SIZE, dim, workers, on(machine, n), tree=True) for n in NETWORKS)])
    return lines


def crossings(machine: Machine) -> List[List[str]]:
    """Below which bandwidth each way to train has a shorter step than SGD, in Mbit/s."""
    names = [name for name in contenders(SIZE, 250, 2) if name not in ("SGD", "RBD update")]
    lines = [["d", "K", *names]]
    for dim in DIMS:
        for workers in (2, 8, 64, 1024):
            some = contenders(SIZE, dim, workers)
            found = (least_bandwidth(some[name], machine._replace(latency=0.0), tree=True) for name in names)
            lines.append([f"{dim:,}", f"{workers:,}", *(f"{8e-6 * b:,.3g}" if b else "never" for b in found)])
    return lines


def bottleneck(machine: Machine, dim: int) -> List[List[str]]:
    """What the K + 1 passes cost: ms of a step by K on 10 Gbit/s, in parts."""
    shown = ("own: bases", "own: exchange", "shared: bases", "split: bases", "hadamard: bases", "SGD: exchange")
    lines = [["K", *shown]]
    for workers in WORKERS:
        some = contenders(SIZE, dim, workers)
        own, shared, split, structured, sgd = (
            step_time(some[name], on(machine, "10 Gbit/s"), tree=True)
            for name in ("RBD own", "RBD shared", "RBD split", "RBD hadamard", "SGD")
        )
        parts = [own.bases, own.exchange, shared.bases, split.bases, structured.bases, sgd.exchange]
        lines.append([f"{workers:,}", *(f"{1e3 * seconds:,.3g}" for seconds in parts)])
    return lines


def steps_here(dim: int) -> List[List[str]]:
    """ms of a step by K, where every pair of workers is as the two ranks that were measured."""
    names = list(contenders(SIZE, dim, 2))
    lines = [["K", *names]]
    for workers in WORKERS:
        some = contenders(SIZE, dim, workers)
        times = (1e3 * step_time(some[name], HERE, tree=True).total for name in names)
        lines.append([f"{workers:,}", *(f"{ms:,.3g}" for ms in times)])
    return lines


def compressed(machine: Machine, dim: int) -> List[List[str]]:
    """Images a second beside SGD that sends its d largest entries with their places, gathered."""
    lines = [["K", "network", "SGD", "top-k SGD", "RBD shared", "RBD hadamard shared"]]
    for workers in (8, 64, 1024):
        for network in ("100 Mbit/s", "10 Gbit/s"):
            here = on(machine, network)
            # A number and its index: twice the bytes of a coordinate, and no directions. Selection is not counted.
            top = Work(SIZE, 2 * dim, workers)
            top_time = machine.compute + step_time(top, here._replace(rate=float("inf")), tree=True).exchange
            some = contenders(SIZE, dim, workers)
            names = ("SGD", "RBD shared", "RBD hadamard shared")
            sgd, shared, structured = (throughput(some[name], here, BATCH, tree=True) for name in names)
            speeds = [sgd, workers * BATCH / top_time, shared, structured]
            lines.append([f"{workers:,}", network, *(f"{speed:,.3g}" for speed in speeds)])
    return lines


def message(size: int, fraction: float = 1 / 128) -> int:
    """Bytes of a message of the method compressed about D parameters: one bit a coordinate.

    Example:
      >>> message(100_000_000)
      1000978
    """
    return wire.message_bytes("sign", Layout([size], fraction).shapes)


def groups(size: int) -> str:
    """Bytes and seconds of an exchange by K, at one level and with leaders, beside Adam's all-reduce; Markdown."""
    networks = [name for name in NETWORKS if name != "100 Gbit/s"]
    lines = [["K", "what", "R", "worker sends", "receives", "worker 0 sends", "receives", *networks]]
    one = message(size)
    for workers in (16, 64, 256, 1024, 4096):
        whole = round(math.log(workers, 4))
        reduction = Work(size, None, workers)
        ring = Traffic(sent(reduction), sent(reduction))
        times = [exchange_time(reduction, on(CPU, network), tree=True) for network in networks]
        lines.append([f"{workers:,}", "Adam, all-reduce", "", *_traffic(ring, ring), *map(_seconds, times)])
        named = {"one level": Groups(), "groups of 8": Groups(8, 1), f"groups of 4, {whole} levels": Groups(4, whole)}
        for name, divided in named.items():
            times = [groups_time(one, workers, divided, *NETWORKS[network]) for network in networks]
            both = [traffic(one, workers, divided, worker) for worker in (workers - 1, 0)]
            row = [f"{workers:,}", name, f"{divided.messages(workers):,}", *_traffic(*both), *map(_seconds, times)]
            lines.append(row)
    return text_table.markdown(lines, 2)


def _traffic(*both: Traffic) -> List[str]:
    return [_bytes(number) for of_worker in both for number in of_worker]


def _bytes(number: float) -> str:
    """Three digits and a unit.

    Example:
      >>> _bytes(1000978.0), _bytes(3508), _bytes(4.1e9)
      ('1.00 MB', '3.51 kB', '4.10 GB')
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{_digits(number / factor)} {unit}"
    return f"{number:.0f} B"


def _seconds(number: float) -> str:
    return f"{_digits(1e3 * number)} ms" if number < 1 else f"{_digits(number)} s"


def _digits(number: float) -> str:
    return f"{number:.{max(0, 2 - math.floor(math.log10(number)))}f}" if number < 1000 else f"{number:,.0f}"


def figure(path: str) -> None:
    """Images a second against K, on three networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = ("100 Mbit/s", "1 Gbit/s", "100 Gbit/s")
    drawing, axes = pyplot.subplots(1, len(chosen), figsize=(12, 4), sharey=True)
    for axis, network in zip(axes, chosen):
        for name in ("SGD", "RBD own", "RBD shared", "RBD split", "RBD hadamard", "RBD hadamard shared"):
            speeds = [throughput(contenders(SIZE, 250, k)[name], on(CPU, network), BATCH, tree=True) for k in WORKERS]
            axis.loglog(WORKERS, speeds, marker=".", label=name)
        axis.set(title=network, xlabel="workers K")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("images/s of all workers (model)")
    axes[-1].legend(fontsize=7)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)


def main() -> None:
    """Prints the tables; draws the figure where a path is given."""
    for name, machine in FIELDS.items():
        for dim in DIMS:
            show(f"Shortest step, {name}, d = {dim:,}", winners(machine, dim))
    for name, machine in FIELDS.items():
        show(f"Mbit/s below which the step is shorter than SGD's, {name}", crossings(machine))
    for dim in (250, 10_000):
        show(f"ms of a step, CPU worker, d = {dim:,}, 10 Gbit/s", bottleneck(CPU, dim))
    for dim in (250, 10_000):
        show(f"ms of a step, two ranks as measured and more of them, d = {dim:,}", steps_here(dim))
    show("Images/s beside compressed SGD, CPU worker, d = 250", compressed(CPU, 250))
    if len(sys.argv) > 1:
        figure(sys.argv[1])


if __name__ == "__main__":
    main()
