"""The runs of tables and figures, several at once in processes: resumed after whatever has stopped them.

What is known of the runs lies in their folders alone. So a queue that was killed, or a machine that was switched
off, is started again by the same command: runs that have ended are left alone, those that a process of the first
queue still trains are waited for, and the others are begun or gone on with.

    FOLDER/                 DATASET-NETWORK-METHOD-sSEED-KEY
      .lock                 held by the process that trains, whoever started it
      .cores                those of that process, "0,1"
      log.txt               what it printed
      1/ 2/ ...             attempts, each a run folder; a second one only where the first cannot be gone on with

A lock of the operating system goes with the process that holds it, so that a killed run never looks alive.

The process of one run: ``python -m rbd_ipu.lab.pool CORES FOLDER KEY=VALUE...``. It keeps to its cores (``0,1``),
takes the lock of the job's folder and trains as ``rbd-ipu train`` does. A run that was cut short goes on; where that
is refused (it was killed before its first checkpoint), a new one begins beside it.
"""

import contextlib
import functools
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from rbd_ipu import files
from rbd_ipu.config import FIELDS, Config, from_assignments
from rbd_ipu.errors import ConfigError, exit_status
from rbd_ipu.files import locked
from rbd_ipu.lab.results import ENDED, duration, key
from rbd_ipu.process import divided, for_children, keep_to, stopped_by_sigterm, usable
from rbd_ipu.runs.train import go_on
from rbd_ipu.runs.train import train as train_run


class Job(NamedTuple):
    """One run to be made.

    Attributes:
      config: its settings.
      label: for people: table, cell and seed.
      folder: of its own.
    """

    config: Config
    label: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def words(self) -> List[str]:
        """``KEY=VALUE`` of every setting that is not at its default, for ``rbd-ipu train --set``."""
        given = {k: v for k, v in self.config.as_dict().items() if v != FIELDS[k]["default"]}
        return [f"{name}={_written(value)}" for name, value in given.items()]

    def ended(self) -> bool:
        """Whether an attempt has come to its end."""
        return any(outcome(attempt) in ENDED for attempt in attempts(self.folder))

    def epochs_done(self) -> int:
        """Finished epochs of the latest attempt."""
        latest = attempts(self.folder)[-1:]
        return _lines(latest[0] / "metrics.jsonl") if latest else 0

    def last_words(self) -> str:
        """The last line of the log that says something."""
        return last_words(self.log)


def last_words(log: Path) -> str:
    """The last line of a log that says something: an error of ours, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("rbd-ipu: ")]
        return (errors or lines or [""])[-1]
    return ""


def job(config: Config, label: str, queue: Path) -> Job:
    """The job of a run in the folder of a queue."""
    name = f"{config.dataset}-{config.network}-{config.method}-s{config.seed}-{key(config)}"
    return Job(config, label, queue / name)


def attempts(folder: Path) -> List[Path]:
    """The run folders in a job's folder, oldest first."""
    found = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def outcome(attempt: Path) -> Optional[str]:
    """The word of run.json for how a run ended; "running" also for one that was killed."""
    return files.found(attempt / "run.json").get("outcome")


def note_cores(folder: Path, cores: Sequence[int]) -> None:
    """Writes down where a run is trained, for a queue that finds it running."""
    (folder / ".cores").write_text(",".join(map(str, cores)), encoding="ascii")


def noted_cores(folder: Path) -> List[int]:
    """What :func:`note_cores` wrote; nothing where it has not."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return [int(core) for core in (folder / ".cores").read_text(encoding="ascii").split(",")]
    return []


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Taken(RuntimeError):
    """Another process trains this run."""


@contextlib.contextmanager
def claimed(folder: Path, patience: float = 1.0) -> Iterator[None]:
    """Holds a job's lock.

    Args:
      folder: of the job.
      patience: seconds to try for; a queue that only looks has the lock for a moment.

    Raises:
      Taken: somebody else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except ConfigError as error:
                if time.monotonic() >= until:
                    raise Taken(str(error)) from None
                time.sleep(0.05)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a process trains this run now."""
    if not folder.exists():
        return False
    try:
        with claimed(folder, patience=0.0):
            return False
    except Taken:
        return True


TAKEN = 75  # exit status: another process has this run
REFUSED = 2  # of rbd-ipu train: nothing was changed


def train(folder: Path, settings: Sequence[str]) -> int:
    """Trains one run under its lock; returns the exit status of ``rbd-ipu train``."""
    with claimed(folder):
        note_cores(folder, usable())
        done = attempts(folder)
        if any(outcome(attempt) in ENDED for attempt in done):
            return 0
        if done:
            words = ["train", "--quiet", "--resume", "--output", str(done[-1])]
            status = exit_status(functools.partial(go_on, {}, words, done[-1], quiet=True))
            if status != REFUSED:
                return status
        number = int(done[-1].name) + 1 if done else 1
        output = folder / str(number)
        words = ["train", "--quiet", *(word for setting in settings for word in ("--set", setting))]
        words += ["--output", str(output)]
        return exit_status(lambda: train_run(from_assignments(settings), words, output, quiet=True))


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs one command line."""
    cores, folder, *settings = sys.argv[1:] if arguments is None else arguments
    keep_to([int(core) for core in cores.split(",")])
    try:
        return train(Path(folder), settings)
    except Taken:
        return TAKEN


WORKER = ("-m", "rbd_ipu.lab.pool")  # what a process of a run is started with
POLL = 0.1  # seconds
REPORT = 30.0  # seconds between two lines of progress
ENDED_BY_SIGTERM = "ended by SIGTERM; what is done is kept, and the same command goes on"
Tell = Callable[[str], None]


class Failure(NamedTuple):
    """A run that ended without a result."""

    job: Job
    reason: str


class Running(NamedTuple):
    """A job that was begun: its process, None for one of another pool, and the slot that it has."""

    job: Any
    process: Optional["subprocess.Popen[bytes]"]
    slot: int
    began: float


class Pool:
    """Processes of this package, several at once, each held to a share of the cores of its own.

    Args:
      parallel: into how many shares the cores are divided.

    Attributes:
      slots: the cores by number of the slot; ``free``: the slots that have no process.
      running: what has been begun and not yet been given by :meth:`ended`.
    """

    def __init__(self, parallel: int):
        self.slots: Dict[int, List[int]] = dict(enumerate(divided(usable(), parallel)))
        self.free = sorted(self.slots)
        self.running: List[Running] = []

    def begin(self, job: Any, process: Optional["subprocess.Popen[bytes]"], slot: int) -> None:
        """Notes that a job has a slot now."""
        self.free.remove(slot)
        self.running.append(Running(job, process, slot, time.monotonic()))

    def start(self, slot: int, program: Sequence[str], words: Sequence[str], log: Path, tied: bool = False) -> Any:
        """A process of ``python PROGRAM CORES WORDS``, which writes into the log.

        Args:
          slot: of the cores.
          program: ``-m`` and a module, whose process holds itself to the cores.
          words: its other arguments.
          log: a file, which is gone on with.
          tied: whether its standard input is open until this process ends, so that it can end as well.
        """
        command = [sys.executable, *program, ",".join(map(str, self.slots[slot])), *words]
        # A session of its own: Ctrl-C reaches this process alone, and that passes it on once.
        with open(log, "ab") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=for_children(),
            )

    def ended(self) -> List[Running]:
        """Waits a moment; what has come to its end, whose slots are free again."""
        time.sleep(POLL)
        over = [entry for entry in self.running if self.is_over(entry)]
        for entry in over:
            self.running.remove(entry)
            self.free = sorted([*self.free, entry.slot])
            if entry.process is not None and entry.process.stdin is not None:
                entry.process.stdin.close()
        return over

    def is_over(self, entry: Running) -> bool:
        """Whether a job has ended."""
        return entry.process is None or entry.process.poll() is not None

    def stop(self, number: int) -> None:
        """Sends a signal to all processes of this pool, and waits for their end."""
        mine = [entry.process for entry in self.running if entry.process is not None]
        for process in mine:
            if process.poll() is None:
                process.send_signal(number)
        for process in mine:
            with process:  # closes its streams and waits
                pass


def run(jobs: Sequence[Job], parallel: int, seconds: Callable[[Config], float], say: Tell) -> List[Failure]:
    """Makes all runs that have not ended.

    Args:
      jobs: in the order in which they are begun.
      parallel: how many at once, the cores divided among them; 0: in this process, one after the other.
      seconds: what a run is expected to take.
      say: gets the lines of progress.

    Returns:
      the runs that failed; the others have ended.

    Raises:
      KeyboardInterrupt: Ctrl-C; the runs have stopped, with everything up to there on disk.
      SystemExit: SIGTERM; the same.
    """
    waiting = [job for job in jobs if not job.ended()]
    if parallel == 0:
        return _in_this_process(waiting, say)
    return _Queue(waiting, parallel, seconds, say).run()


def _in_this_process(jobs: Sequence[Job], say: Tell) -> List[Failure]:
    failures = []
    for number, job in enumerate(jobs, start=1):
        say(f"{number}/{len(jobs)}  {job.label}")
        job.folder.mkdir(parents=True, exist_ok=True)
        # What a run prints goes where that of a process goes; warnings stay on the screen.
        with open(job.log, "a", encoding="utf-8") as log, redirect_stdout(log):
            try:
                status = train(job.folder, job.words())
            except Taken as taken:
                raise ConfigError(f"{taken}. With --jobs 1 or more, this command waits for it") from None
        if status == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if status == 128 + signal.SIGTERM:
            say(ENDED_BY_SIGTERM)
            raise SystemExit(status)
        if not job.ended():
            failures.append(Failure(job, f"exit status {status}"))
            say(f"failed: {job.label}: exit status {status}")
    return failures


class _Queue(Pool):
    def __init__(self, jobs: List[Job], parallel: int, seconds: Callable[[Config], float], say: Tell):
        super().__init__(parallel)
        # Those that another queue's processes still train come first, so that their cores are known to be taken.
        self.waiting = sorted(jobs, key=lambda job: not is_claimed(job.folder))
        self.total = len(jobs)
        self.seconds, self.say = seconds, say
        self.failures: List[Failure] = []
        self.expected_so_far = self.taken_so_far = 0.0

    def run(self) -> List[Failure]:
        reported = time.monotonic()
        with stopped_by_sigterm():
            try:
                while self.waiting or self.running:
                    self._begin()
                    for entry in self.ended():
                        self._end(entry)
                    if time.monotonic() - reported > REPORT:
                        reported = time.monotonic()
                        self.say(self.progress())
            except KeyboardInterrupt:
                # They write what they have; a second Ctrl-C leaves them to themselves.
                self.stop(signal.SIGINT)
                raise
            except SystemExit:
                self.stop(signal.SIGTERM)
                self.say(ENDED_BY_SIGTERM)
                raise
        return self.failures

    def _begin(self) -> None:
        while self.waiting and self.free:
            job = self.waiting.pop(0)
            if job.ended():  # by another queue, meanwhile
                continue
            if is_claimed(job.folder):
                self.begin(job, None, self._slot_of(noted_cores(job.folder)))
            else:
                self.begin(job, self._start(job, self.free[0]), self.free[0])

    def _slot_of(self, cores: Sequence[int]) -> int:
        """The free slot that has most of these cores; of several, the last one."""
        return max(self.free, key=lambda slot: (len({*cores} & {*self.slots[slot]}), slot))

    def _start(self, job: Job, slot: int) -> "subprocess.Popen[bytes]":
        job.folder.mkdir(parents=True, exist_ok=True)
        return self.start(slot, WORKER, [str(job.folder.absolute()), *job.words()], job.log)

    def is_over(self, entry: Running) -> bool:
        return super().is_over(entry) and not is_claimed(entry.job.folder)

    def _end(self, entry: Running) -> None:
        job, taken = entry.job, time.monotonic() - entry.began
        if job.ended():
            self.expected_so_far += self.seconds(job.config)
            self.taken_so_far += taken
            self.say(f"{self.progress()}  ended: {job.label}, {duration(taken)}")
        elif entry.process is None or entry.process.returncode == TAKEN:
            self.waiting.insert(0, job)  # the other process has left it unfinished
        else:
            failure = Failure(job, job.last_words() or f"exit status {entry.process.returncode}")
            self.failures.append(failure)
            self.say(f"{self.progress()}  failed: {job.label}: {failure.reason} (see {job.log})")

    def progress(self) -> str:
        """Runs that are over, what runs now, and the time left."""
        over = self.total - len(self.waiting) - len(self.running)
        now = ", ".join(f"{e.job.label} {e.job.epochs_done()}/{e.job.config.epochs}" for e in self.running[:3])
        more = f" and {len(self.running) - 3} more" if len(self.running) > 3 else ""
        return f"[{over}/{self.total}] {duration(self.time_left())} left" + (f"; epochs: {now}{more}" if now else "")

    def time_left(self) -> float:
        """Seconds: what was expected of the rest, corrected by how long the runs so far took."""
        rest = sum(self.seconds(job.config) for job in self.waiting)
        for entry in self.running:
            config = entry.job.config
            rest += self.seconds(config) * (1 - min(1.0, entry.job.epochs_done() / config.epochs))
        pace = self.taken_so_far / self.expected_so_far if self.expected_so_far else 1.0
        return rest * pace / len(self.slots)


if __name__ == "__main__":
    sys.exit(main())
