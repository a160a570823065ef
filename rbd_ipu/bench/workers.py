"""Workers: the same steps by 1, 2, ... K processes, each with an equal share of the cores.

The parent starts them and reads one line of JSON of worker 0; :func:`main` is a worker's life.
"""

import json
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from rbd_ipu.bench.cases import TRAINER, WORKLOADS, Case
from rbd_ipu.config import ConfigError
from rbd_ipu.records import strict_json


class Team(NamedTuple):
    """K workers and how they share a step.

    Attributes:
      workers: K.
      shares: into how many shares the cores are cut; each worker gets one, so that a team of one is a fair baseline.
      parallel, exchange, wire: of a Plan.
    """

    workers: int
    shares: int
    parallel: str = "own"
    exchange: str = "auto"
    wire: str = "float32"

    def plan(self) -> Dict[str, Any]:
        """The choices of a Plan."""
        return {"parallel": self.parallel, "exchange": self.exchange, "wire": self.wire}


def measure(case: Case, team: Team, rounds: int, steps: int) -> Dict[str, Any]:
    """Times a case by a team: epochs of ``steps`` steps, the first one, which compiles, not counted.

    Returns:
      A row: images a second of all workers (median, and every round), ms of a step, of the exchange in it, bytes that
      a worker sends in a step, and the exchange that was used.

    Raises:
      ConfigError: a worker failed; with its last words.
    """
    from rbd_ipu.workers.processes import Processes

    settings = strict_json.line([case._asdict(), team._asdict(), rounds, steps])
    command = ["rbd_ipu.bench.workers", settings.strip()]
    with Processes(command, team.workers, shares=team.shares, stdout=subprocess.PIPE) as processes:
        answer = processes.running[0].stdout.readline()  # type: ignore[union-attr]
        statuses = processes.wait()
        if any(statuses) or not answer:
            first = processes.first_failed or 0
            raise ConfigError(f"{case} with {team.workers} workers: worker {first}: {processes.last_words(first)}")
    return {**case._asdict(), **team._asdict(), **json.loads(answer)}


def table(rows: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """The rows for people, with headings; ``times`` is the speed beside that of one such worker."""
    lines = [["case", "workers", "parallel", "exchange", "images/s", "times", "ms", "exchange ms", "bytes a step"]]
    alone = {_case(row): row["images_per_second"] for row in rows if row["workers"] == 1}
    for row in rows:
        base = alone.get(_case(row))
        lines.append(
            [
                str(_case(row)),
                str(row["workers"]),
                "" if row["workers"] == 1 else row["parallel"],
                "" if row["workers"] == 1 else row["used"],
                f"{row['images_per_second']:,.0f}",
                "" if base is None else f"{row['images_per_second'] / base:.2f}",
                f"{row['ms']:.2f}",
                "" if row["exchange_ms"] is None else f"{row['exchange_ms']:.2f}",
                "" if row["bytes"] is None else f"{row['bytes']:,.0f}",
            ]
        )
    return lines


def _case(row: Dict[str, Any]) -> Case:
    return Case(**{name: row[name] for name in Case._fields})


def teams(cases: Sequence[Case], counts: Sequence[int], plans: Sequence[Dict[str, str]]) -> List[Tuple[Case, Team]]:
    """The pairs (case, team) to measure: every case by one worker once, and by more for every plan."""
    shares = max(counts)
    found: List[Tuple[Case, Team]] = []
    for case in (case for case in cases if case.loop == TRAINER):
        for count in counts:
            some = [{}] if count == 1 else [{"exchange": "update"}] if case.method == "sgd" else plans
            found += [(case, Team(count, shares, **plan)) for plan in some]
    return found


def main() -> None:
    """A worker's life."""
    facts, team_facts, rounds, steps = json.loads(sys.argv[1])
    case, team = Case(**facts), Team(**team_facts)
    from rbd_ipu import methods, models
    from rbd_ipu.bench.runners import CLASSES, RATE, images
    from rbd_ipu.devices import open_device
    from rbd_ipu.training import Trainer

    device = open_device("cpu", **team.plan())
    network, shape = WORKLOADS[case.network]
    method = methods.create(case.method, learning_rate=RATE, **case.options())
    trainer = Trainer(models.build(network, shape, CLASSES), method, device)
    history = trainer.fit(images(shape, case.batch_size), steps_per_epoch=steps, epochs=rounds + 1, verbose=0).history
    speeds = sorted(history["images_per_second"][1:])
    median = speeds[len(speeds) // 2]
    seconds, sent = (history.get(name, [None])[-1] for name in ("exchange_seconds", "exchange_bytes"))
    row = {
        "images_per_second": median,
        "rounds": speeds,
        "ms": 1e3 * case.batch_size * team.workers / median,
        "exchange_ms": None if seconds is None else 1e3 * seconds,
        "bytes": sent,
        "used": device.exchange.note.partition(":")[0].partition("=")[2] or team.exchange,
        "note": device.exchange.note,
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
