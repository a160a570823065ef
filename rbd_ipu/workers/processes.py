"""N processes on this machine that find each other: started together, watched, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Sequence

from rbd_ipu.cores import divided, usable
from rbd_ipu.workers import pairs, ports
from rbd_ipu.workers.task import RING, tf_config

LAST_WORDS = 20  # lines of the standard error that are kept of each worker


class Processes:
    """Workers 0 to N - 1, each a process with its share of the cores and connections to its neighbours.

    Nothing listens on a port. A context manager: leaving it ends those that still run.

    Args:
      command: what each of them runs, after the Python interpreter.
      count: N.
      environment: what is added to this process's environment.
      tf_cluster: connect them by ``TF_CONFIG`` instead, as a cluster does; they then listen on ports.
      shares: into how many parts the cores are cut, of which each worker gets one; N by default.
      inherited: file descriptors that the workers keep.
      **options: of ``subprocess.Popen`` for worker 0; the others' standard output goes nowhere.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        environment: Optional[Dict[str, str]] = None,
        tf_cluster: bool = False,
        shares: Optional[int] = None,
        inherited: Sequence[int] = (),
        **options: Any,
    ):
        cluster = [f"127.0.0.1:{port}" for port in ports.free(count)] if tf_cluster else []
        ends = [] if tf_cluster else pairs.ring(count)
        cores = divided(usable(), shares or count)
        self.first_failed: Optional[int] = None  # the worker that was found to have failed first
        self.overdue: List[int] = []  # those that did not end when others had failed, and were killed
        self.running: List[subprocess.Popen] = []
        self._words: List[Deque[str]] = [deque(maxlen=LAST_WORDS) for _ in range(count)]
        self._listeners: List[threading.Thread] = []
        for index in range(count):
            surroundings = {**os.environ, **(environment or {})}
            if tf_cluster:
                surroundings["TF_CONFIG"] = tf_config(index, cluster)
            sockets = [end.fileno() for end in ends[index]] if ends else []
            if ends:
                surroundings[RING] = ",".join(map(str, [index, count, *sockets]))
            # A child finds the package where this process did, installed or not.
            surroundings["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            surroundings["RBD_WORKER_CORES"] = ",".join(map(str, cores[index]))
            worker = subprocess.Popen(
                [sys.executable, "-m", "rbd_ipu.workers.member", *command],
                env=surroundings,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=[*sockets, *inherited],
                start_new_session=True,  # Ctrl-C reaches the parent, which passes it on
                **(options if index == 0 else {"stdout": subprocess.DEVNULL}),
            )
            self.running.append(worker)
            listener = threading.Thread(target=self._listen, args=(index, worker), daemon=True)
            listener.start()
            self._listeners.append(listener)
        for end in [end for both in ends for end in both]:
            end.close()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.kill()

    def statuses(self) -> List[Optional[int]]:
        """The exit status of each; None while it runs, negative for a signal."""
        return [worker.poll() for worker in self.running]

    def signal(self, number: int) -> None:
        """Passes a signal on to worker 0, which lets the others know."""
        if self.running and self.running[0].poll() is None:
            self.running[0].send_signal(number)

    def wait(self, grace: float = 10.0) -> List[int]:
        """Waits for all to end, and returns their exit statuses.

        Once one has failed, the others have ``grace`` seconds to notice and to write what they have; then they are
        killed.
        """
        deadline = None
        while True:
            found = self.statuses()
            if self.first_failed is None:
                self.first_failed = next((k for k, status in enumerate(found) if status), None)
            if None not in found:
                return [status for status in found if status is not None]
            if deadline is None and any(found):
                deadline = time.monotonic() + grace
            if deadline is not None and time.monotonic() > deadline:
                self.overdue = [k for k, status in enumerate(found) if status is None]
                self.kill()
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends all that still run, at once."""
        for worker in self.running:
            if worker.poll() is None:
                worker.kill()
        for worker in self.running:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
        for listener in self._listeners:
            listener.join(timeout=1.0)

    def last_words(self, index: int) -> str:
        """The end of what a worker wrote to its standard error."""
        self._listeners[index].join(timeout=1.0)
        return "".join(self._words[index]).strip()

    def _listen(self, index: int, worker: subprocess.Popen) -> None:
        assert worker.stderr
        for line in worker.stderr:
            self._words[index].append(line)
            if index == 0:
                sys.stderr.write(line)
        worker.stderr.close()


def ended(status: int) -> str:
    """An exit status in words.

    Example:
      >>> ended(-9), ended(3)
      ('was killed by SIGKILL', 'ended with status 3')
    """
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
