"""Teams of 1, 2, ... K processes as something to time, each with an equal share of the cores, taking turns.

:class:`TeamSteps` is the parent's side; :func:`main` is a worker's life.
"""

import contextlib
import json
import os
import sys
import tempfile
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from rbd_ipu import files, models
from rbd_ipu.errors import ConfigError
from rbd_ipu.lab.bench.report import ratio, spread
from rbd_ipu.lab.bench.runners import CLASSES, RATE, TRAINER, WORKLOADS, Case, images, measure
from rbd_ipu.parallel.launch import Launch
from rbd_ipu.parallel.ranks import Ranks, connect
from rbd_ipu.process import divided, keep_to, usable

TURN_TIMEOUT = 24 * 3600.0  # seconds that a team waits for its turn


class Team(NamedTuple):
    """K workers and how they share a step.

    Attributes:
      workers: K.
      shares: into how many shares the cores are cut; each worker has one at a time. A small team spends a part of its
        turn on each set of shares: one that is slow, because others use its cores too, strikes all teams alike.
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


class TeamSteps:
    """Starts the workers; ``run(steps)`` has them do so many, as :class:`rbd_ipu.lab.bench.runners.Runner` does.

    A context manager: leaving it ends the workers.

    Attributes:
      turns: what worker 0 said of each turn: seconds, seconds and bytes of an exchange, and the exchange it was.
    """

    def __init__(self, case: Case, team: Team):
        self.case, self.team = case, team
        self.turns: List[Dict[str, Any]] = []
        cores = divided(usable(), team.shares)
        self._places = team.shares // team.workers
        self._folder = tempfile.TemporaryDirectory(prefix="rbd-team-")
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed on leaving)
        orders = os.path.join(self._folder.name, "orders")
        os.mkfifo(orders)
        settings = files.line([case._asdict(), team._asdict(), cores, orders]).strip()
        answers, theirs = os.pipe()
        self._ranks = Launch([__name__, settings], team.workers, stdout=theirs, stderr=self._said)
        os.close(theirs)
        self._answers = os.fdopen(answers, encoding="ascii")
        # Once a rank is lost, all are ended, and the answers with them.
        threading.Thread(target=self._ranks.wait, daemon=True).start()
        # Opened for both, so that it neither waits for the rank nor comes to an end before this does.
        self._orders = os.open(orders, os.O_RDWR)

    def __enter__(self) -> "TeamSteps":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ranks.kill()
        os.close(self._orders)
        self._answers.close()
        self._said.close()
        self._folder.cleanup()

    def run(self, steps: int) -> float:
        """Does ``steps`` steps; returns seconds.

        Raises:
          ConfigError: a worker failed; with its last words.
        """
        ends = [place * steps // self._places for place in range(self._places + 1)]
        parts = [self._part(k, ends[k + 1] - ends[k]) for k in range(self._places) if ends[k + 1] > ends[k]]
        turn = {**parts[-1], "seconds": sum(part["seconds"] for part in parts)}
        for name in ("exchange_seconds", "exchange_bytes"):
            if name in turn:
                turn[name] = sum(part[name] for part in parts) / len(parts)
        self.turns.append(turn)
        return turn["seconds"]

    def _part(self, place: int, steps: int) -> Dict[str, Any]:
        """Does steps on the place-th set of shares; returns what worker 0 says of them."""
        os.write(self._orders, b"%d %d\n" % (steps, place))
        said = self._answers.readline()
        if not said:
            self._ranks.wait()
            self._said.seek(0)
            last_words = "".join(self._said.readlines()[-20:]).strip()
            raise ConfigError(f"{self.case} with {self.team.workers} workers: {last_words}")
        return json.loads(said)


def main() -> None:
    """A worker's life: worker 0 reads how many steps to do and where, line by line, and says how they went."""
    facts, team_facts, cores, orders = json.loads(sys.argv[1])
    case, team = Case(**facts), Team(**team_facts)

    ranks: Ranks = connect(TURN_TIMEOUT)
    index = ranks.rank
    keep_to(cores[index])  # before TensorFlow counts them

    from rbd_ipu import methods
    from rbd_ipu.devices import open_device
    from rbd_ipu.training import Trainer

    device = open_device("cpu", worker_timeout=TURN_TIMEOUT, **team.plan())
    exchange: Any = device.exchange
    network, shape = WORKLOADS[case.network]
    method = methods.create(case.method, learning_rate=RATE, **case.options())
    trainer = Trainer(models.build(network, shape, CLASSES), method, device)
    data = images(shape, case.batch_size)
    lines = os.fdopen(os.open(orders, os.O_RDONLY), encoding="ascii") if index == 0 else None
    while True:
        steps, place = map(int, (lines.readline() or "0 0").split()) if lines else (0, 0)
        steps, place = ranks.facts([steps, place])[0]
        if steps == 0:
            return
        keep_to(cores[place * team.workers + index])
        logs = trainer.fit(data, steps_per_epoch=steps, epochs=1, verbose=0).history
        said = {name: logs[name][-1] for name in ("seconds", "exchange_seconds", "exchange_bytes") if name in logs}
        if index == 0:
            print(files.line({**said, "note": exchange.note}), end="", flush=True)


class Pair(NamedTuple):
    """A case, and the team that does it."""

    case: Case
    team: Team

    def __str__(self) -> str:
        how = f" by {self.team.exchange}" if self.team.workers > 1 else ""
        return f"{self.case}, {self.team.workers} worker{'s' * (self.team.workers > 1)}{how}"


def teams(cases: Sequence[Case], counts: Sequence[int], plans: Sequence[Dict[str, str]]) -> List[Pair]:
    """The pairs (case, team) to measure: every case by one worker once, and by more for every plan."""
    shares = max(counts)
    found: List[Pair] = []
    for case in (case for case in cases if case.loop == TRAINER):
        for count in counts:
            some = [{}] if count == 1 else [{"exchange": "update"}] if case.method == "sgd" else plans
            found += [Pair(case, Team(count, shares, **plan)) for plan in some]
    return found


def measured(
    pairs: Sequence[Pair], rounds: int, seconds: float, say: Callable[[str], None]
) -> Tuple[List[Dict[str, Any]], bool]:
    """Times all teams, each for about ``seconds`` in every round.

    Returns:
      The rows, and whether all rounds were run. A row has images a second of all workers and ms of a step (medians;
      quartiles; every round), the speed beside one such worker in the same round, ms of the exchange in a step, the
      bytes that a worker sends in it, and the exchange that was used.

    Raises:
      ConfigError: a worker failed; with its last words.
    """
    with contextlib.ExitStack() as stack:
        runners = {pair: stack.enter_context(TeamSteps(*pair)) for pair in pairs}
        times = measure(runners, rounds, seconds, say)
    whole = len(next(iter(times.seconds.values())))
    alone = {pair.case: times.seconds[pair] for pair in pairs if pair.team.workers == 1}
    rows = []
    for pair in pairs:
        case, team = pair
        took, turns = times.seconds[pair], runners[pair].turns[-whole:]
        low, middle, high = spread(took)
        row = {
            **case._asdict(),
            **team._asdict(),
            "images_per_second": case.batch_size * team.workers / middle,
            "ms": 1e3 * middle,
            "ms_quartiles": [1e3 * low, 1e3 * high],
            "round_ms": [1e3 * t for t in took],
            "steps_a_round": times.steps[pair],
            "times": None,
            "times_quartiles": None,
            "exchange_ms": _middle([1e3 * turn["exchange_seconds"] for turn in turns if "exchange_seconds" in turn]),
            "bytes": _middle([turn["exchange_bytes"] for turn in turns if "exchange_bytes" in turn]),
            "used": turns[-1]["note"].partition(":")[0].partition("=")[2] or team.exchange,
            "note": turns[-1]["note"],
        }
        if case in alone:
            low, middle, high = (team.workers * r for r in ratio(alone[case], took))
            row.update(times=middle, times_quartiles=[low, high])
        rows.append(row)
    return rows, times.complete


def table(rows: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """The rows for people, with headings; ``times`` is the speed beside that of one such worker in the same round."""
    lines = [["case", "workers", "parallel", "exchange", "images/s", "times", "ms", "exchange ms", "bytes a step"]]
    for row in rows:
        several = row["workers"] > 1
        case = Case(**{name: row[name] for name in Case._fields})
        lines.append(
            [
                str(case),
                str(row["workers"]),
                row["parallel"] if several else "",
                row["used"] if several else "",
                f"{row['images_per_second']:,.0f}",
                _shown(row["times"], ".2f") if several else "",
                f"{row['ms']:.2f}",
                _shown(row["exchange_ms"], ".2f"),
                _shown(row["bytes"], ",.0f"),
            ]
        )
    return lines


def _middle(values: Sequence[float]) -> Any:
    return spread(values)[1] if values else None


def _shown(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
