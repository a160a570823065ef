"""Does a run survive kill -9 at any moment? Kills one at random moments, resumes it, and compares.

    python benchmarks/faults.py [--kills 50] [--seed 0] [--workers 1] [--set KEY=VALUE ...]

One run is left undisturbed. Another one, with the same settings, is killed (SIGKILL; with --workers above 1 the
launcher or one of its ranks, by chance) after a random time and started again with `--resume auto`, again and again;
when it comes to its end before the kills are used up, the next one begins. Each must end as the undisturbed one did:
weights and optimizer to the last bit, the same best weights, the same rows of metrics.jsonl and metrics.csv but for
times measured, the same result.json, and the same replay.log where there is one. Exit status 0 if they do, 1 if not.
Three kills of four come once the process has saved something, the fourth at any time after its start.

A run saves after every call of its loop, and a call takes about --call seconds, so that many of the kills fall into
the writing of a checkpoint. The processes are forked from one that has imported TensorFlow and done nothing with it;
with --workers above 1 they are started as from the command line.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from rbd_ipu.parallel.ranks import alive

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--kills", type=int, default=50)
ARGUMENTS.add_argument("--seed", type=int, default=0, help="of the moments")
ARGUMENTS.add_argument("--workers", type=int, default=1)
ARGUMENTS.add_argument("--epochs", type=int, default=30)
ARGUMENTS.add_argument("--longest", type=float, default=1.0, help="seconds before a kill, at most")
ARGUMENTS.add_argument("--call", type=float, default=0.001, help="seconds a call of the loop")
ARGUMENTS.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
ARGUMENTS.add_argument("--folder", type=Path, help="where to keep the runs; default: a temporary folder")
ARGUMENTS.add_argument("--output", type=Path, metavar="FILE.json", help="where to write what came of it")

SETTINGS = ["dim=10", "learning_rate=2**-1", "momentum=0.5", "checkpoint_seconds=0"]
# Measured by the process that ended the epoch: never twice the same, and nothing where it took no step of it.
MEASURED = ("seconds", "images_per_second", "exchange_seconds", "exchange_bytes", "exchange_bytes_sgd")
PATIENCE = 300.0  # seconds without an end: something hangs
LOST = 5  # the exit status of a run that has lost a rank


class Process:
    """A run in a process group of its own."""

    def __init__(self, number: int):
        self.number = number

    def ended(self, patience: float) -> Optional[int]:
        """Waits; the exit status (negative for a signal), or None if it is still running."""
        end = time.monotonic() + patience
        while True:
            done, status = os.waitpid(self.number, os.WNOHANG)
            if done:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            if time.monotonic() >= end:
                return None
            time.sleep(0.002)

    def kill(self, victim: int = 0) -> int:
        """SIGKILL to its first process, or to a rank that it has started, the victim-th of the family; its status.

        It may have ended just before.
        """
        family = [self.number, *ranks_of(self.number)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(family[victim % len(family)], signal.SIGKILL)
        status = self.ended(PATIENCE)
        if status is None:
            raise RuntimeError(f"process {self.number} outlived the loss of one of its family by {PATIENCE:g} s")
        end = time.monotonic() + 10.0
        while any(map(alive, family[1:])):
            if time.monotonic() > end:
                raise RuntimeError(f"a rank of process {self.number} outlived it by 10 s")
            time.sleep(0.01)
        return status


def ranks_of(launcher: int) -> List[int]:
    """The processes of the ranks that `rbd-ipu train --workers K` has started by mpiexec (Linux)."""

    def children(process: int) -> List[int]:
        return sorted(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))

    with contextlib.suppress(OSError):
        return [rank for mpiexec in children(launcher) for rank in children(mpiexec)]
    return []


def forked(words: List[str], log: Path, call: float) -> Process:
    """A child of this process, in which TensorFlow has been imported and nothing been run."""
    from rbd_ipu import cli, training

    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        _group(number)
        return Process(number)
    status = 70
    try:
        _group(0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        training.CALL_SECONDS = call
        status = cli.main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _group(number: int) -> None:
    with contextlib.suppress(OSError):  # parent and child both do this, whoever comes first
        os.setpgid(number, number)


def started(words: List[str], log: Path, call: float) -> Process:
    """A new process of the command line."""
    with open(log, "ab") as output:
        command = [sys.executable, "-m", "rbd_ipu", *words]
        return Process(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True).pid)


class Trial:
    """Runs of one set of settings, in folders beside each other."""

    def __init__(self, folder: Path, options: Any):
        self.folder, self.call = folder, options.call
        self.words = ["train", "--quiet"]
        if options.workers > 1:
            self.words += ["--workers", str(options.workers)]
        given = dict(text.split("=", 1) for text in [*SETTINGS, f"epochs={options.epochs}", *options.settings])
        self.settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        self.launch: Callable[[List[str], Path, float], Process] = started if options.workers > 1 else forked

    def start(self, name: str) -> Process:
        """Begins the run of that name, or goes on with it."""
        output = self.folder / name
        words = [*self.words, "--output", str(output), "--resume", "auto", *self.settings]
        self.log(name).write_bytes(b"")
        return self.launch(words, self.log(name), self.call)

    def finish(self, name: str) -> None:
        """Lets a run come to its end."""
        status: Optional[int] = None
        while status is None or self.busy(name, status):
            process = self.start(name)
            status = process.ended(PATIENCE)
            if status is None:
                process.kill()
                break
        self.check(name, status)

    def busy(self, name: str, status: int) -> bool:
        """Whether a run was refused because a worker of the one before has not yet noticed that it must end."""
        refused = status == 2 and "another run is at work" in self.last_words(name)
        if refused:
            time.sleep(0.2)
        return refused

    def check(self, name: str, status: Optional[int]) -> None:
        """Raises if a run ended with another status than 0."""
        if status != 0:
            raise RuntimeError(f"the run {name} ended with {status}:\n{self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of what the run has printed."""
        return self.log(name).read_text(errors="replace")[-3000:]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def saved(self, name: str) -> Set[Tuple[str, int]]:
        """The checkpoints of a run, each with the time of its writing."""
        found = set()
        for path in (self.folder / name / "checkpoints").glob("step-*"):
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                found.add((path.name, path.stat().st_mtime_ns))
        return found


def disturbed(trial: Trial, name: str, kills: int, longest: float, moments: random.Random) -> int:
    """Kills a run up to so many times, until it is finished; gives how many kills it took."""
    done = 0
    while done < kills:
        before = trial.saved(name)
        process = trial.start(name)
        status = None
        if moments.random() < 0.75:
            while status is None and not trial.saved(name) - before:
                status = process.ended(0.005)
        if status is None:
            status = process.ended(moments.uniform(0.0, longest))
        killed = status is None
        if status is None:
            status = process.kill(moments.randrange(3))
        if status == -signal.SIGKILL or (killed and status == LOST):
            done += 1
        elif not trial.busy(name, status):
            trial.check(name, status)
            return done
    trial.finish(name)
    return done


def left(folder: Path) -> Dict[str, Any]:
    """What a run left that must not depend on what befell it."""
    from rbd_ipu import checkpoints

    last = checkpoints.newest(folder / "checkpoints")
    if last is None:
        raise RuntimeError(f"{folder} has no checkpoint")
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = {f"{group}/{i}": a for group, arrays in last.arrays.items() for i, a in enumerate(arrays)}
    names = sorted(path.name for path in (folder / "checkpoints").iterdir() if not path.name.startswith("step-"))
    return {
        "step": last.step,
        "weights": {name: array.tobytes() for name, array in weights.items()},
        "metrics.jsonl": [_timeless(row) for row in rows],
        "metrics.csv": [_timeless(row) for row in table],
        "result.json": json.loads((folder / "result.json").read_text()),
        "replay.log": (folder / "replay.log").read_bytes() if (folder / "replay.log").exists() else b"",
        "outcome": json.loads((folder / "run.json").read_text())["outcome"],
        "names": names,
        **{name: _content(folder / "checkpoints" / name) for name in ("best.weights.h5", "last.weights.h5")},
    }


def _timeless(row: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in row.items() if name not in MEASURED}


def _content(path: Path) -> Dict[str, bytes]:
    """The arrays of an HDF5 file; its bytes hold times."""
    import h5py

    found: Dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if hasattr(item, "dtype") else None
        )
    return found


def main() -> int:
    """Kills, resumes, compares; returns the exit status."""
    options = ARGUMENTS.parse_args()
    moments = random.Random(options.seed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rbd-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    trial = Trial(folder, options)
    started_at = time.monotonic()
    trial.finish("undisturbed")
    expected = left(folder / "undisturbed")
    kills = runs = 0
    differences: List[str] = []
    while kills < options.kills:
        name = f"disturbed-{runs}"
        kills += disturbed(trial, name, options.kills - kills, options.longest, moments)
        found = left(folder / name)
        differences += [f"{name}: {part}" for part in expected if found[part] != expected[part]]
        runs += 1
        resumed = sum(
            len(json.loads((folder / f"disturbed-{i}" / "run.json").read_text())["resumed"]) for i in range(runs)
        )
        seconds = time.monotonic() - started_at
        said = f"{kills} kills of {runs} runs (seed {options.seed}), {resumed} resumed from a checkpoint"
        print(f"{said}, {seconds:.0f} s", flush=True)
        if options.output:  # after each run, so that nothing is lost where this is cut short
            from rbd_ipu import provenance

            found = {"kills": kills, "runs": runs, "resumed": resumed, "seconds": seconds, "differences": differences}
            about = {"command": " ".join(["benchmarks/faults.py", *sys.argv[1:]]), **provenance.origin()}
            options.output.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    print("\n".join(f"differs from the undisturbed run: {text}" for text in differences) or "no bit differs")
    if options.folder is None and not differences:
        shutil.rmtree(folder)
    return 1 if differences else 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
