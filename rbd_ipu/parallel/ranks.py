"""Ranks: the processes that a launcher of MPI has started, and what they say to each other, with deadlines.

MPI itself waits for ever for a process that is gone. Here every wait is a non-blocking operation that is asked for
its end until it has come or ``timeout`` seconds are over. A rank that waits for longer than a moment looks around:
has another one left a note that it stops, has a process of this machine died? When the time is over, it says which
ranks are missing: all others have told ranks 0 and 1 that they wait as well.
"""

import atexit
import contextlib
import ctypes
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import __version__
from rbd_ipu.errors import STATUS, ConfigError, WorkersError
from rbd_ipu.parallel.workers import Groups, launched, task, tree
from rbd_ipu.process import divided, keep_to, usable

TIMEOUT = 300.0  # seconds that a rank waits for the others, by default
GRACE = 5.0  # seconds that rank 0 has to write what it has, once a rank is lost
MOMENT = 0.2  # seconds between two looks around
# A rank asks without a pause at first, and then sleeps between two questions. Where ranks share a core, they sleep
# soon: it is for those who still compute. Once all have come, a message moves only while they ask.
_LARGE = 1 << 14  # bytes from which on a message takes several questions to arrive
_SPIN = 5e-3  # seconds without a pause where every rank has a core of its own
_SPIN_CROWDED = 5e-5  # where it has not
_SPIN_MOVING = 2e-2  # where all have come
_PAUSES = 2e-5, 2e-2  # seconds between two questions after that, at first and at most
_REPORTERS = (0, 1)  # the ranks that are told who waits
_STOPS, _WAITS = 1, 2  # tags of notes
_UP, _ACROSS, _DOWN = 3, 4, 5  # tags of messages of groups
_PR_SET_PDEATHSIG = 1  # of prctl(2)
#: What the launcher of this package tells its ranks: the descriptor to report on, and one of its standard output.
REPORT = "RBD_REPORT"

_connected: Optional["Ranks"] = None
_reports: Optional[int] = None  # the descriptor to report on


class Ranks:
    """This process and the others of ``MPI.COMM_WORLD``.

    Args:
      mpi: the module ``mpi4py.MPI``.
      timeout: seconds.

    Attributes:
      rank, size: k, 0 to K - 1, and K.
      neighbours: the process ids of the other ranks of this machine, by rank.
      local, locals: the place of this process among those of its machine, and their number.
      lost: the WorkersError that ended an operation; after it no other one is begun.
    """

    def __init__(self, mpi: Any, timeout: float = TIMEOUT):
        self.timeout = timeout
        self.lost: Optional[WorkersError] = None
        self._mpi = mpi
        self._world = mpi.COMM_WORLD
        # A note, or the end of a rank, must never be taken for a message.
        self._notes, self._ends = mpi.COMM_WORLD.Dup(), mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self._done = 0  # operations that are over
        self._ended, self._status = False, 0
        self._first_ended = False  # rank 0 has, and has written what it had
        self._sent: List[Any] = []  # notes that may be on their way
        self.neighbours: Dict[int, int] = {}
        self.local, self.locals = 0, 1
        self.crowded = False  # more ranks than cores on this machine

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    # --- operations: all ranks call the same ones in the same order --------------------------------------

    def gather(self, row: np.ndarray) -> np.ndarray:
        """Every rank's array, in the order of the ranks: [...] -> [K, ...]."""
        row = np.ascontiguousarray(row)
        rows = np.empty((self.size, *row.shape), row.dtype)
        all_are_here = self._arrive(row.nbytes)
        self._finish(self._world.Iallgather(_bytes(row), _bytes(rows)), all_are_here)
        return rows

    def total(self, vector: np.ndarray) -> np.ndarray:
        """The sum over the ranks by MPI's own reduction: [n] -> [n]. Its order is MPI's."""
        total = np.empty_like(vector, order="C")
        all_are_here = self._arrive(vector.nbytes)
        self._finish(self._world.Iallreduce(np.ascontiguousarray(vector), total), all_are_here)
        return total

    def collect(self, row: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
        """The arrays of a group, in the order of its ranks, on its leader, which is the first: [...] -> [G, ...].

        The others send theirs by :meth:`through_leaders`, which ends the operation on all ranks.
        """
        rows = np.empty((len(ranks), *row.shape), row.dtype)
        rows[0] = row
        self._finish(
            self._all([self._world.Irecv(_bytes(rows[i]), k, _UP) for i, k in enumerate(ranks) if i]), ends=False
        )
        return rows

    def through_leaders(self, row: np.ndarray, groups: Groups) -> np.ndarray:
        """What the last leaders have, in their order, on all ranks: [...] -> [R, ...].

        A rank that is none of these sends its array to its leader; the answer comes through a tree.
        """
        row = np.ascontiguousarray(row)
        first = self.rank - self.rank % groups.together  # the last leader of this rank
        parent, children = tree(self.rank - first, groups.together)
        rows = np.empty((groups.messages(self.size), *row.shape), row.dtype)
        if parent is None:
            rows[first // groups.together] = row
            others = [i for i in range(len(rows)) if i != first // groups.together]
            begun = [self._world.Isend(_bytes(row), i * groups.together, _ACROSS) for i in others]
            begun += [self._world.Irecv(_bytes(rows[i]), i * groups.together, _ACROSS) for i in others]
        else:
            begun = [
                self._world.Isend(_bytes(row), groups.leader(self.rank), _UP),
                self._world.Irecv(_bytes(rows), first + parent, _DOWN),
            ]
        self._finish(self._all(begun), ends=False)
        self._finish(self._all([self._world.Isend(_bytes(rows), first + child, _DOWN) for child in children]))
        return rows

    def from_first(self, data: bytes) -> bytes:
        """Rank 0's bytes, of a length that all know."""
        words = np.frombuffer(bytearray(data), np.uint8)
        self._finish(self._world.Ibcast(words, 0))
        return words.tobytes()

    def facts(self, own: Any) -> List[Any]:
        """Every rank's value, anything that JSON can hold, in the order of the ranks."""
        text = json.dumps(own).encode("utf-8")
        longest = int(self.gather(np.array([len(text)], np.int64)).max())
        row = np.zeros(longest, np.uint8)
        row[: len(text)] = np.frombuffer(text, np.uint8)
        return [json.loads(bytes(row).rstrip(b"\0").decode("utf-8")) for row in self.gather(row)]

    def compare(self, own: Mapping[str, Any]) -> None:
        """Refuses to go on where the ranks differ.

        Raises:
          ConfigError: they do; names each difference, with the value of rank 0 and that of the first rank that has
            another one.
        """
        rows = self.facts(json.loads(json.dumps(own, default=str)))
        differences = []
        for key in sorted({key for row in rows for key in row}):
            values = [row.get(key) for row in rows]
            other = next((k for k, value in enumerate(values) if value != values[0]), None)
            if other is not None:
                differences.append(f"{key}: {values[0]} on rank 0, {values[other]} on rank {other}")
        if differences:
            raise ConfigError(f"the {self.size} ranks are not alike: {'; '.join(differences)}")

    # --- waiting ---------------------------------------------------------------------------------------

    def _arrive(self, size: int) -> bool:
        """Waits for all ranks before a message of many bytes; whether all are here."""
        if size < _LARGE:
            return False
        self._finish(self._world.Ibarrier())
        return True

    def _all(self, requests: Sequence[Any]) -> "_All":
        return _All(self._mpi, requests)

    def _finish(self, request: Any, all_are_here: bool = False, ends: bool = True) -> None:
        """Waits for a request; ``ends`` says whether the operation is over with it, of which all count the same."""
        if self.lost is not None:
            raise self.lost
        try:
            if not request.Test():
                alone = _SPIN_CROWDED if self.crowded else _SPIN
                self._wait(request, _SPIN_MOVING if all_are_here else alone)
        except KeyboardInterrupt:  # what mpiexec.gforker sends when a rank has died
            self.look_around()
            raise
        self._done += ends

    def _wait(self, request: Any, spin: float) -> None:
        began = looked = time.monotonic()
        while not request.Test():
            now = time.monotonic()
            if now - began < spin:
                if self.crowded:  # what is waited for may need this core
                    os.sched_yield()
                continue
            time.sleep(min(max(_PAUSES[0], (now - began) / 100), _PAUSES[1]))
            if now - looked < MOMENT:
                continue
            if looked == began:  # the first look around
                for reporter in _REPORTERS[: self.size]:
                    if reporter != self.rank:
                        self._note(reporter, _WAITS, self._done)
                if self._ended:
                    why = f"it has ended with status {self._status}"
                    self._note_all({"why": why, "status": self._status or STATUS, "ended": True})
            looked = now
            self.look_around(now - began)

    def look_around(self, waited: float = 0.0) -> None:
        """Raises, and remembers it in ``lost``, if there is nothing more to wait for after so many seconds.

        Raises:
          WorkersError: a rank has ended or stopped, or the time is over; names it.
        """
        gone = [rank for rank, process in self.neighbours.items() if not alive(process)]
        for sender, note in self._read(_STOPS):  # after the look at the processes: a note comes before its end
            if not self._ended:
                self._first_ended = sender == 0 and note["ended"]
                self._lose(f"rank {sender} has stopped: {note['why']}", note["status"])
        if gone:
            self._lose(f"{_named(gone)} {'has' if len(gone) == 1 else 'have'} ended")
        if waited < self.timeout:
            return
        if self.rank in _REPORTERS:
            here = {sender for sender, done in self._read(_WAITS) if done >= self._done} | {self.rank}
            missing = [k for k in range(self.size) if k not in here]
            self._lose(f"no answer from {_named(missing)} for {waited:.3g} s")
        elif waited > self.timeout + GRACE:
            self._lose(f"no answer for {waited:.3g} s, and none from ranks 0 and 1, which would know from whom")

    def _lose(self, what: str, status: int = STATUS) -> None:
        self.lost = WorkersError(f"{self}: {what}; what was recorded before is kept")
        self.lost.status = status
        raise self.lost

    def _note(self, receiver: int, tag: int, content: Any) -> None:
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._notes.isend(content, receiver, tag))

    def _note_all(self, content: Any) -> None:
        for k in range(self.size):
            if k != self.rank:
                self._note(k, _STOPS, content)

    def _read(self, tag: int) -> Iterator[Tuple[int, Any]]:
        status = self._mpi.Status()
        while self._notes.iprobe(tag=tag, status=status):
            yield status.Get_source(), self._notes.recv(source=status.Get_source(), tag=tag)

    # --- the end ---------------------------------------------------------------------------------------

    def leave(self, why: str, status: int) -> None:
        """Leaves a note for all others: this rank does not come to their next operation."""
        if self.lost is None and not self._ended:
            self.lost = WorkersError(f"{self}: it has stopped: {why}")
            self.lost.status = status
            self._note_all({"why": why, "status": status, "ended": False})

    def end(self, status: int) -> None:
        """Ends the use of MPI, together with the others, before the process ends with this status.

        Where all have come to their end, MPI is shut down in order. Otherwise every process of the launcher is ended
        by ``MPI_Abort``: by rank 0 once it has written what it has, or by a rank that hears of rank 0's end, at the
        latest ``GRACE`` seconds after another rank has come here. The call then does not return.
        """
        if self._ended:
            return
        self._ended, self._status = True, status
        _report(f"{self.rank} ends {status}")
        for stream in (sys.stdout, sys.stderr):  # another rank may end this one from here on
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if self.lost is None:
            with contextlib.suppress(WorkersError):
                self._finish(self._ends.Ibarrier())
        if self.lost is None:
            with contextlib.suppress(ValueError):  # not in the main thread
                # mpiexec.gforker sends it when a rank is gone before the others: now that is as it should be.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._mpi.Finalize()
            return
        if self.rank and not self._first_ended:
            time.sleep(GRACE)
        self._world.Abort(status or self.lost.status)


def connect(timeout: float = TIMEOUT) -> Ranks:
    """The ranks of this process, which a launcher of MPI has started; MPI is started by the first call.

    Called before TensorFlow is used: where several ranks share a machine and its cores, each takes its part of them.

    Raises:
      ConfigError: mpi4py is missing; or its MPI is not the launcher's, so that it sees another number of processes;
        or the ranks have different versions of this package, Python, TensorFlow, NumPy or Numba.
    """
    global _connected
    if _connected is None:
        own = task() or launched(os.environ)
        if own is None or not own.mpi:
            raise ConfigError("no launcher of MPI has started this process; start it by `mpiexec -n K`")
        _meet_launcher(own.index)
        with _deadline(f"rank {own.index} of {own.workers}", timeout):
            mpi = _mpi()
        if mpi.COMM_WORLD.Get_size() != own.workers:
            raise ConfigError(
                f"{own.source} says that {own.workers} processes were started, but MPI sees "
                f"{mpi.COMM_WORLD.Get_size()}: the launcher belongs to another MPI than mpi4py has loaded, "
                f"{_library(mpi)}. Start it by the mpiexec of that one (with Slurm, srun --mpi=pmi2 may do)"
            )
        _connected = Ranks(mpi, timeout)
        _end_with_an_exception(_connected)
        _settle(_connected)
    _connected.timeout = timeout
    return _connected


def connected() -> Optional[Ranks]:
    """The ranks, where :func:`connect` has been called."""
    return _connected


def end(status: int) -> None:
    """:meth:`Ranks.end`, where there are ranks."""
    if _connected is not None:
        _connected.end(status)


def _mpi() -> Any:
    try:
        return importlib.import_module("mpi4py.MPI")
    except ImportError as error:
        raise ConfigError(
            "a launcher of MPI has started this process as one of several, which need mpi4py to find each other: "
            f'pip install "rbd-ipu[mpi]" ({error})'
        ) from error
    except RuntimeError as error:  # there is no library of MPI
        raise ConfigError(f'mpi4py finds no MPI: pip install "rbd-ipu[mpi]" brings one ({error})') from error


def _library(mpi: Any) -> str:
    return mpi.Get_library_version().replace("\0", "").splitlines()[0].strip()


@contextlib.contextmanager
def _deadline(who: str, timeout: float) -> Iterator[None]:
    """Ends this process by a child of it if what is inside takes too long: MPI_Init heeds no signal meanwhile."""
    said = f"rbd-ipu: {who}: not all ranks have come within {timeout:g} s\n"
    words = [sys.executable, "-I", "-S", "-c", _WATCH, str(timeout), said, str(os.getpid())]
    watch = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        watch.communicate()


_WATCH = """
import os, select, signal, sys
ready, _, _ = select.select([0], [], [], float(sys.argv[1]))
if not ready:
    os.write(2, sys.argv[2].encode())
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


class _All:
    """Several requests as one."""

    def __init__(self, mpi: Any, requests: Sequence[Any]):
        self._mpi, self._requests = mpi, list(requests)

    def Test(self) -> bool:
        return bool(self._mpi.Request.Testall(self._requests))


def _settle(ranks: Ranks) -> None:
    """Who is on this machine, which cores each takes, and whether all run the same software."""
    own = {"machine": _machine(), "process": os.getpid(), "cores": usable()}
    rows = ranks.facts(own)
    here = [k for k, row in enumerate(rows) if row["machine"] == own["machine"]]
    ranks.neighbours = {k: rows[k]["process"] for k in here if k != ranks.rank}
    ranks.local, ranks.locals = here.index(ranks.rank), len(here)
    if len(here) > 1 and all(rows[k]["cores"] == own["cores"] for k in here):  # the launcher has not dealt them
        ranks.crowded = len(here) > len(usable())
        keep_to(divided(usable(), len(here))[ranks.local])
    ranks.compare(_versions())


def _machine() -> str:
    """A name of this machine; two containers, which do not see each other's processes, are two."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _versions() -> Dict[str, str]:
    from importlib import metadata

    found = {"version of rbd_ipu": __version__, "version of Python": ".".join(map(str, sys.version_info[:2]))}
    packages = {"TensorFlow": ("tensorflow", "tensorflow-cpu"), "NumPy": ("numpy",), "Numba": ("numba",)}
    for package, names in packages.items():
        for name in names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[f"version of {package}"] = metadata.version(name)
                break
        else:
            found[f"version of {package}"] = "none"
    return found


def _end_with_an_exception(ranks: Ranks) -> None:
    """An exception that nobody catches, on one rank, ends all: they would wait for it otherwise."""
    before = sys.excepthook

    def hook(kind: Any, error: Any, trace: Any) -> None:
        before(kind, error, trace)
        status = getattr(error, "status", 1)
        why = traceback.format_exception_only(kind, error)[-1].strip()
        ranks.leave(why, status if isinstance(status, int) else 1)
        ranks.end(status)

    sys.excepthook = hook
    atexit.register(lambda: ranks.end(0))


def _meet_launcher(rank: int) -> None:
    """Rank 0 takes the output of this package's launcher, if that has started it; all ranks end when it does."""
    global _reports
    given = os.environ.pop(REPORT, "")
    if not given:
        return
    _reports, output = map(int, given.split(","))
    _report(f"{rank} is {os.getpid()}")  # before MPI starts, so that the launcher knows of one that dies there
    os.dup2(output if rank == 0 else os.open(os.devnull, os.O_WRONLY), 1)
    if sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    # What mpiexec.gforker sends, two seconds after a rank was lost: rank 0 is writing then, and the launcher waits.
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends, however that does; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _report(line: str) -> None:
    """Tells the launcher of this package, if it is the one, in one write that nobody else's can cut."""
    if _reports is not None:
        with contextlib.suppress(OSError):
            os.write(_reports, f"{line}\n".encode())


def alive(process: int) -> bool:
    """Whether a process of this machine runs, or is stopped: neither gone nor waiting to be buried by its parent.

    Example:
      >>> alive(os.getpid())
      True
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def _named(ranks: Sequence[int]) -> str:
    if not ranks:
        return "the others"
    some = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {some}" if len(ranks) == 1 else f"ranks {some}"


def _bytes(array: np.ndarray) -> np.ndarray:
    """The same memory as bytes, which every type has."""
    return array.reshape(-1).view(np.uint8)
