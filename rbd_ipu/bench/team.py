"""A team of processes as something to time: they wait between two rounds, so that teams can take turns.

:class:`TeamSteps` is the parent's side; :func:`main` is a worker's life.
"""

import json
import os
import sys
import tempfile
import threading
from typing import Any, Dict, List, NamedTuple

from rbd_ipu.bench.cases import WORKLOADS, Case
from rbd_ipu.config import ConfigError
from rbd_ipu.cores import divided, keep_to, usable
from rbd_ipu.records import strict_json

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
    """Starts the workers; ``run(steps)`` has them do so many, as :class:`rbd_ipu.bench.runners.Runner` does.

    A context manager: leaving it ends the workers.

    Attributes:
      turns: what worker 0 said of each turn: seconds, seconds and bytes of an exchange, and the exchange it was.
    """

    def __init__(self, case: Case, team: Team):
        from rbd_ipu.workers.launch import Launch

        self.case, self.team = case, team
        self.turns: List[Dict[str, Any]] = []
        cores = divided(usable(), team.shares)
        self._places = team.shares // team.workers
        self._folder = tempfile.TemporaryDirectory(prefix="rbd-team-")
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed on leaving)
        orders = os.path.join(self._folder.name, "orders")
        os.mkfifo(orders)
        settings = strict_json.line([case._asdict(), team._asdict(), cores, orders]).strip()
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
    from rbd_ipu.workers.ranks import Ranks, connect

    ranks: Ranks = connect(TURN_TIMEOUT)
    index = ranks.rank
    keep_to(cores[index])  # before TensorFlow counts them

    from rbd_ipu import methods, models
    from rbd_ipu.bench.runners import CLASSES, RATE, images
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
            print(strict_json.line({**said, "note": exchange.note}), end="", flush=True)


if __name__ == "__main__":
    main()
