"""Ranks on this machine: started by the mpiexec that comes with MPICH, watched, and never left behind.

``mpiexec.gforker`` makes them by fork and talks to them through pipes, and their messages go through shared memory,
so that nothing listens on any port. Its exit status says nothing of a rank that was killed; the ranks therefore
report here who they are and how they end, on a pipe.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

from rbd_ipu.errors import STATUS, ConfigError
from rbd_ipu.parallel.ranks import GRACE, REPORT, alive

LAUNCHER = "mpiexec.gforker"
#: Seconds from the loss of a rank to the end of all others; they end by themselves in GRACE.
PATIENCE = GRACE + 3.0
_LOOK = 0.1  # seconds between two looks
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def launcher() -> str:
    """The path of MPICH's launcher beside this Python, or on the path of programs.

    Raises:
      ConfigError: there is none, or no mpi4py; names what to install.
    """
    beside = Path(sys.executable).parent / LAUNCHER
    found = str(beside) if beside.exists() else shutil.which(LAUNCHER)
    if found is None or importlib.util.find_spec("mpi4py") is None:
        lacking = f"there is no {LAUNCHER}" if found is None else "mpi4py is not installed"
        raise ConfigError(
            f"several workers on this machine communicate by MPI, and {lacking}: pip install 'rbd-ipu[mpi]' brings "
            "both. With an MPI of your own, start them by its launcher: mpiexec -n K rbd-ipu train ..."
        )
    return found


class Launch:
    """K ranks of a Python module on this machine. A context manager: leaving it ends those that still run.

    Args:
      words: what ``python -m`` runs: a module and its arguments.
      count: K.
      environment: what is added to this process's environment.
      stdout: a descriptor for the standard output of rank 0; None: that of this process. The others have none.
      stderr: as of ``subprocess.Popen``, for all ranks.

    Attributes:
      processes: the process ids of the ranks that have come, by rank.
      statuses: the exit statuses of those that have ended in order, by rank, in the order in which they did.
      overdue: the ranks that did not end when another one was lost, and were killed.
    """

    def __init__(
        self,
        words: Sequence[str],
        count: int,
        environment: Optional[Mapping[str, str]] = None,
        stdout: Optional[int] = None,
        stderr: Any = None,
    ):
        self.count = count
        self.processes: Dict[int, int] = {}
        self.statuses: Dict[int, int] = {}
        self.overdue: List[int] = []
        self._segments: Set[str] = set()
        reports, theirs = os.pipe()
        output = os.dup(1 if stdout is None else stdout)
        surroundings = {**os.environ, **(environment or {}), REPORT: f"{theirs},{output}"}
        surroundings.setdefault("UCX_TLS", "posix,sysv,self")  # shared memory only
        # A child finds the package where this process did, installed or not.
        surroundings["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [launcher(), "-n", str(count), sys.executable, "-m", *words]
        if sys.platform == "linux":  # with the process that waits here mpiexec ends, and with mpiexec its ranks
            command = [sys.executable, "-I", "-S", "-c", _TIED, *command]
        try:
            self.mpiexec = subprocess.Popen(
                command,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs, output],
                start_new_session=True,  # Ctrl-C reaches this process, which passes it on
            )
        finally:
            os.close(theirs)
            os.close(output)
        self._reader = threading.Thread(target=self._read, args=(os.fdopen(reports),), daemon=True)
        self._reader.start()

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.kill()

    @property
    def lost(self) -> List[int]:
        """The ranks that have come and ended without a word."""
        return [k for k, process in sorted(self.processes.items()) if k not in self.statuses and not alive(process)]

    def wait(self) -> List[int]:
        """Waits for all to end; returns the ranks that were lost.

        Once a rank has ended, in whatever way, the others have ``PATIENCE`` seconds; then they are killed. (One that
        is killed when all is done leaves the others in MPI's own end for ever.)
        """
        deadline: Optional[float] = None
        lost: List[int] = []
        while self.mpiexec.poll() is None:
            lost = lost or self.lost
            if not self._segments and len(self.processes) == self.count:
                self._segments = _shared_memory(self.processes.values())
            ended = any(self.statuses.values()) or not all(map(alive, self.processes.values()))
            if deadline is None and (lost or ended):
                deadline = time.monotonic() + PATIENCE
            if deadline is not None and time.monotonic() > deadline:
                self.overdue = [k for k, process in sorted(self.processes.items()) if alive(process)]
                break
            time.sleep(_LOOK)
        self.kill()
        return lost or [k for k in range(self.count) if k not in self.statuses and k not in self.overdue]

    def signal(self, number: int) -> None:
        """Passes a signal on to rank 0, which lets the others know; to all, before it has come."""
        if 0 in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[0], number)
        else:
            self.kill()

    def kill(self) -> None:
        """Ends all that still run, at once."""
        for process in (self.mpiexec.pid, *self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process) == self.mpiexec.pid:  # the session that it and its ranks are
                    os.killpg(self.mpiexec.pid, signal.SIGKILL)
        self.mpiexec.wait()
        end = time.monotonic() + 1.0  # a signal takes its time
        while any(map(alive, self.processes.values())) and time.monotonic() < end:
            time.sleep(_LOOK / 10)
        self._reader.join(timeout=1.0)
        for segment in self._segments:  # MPICH takes them away only where all end in order
            with contextlib.suppress(OSError):
                os.unlink(segment)

    def _read(self, reports: Any) -> None:
        with reports:
            for line in reports:
                rank, what, number = line.split()
                (self.processes if what == "is" else self.statuses).setdefault(int(rank), int(number))


def _shared_memory(processes: Iterable[int]) -> Set[str]:
    """The files in which MPICH keeps the messages of these processes."""
    found: Set[str] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process}/maps").read_text(encoding="utf-8", errors="replace")
            found.update(line.split()[-1] for line in maps.splitlines() if "/dev/shm/mpich_shm_" in line)
    return {path for path in found if os.path.exists(path)}


def run(words: Sequence[str], count: int) -> int:
    """Runs ``python -m`` these words as so many ranks, passes signals on to them, and waits; returns the exit status.

    It is that of the rank whose error ended the others; 5 where a rank was lost; that of a signal which came before
    the ranks could act on it.
    """
    asked: List[int] = []
    with Launch(words, count) as ranks, _passing_on(ranks, asked):
        lost = ranks.wait()
        if lost and not asked:
            said = ", ".join(map(str, lost))
            print(f"rbd-ipu: lost of {count} ranks: {said} (killed, or ended without a word)", file=sys.stderr)
        late_ones = [k for k in ranks.overdue if ranks.statuses.get(k) != 0]  # the others have done their work
        for late in late_ones:
            print(f"rbd-ipu: rank {late} did not end within {PATIENCE:g} s and was killed", file=sys.stderr)
        failed = _cause(ranks.statuses.values())
        if asked and (lost or failed):
            return failed if failed == 128 + asked[0] else 128 + asked[0]
        return STATUS if lost else failed or (STATUS if late_ones else 0)


def _cause(statuses: Iterable[int]) -> int:
    """The status of the rank that failed first: those that end because of it say STATUS, maybe before it is gone.

    Example:
      >>> _cause([0, 5, 2]), _cause([0, 5]), _cause([0, 0])
      (2, 5, 0)
    """
    errors = [status for status in statuses if status]
    return next((status for status in errors if status != STATUS), errors[0] if errors else 0)


@contextlib.contextmanager
def _passing_on(ranks: Launch, asked: List[int]) -> Iterator[None]:
    """Gives the first Ctrl-C or SIGTERM to rank 0, which ends the run in order; the second one ends all at once."""

    def pass_on(number: int, *_: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            ranks.kill()
        else:
            ranks.signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
