"""The life of a rank that trains nothing, and so needs no TensorFlow: WHAT FOLDER."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from rbd_ipu.errors import WorkersError
from rbd_ipu.parallel import ranks
from rbd_ipu.parallel.workers import Groups, launched

SIZES = (1, 7, 300_000)
#: What rank 1 gets, in the middle of the run.
ENDS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


def rows(size, n):
    return np.random.default_rng(n).standard_normal((size, n)).astype(np.float32)


def by_groups(here, row, groups):
    """The sums of the rows that each last leader stands for, on all ranks."""
    for level in range(1, groups.leads(here.rank) + 1):
        row = here.collect(row, groups.members(here.rank, level)).sum(axis=0)
    return here.through_leaders(row, groups)


def main():
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "late" and launched(os.environ).index == 1:
        time.sleep(60.0)
    what, _, in_groups = what.partition(" in ")
    here = ranks.connect(timeout=1.0 if what in ("late", "stopped") else 60.0)
    if what == "versions":
        return
    if what == "killed at the end":  # all is done, and the others wait in MPI's own end
        if here.rank == 1:
            here._mpi.Finalize = lambda: os.kill(os.getpid(), signal.SIGKILL)
        ranks.end(0)
        return
    found = {
        "process": os.getpid(),
        "local": here.local,
        "locals": here.locals,
        "cores": len(os.sched_getaffinity(0)),
    }
    if what == "collectives":
        for n in SIZES:
            mine = rows(here.size, n)[here.rank]
            found[f"gather {n}"] = bool((here.gather(mine) == rows(here.size, n)).all())
            found[f"total {n}"] = here.total(mine).astype(np.float64).tolist()[:7]
            groups = Groups(here.size, 1)
            found[f"groups {n}"] = bool((by_groups(here, mine, groups) == rows(here.size, n).sum(axis=0)).all())
        if here.size == 8:
            for groups in (Groups(2, 1), Groups(2, 2), Groups(2, 3), Groups(4, 1)):
                sums = by_groups(here, np.array([1 << here.rank]), groups)[:, 0]
                together = groups.together
                expected = [(2**together - 1) << (i * together) for i in range(8 // together)]
                found[f"{groups.size}, {groups.levels}"] = sums.tolist() == expected
        found["first"] = here.from_first(b"of rank %d" % here.rank).decode()
        found["facts"] = here.facts({"rank": here.rank, "text": "x" * here.rank})
    if what == "differs":
        try:
            here.compare({"dim": 250, "learning_rate": 2.0 if here.rank < 2 else 4.0})
        except ValueError as error:
            found["error"] = str(error)
    if what == "fails":
        here.gather(np.zeros(3))
        if here.rank == 1:
            raise ZeroDivisionError("on purpose")
    if what == "ends early" and here.rank == 1:
        sys.exit(0)
    if what not in ("collectives", "differs"):
        began = time.monotonic()
        (folder / f"{here.rank}.pid").write_text(str(os.getpid()))
        try:
            here.gather(np.full(5, here.rank))  # once this has come back, all are past `connect`
            if what in ENDS and here.rank == 1:
                os.kill(os.getpid(), ENDS[what])
            while True:
                if in_groups:
                    by_groups(here, np.full(5, here.rank), Groups(2, 1))
                else:
                    here.gather(np.full(5, here.rank))
        except WorkersError as error:
            found.update(error=str(error), seconds=time.monotonic() - began)
    (folder / f"{here.rank}.json").write_text(json.dumps(found))
    if what not in ("collectives", "differs"):
        sys.exit(5)


if __name__ == "__main__":
    main()
