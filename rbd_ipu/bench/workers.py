"""Workers: the same steps by 1, 2, ... K processes, each with an equal share of the cores, taking turns."""

import contextlib
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from rbd_ipu.bench.cases import TRAINER, Case
from rbd_ipu.bench.rounds import measure
from rbd_ipu.bench.rows import ratio, spread
from rbd_ipu.bench.team import Team, TeamSteps


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
    pairs: Sequence[Pair], rounds: int, seconds: float, tell: Callable[[str], None]
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
        times = measure(runners, rounds, seconds, tell)
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
