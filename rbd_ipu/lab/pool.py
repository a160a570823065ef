"""A queue of runs: several at once, each in a process of its own, resumed after whatever has stopped it.

What is known of the runs lies in their folders alone. So a queue that was killed, or a machine that was switched
off, is started again by the same command: runs that have ended are left alone, those that a process of the first
queue still trains are waited for, and the others are begun or gone on with.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from rbd_ipu.config import Config
from rbd_ipu.lab.jobs import TAKEN, Job, is_claimed, noted_cores, train
from rbd_ipu.lab.results import duration
from rbd_ipu.process import divided, usable
from rbd_ipu.provenance import PACKAGE

WORKER = ("-m", "rbd_ipu.lab.jobs")  # what a process of a run is started with
POLL = 0.1  # seconds
REPORT = 30.0  # seconds between two lines of progress
Tell = Callable[[str], None]


class Failure(NamedTuple):
    """A run that ended without a result."""

    job: Job
    reason: str


class _Running(NamedTuple):
    job: Job
    process: Optional["subprocess.Popen[bytes]"]  # None: of another queue
    slot: int
    began: float


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
            status = train(job.folder, job.words())
        if status == 130:
            raise KeyboardInterrupt
        if not job.ended():
            failures.append(Failure(job, f"exit status {status}"))
            say(f"failed: {job.label}: exit status {status}")
    return failures


class _Queue:
    def __init__(self, jobs: List[Job], parallel: int, seconds: Callable[[Config], float], say: Tell):
        # Those that another queue's processes still train come first, so that their cores are known to be taken.
        self.waiting = sorted(jobs, key=lambda job: not is_claimed(job.folder))
        self.total = len(jobs)
        self.slots: Dict[int, List[int]] = dict(enumerate(divided(usable(), parallel)))
        self.free = sorted(self.slots)
        self.seconds, self.say = seconds, say
        self.running: List[_Running] = []
        self.failures: List[Failure] = []
        self.expected_so_far = self.taken_so_far = 0.0

    def run(self) -> List[Failure]:
        reported = time.monotonic()
        try:
            while self.waiting or self.running:
                self._begin()
                time.sleep(POLL)
                for entry in [entry for entry in self.running if self._is_over(entry)]:
                    self._end(entry)
                if time.monotonic() - reported > REPORT:
                    reported = time.monotonic()
                    self.say(self.progress())
        except KeyboardInterrupt:
            self._stop()
            raise
        return self.failures

    def _begin(self) -> None:
        while self.waiting and self.free:
            job = self.waiting.pop(0)
            if job.ended():  # by another queue, meanwhile
                continue
            if is_claimed(job.folder):
                slot = self._slot_of(noted_cores(job.folder))
                process = None
            else:
                slot = self.free[0]
                process = self._start(job, slot)
            self.free.remove(slot)
            self.running.append(_Running(job, process, slot, time.monotonic()))

    def _slot_of(self, cores: Sequence[int]) -> int:
        """The free slot that has most of these cores; of several, the last one."""
        return max(self.free, key=lambda slot: (len({*cores} & {*self.slots[slot]}), slot))

    def _start(self, job: Job, slot: int) -> "subprocess.Popen[bytes]":
        job.folder.mkdir(parents=True, exist_ok=True)
        names = ",".join(map(str, self.slots[slot]))
        command = [sys.executable, *WORKER, str(job.folder.absolute()), names, *job.words()]
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        # A session of its own: Ctrl-C reaches the queue alone, and that passes it on once.
        with open(job.log, "ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )

    def _is_over(self, entry: _Running) -> bool:
        if entry.process is not None and entry.process.poll() is None:
            return False
        return not is_claimed(entry.job.folder)

    def _end(self, entry: _Running) -> None:
        self.running.remove(entry)
        self.free = sorted([*self.free, entry.slot])
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

    def _stop(self) -> None:
        """Asks the runs of this queue to stop and write what they have; a second Ctrl-C leaves them to themselves."""
        mine = [entry.process for entry in self.running if entry.process is not None]
        for process in mine:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in mine:
            process.wait()
